"""Loggers of training curves: TensorBoard files, and Weights & Biases. A logger that fails never stops a training."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from mindprint_trainer.errors import TrainerError
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.run import StepReport


class ExperimentLogger(Protocol):
    """Writes the curves of training runs somewhere."""

    def log(self, report: StepReport, values: dict[str, float]) -> None:
        """Write the values of one optimizer step."""
        ...

    def close(self, lease_id: str) -> None:
        """Finish the curves of one lease."""
        ...


class TensorBoardLogger:
    """Writes TensorBoard files, in a folder for each training, named by adapter and lease."""

    def __init__(self, folder: Path) -> None:
        self._open = _import_optional("torch.utils.tensorboard", "tensorboard", "tensorboard_dir").SummaryWriter
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def log(self, report: StepReport, values: dict[str, float]) -> None:
        """Write the values of one optimizer step."""
        if (writer := self._writers.get(report.lease_id)) is None:
            name = f"{report.adapter.replace('/', '-')}-{report.lease_id}"
            writer = self._writers[report.lease_id] = self._open(str(self._folder / name))
        for name, value in values.items():
            writer.add_scalar(name, value, report.step)

    def close(self, lease_id: str) -> None:
        """Finish the curves of one lease."""
        if (writer := self._writers.pop(lease_id, None)) is not None:
            writer.close()


class WandbLogger:
    """Reports to Weights & Biases, one run for each training."""

    def __init__(self, project: str, recipe: dict[str, Any]) -> None:
        self._wandb = _import_optional("wandb", "wandb", "wandb_project")
        self._project, self._recipe = project, recipe
        self._runs: dict[str, Any] = {}

    def log(self, report: StepReport, values: dict[str, float]) -> None:
        """Write the values of one optimizer step."""
        if (run := self._runs.get(report.lease_id)) is None:
            run = self._runs[report.lease_id] = self._wandb.init(
                project=self._project,
                name=report.adapter,
                config=self._recipe | {"lease": report.lease_id},
                reinit="create_new",
            )
        run.log(values, step=report.step)

    def close(self, lease_id: str) -> None:
        """Finish the curves of one lease."""
        if (run := self._runs.pop(lease_id, None)) is not None:
            run.finish()


class ExperimentLoggers:
    """All experiment loggers that the settings ask for. One that fails is reported once and then left out."""

    def __init__(self, settings: Settings, on_event: Callable[..., None]) -> None:
        """Create the loggers.

        Raises:
            TrainerError: The package of a logger is not installed.
        """
        self._on_event = on_event
        self._loggers: list[ExperimentLogger] = []
        if settings.tensorboard_dir is not None:
            self._loggers.append(TensorBoardLogger(settings.tensorboard_dir))
        if settings.wandb_project is not None:
            self._loggers.append(WandbLogger(settings.wandb_project, settings.recipe()))

    def step(self, report: StepReport) -> None:
        """Log the losses, in nats a token, and the speed of a step. A training's last step closes its curves."""
        speed = (report.tokens - report.resumed_tokens) / max(report.seconds, 1e-9)
        values = {f"loss/{name}": value for name, value in report.losses.items()} | {"tokens_per_second": speed}
        for logger in list(self._loggers):
            try:
                logger.log(report, values)
                if report.step == report.steps:
                    logger.close(report.lease_id)
            except Exception as error:
                self._loggers.remove(logger)
                self._on_event(
                    "an experiment logger failed and is left out", logger=type(logger).__name__, error=str(error)
                )


def _import_optional(module: str, package: str, setting: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TrainerError(
            f"MINDPRINT_TRAIN_{setting.upper()} needs {package}, which is not installed: pip install {package}"
        ) from error
