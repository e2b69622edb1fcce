"""Curves for those who want them: TensorBoard files, and Weights & Biases. Neither may ever disturb a training."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from mindprint_trainer.errors import TrainerError
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.run import StepReport


class ExperimentLogger(Protocol):
    def log(self, report: StepReport, values: dict[str, float]) -> None: ...

    def close(self, lease_id: str) -> None: ...


class TensorBoardLogger:
    """A folder for each training, named by adapter and lease."""

    def __init__(self, folder: Path) -> None:
        self._open = _import_optional("torch.utils.tensorboard", "tensorboard", "tensorboard_dir").SummaryWriter
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def log(self, report: StepReport, values: dict[str, float]) -> None:
        if (writer := self._writers.get(report.lease_id)) is None:
            name = f"{report.adapter.replace('/', '-')}-{report.lease_id}"
            writer = self._writers[report.lease_id] = self._open(str(self._folder / name))
        for name, value in values.items():
            writer.add_scalar(name, value, report.step)

    def close(self, lease_id: str) -> None:
        if (writer := self._writers.pop(lease_id, None)) is not None:
            writer.close()


class WandbLogger:
    """A run for each training."""

    def __init__(self, project: str, recipe: dict[str, Any]) -> None:
        self._wandb = _import_optional("wandb", "wandb", "wandb_project")
        self._project, self._recipe = project, recipe
        self._runs: dict[str, Any] = {}

    def log(self, report: StepReport, values: dict[str, float]) -> None:
        if (run := self._runs.get(report.lease_id)) is None:
            run = self._runs[report.lease_id] = self._wandb.init(
                project=self._project,
                name=report.adapter,
                config=self._recipe | {"lease": report.lease_id},
                reinit="create_new",
            )
        run.log(values, step=report.step)

    def close(self, lease_id: str) -> None:
        if (run := self._runs.pop(lease_id, None)) is not None:
            run.finish()


class ExperimentLoggers:
    """All that are asked for. One that fails is told of once and left out from then on."""

    def __init__(self, settings: Settings, say: Callable[..., None]) -> None:
        """Raises TrainerError when one is asked for that is not installed."""
        self._say = say
        self._boards: list[ExperimentLogger] = []
        if settings.tensorboard_dir is not None:
            self._boards.append(TensorBoardLogger(settings.tensorboard_dir))
        if settings.wandb_project is not None:
            self._boards.append(WandbLogger(settings.wandb_project, settings.recipe()))

    def step(self, report: StepReport) -> None:
        """Losses in nats a token by segment, and speed; the training's board is closed with its last step."""
        speed = (report.tokens - report.resumed_tokens) / max(report.seconds, 1e-9)
        values = {f"loss/{name}": value for name, value in report.losses.items()} | {"tokens_per_second": speed}
        for board in list(self._boards):
            try:
                board.log(report, values)
                if report.step == report.steps:
                    board.close(report.lease_id)
            except Exception as error:
                self._boards.remove(board)
                self._say("a board failed and is left out", board=type(board).__name__, error=str(error))


def _import_optional(module: str, package: str, setting: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TrainerError(
            f"MINDPRINT_TRAIN_{setting.upper()} needs {package}, which is not installed: pip install {package}"
        ) from error
