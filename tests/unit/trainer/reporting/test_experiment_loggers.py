"""With stand-ins for the two packages: neither need be installed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mindprint_trainer.errors import TrainerError
from mindprint_trainer.reporting.experiment_loggers import ExperimentLoggers
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.run import StepReport

REPORT = StepReport("user/anna", 1, 2, 100, 200, 0.5, {"slow_thinking": 2.5, "fast_answer": 1.5}, lease_id="l1")


def nobody(event: str, **_: Any) -> None:
    raise AssertionError(event)


class Recorder:
    def __init__(self, *told: Any, **more: Any) -> None:
        self.told, self.more = told, more
        self.values: list[Any] = []
        self.closed = False

    def add_scalar(self, *value: Any) -> None:
        self.values.append(value)

    def log(self, values: dict[str, float], step: int) -> None:
        self.values.append((values, step))

    def close(self) -> None:
        self.closed = True

    finish = close


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """The writers and runs that were opened."""
    opened: list[Recorder] = []

    def make(*told: Any, **more: Any) -> Recorder:
        opened.append(Recorder(*told, **more))
        return opened[-1]

    tensorboard, wandb = ModuleType("torch.utils.tensorboard"), ModuleType("wandb")
    tensorboard.SummaryWriter = make  # type: ignore[attr-defined]
    wandb.init = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tensorboard)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return opened


def test_tensorboard_gets_a_folder_for_each_training(made: list[Recorder], settings: Settings, tmp_path: Path) -> None:
    boards = ExperimentLoggers(settings.model_copy(update={"tensorboard_dir": tmp_path}), nobody)
    boards.step(REPORT)
    boards.step(replace(REPORT, lease_id="l2"))
    boards.step(replace(REPORT, step=2))
    assert [one.told for one in made] == [(str(tmp_path / "user-anna-l1"),), (str(tmp_path / "user-anna-l2"),)]
    assert [one.closed for one in made] == [True, False]
    assert made[0].values[:3] == [
        ("loss/slow_thinking", 2.5, 1),
        ("loss/fast_answer", 1.5, 1),
        ("tokens_per_second", 200.0, 1),
    ]


def test_weights_and_biases_gets_a_run_for_each_training(made: list[Recorder], settings: Settings) -> None:
    boards = ExperimentLoggers(settings.model_copy(update={"wandb_project": "mine"}), nobody)
    boards.step(REPORT)
    boards.step(replace(REPORT, step=2))
    (run,) = made
    assert (run.more["project"], run.more["name"], run.closed) == ("mine", "user/anna", True)
    assert run.more["config"]["rank"] == settings.rank
    assert run.values[0] == ({"loss/slow_thinking": 2.5, "loss/fast_answer": 1.5, "tokens_per_second": 200.0}, 1)


def test_none_is_loaded_unless_asked_for(settings: Settings) -> None:
    ExperimentLoggers(settings, nobody).step(REPORT)
    assert "wandb" not in sys.modules


def test_one_that_is_not_installed_is_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainerError, match="TENSORBOARD_DIR needs tensorboard, which is not installed"):
        ExperimentLoggers(settings.model_copy(update={"tensorboard_dir": tmp_path}), nobody)


def test_failing_logger_is_reported_once_and_left_out(
    made: list[Recorder], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    boards = ExperimentLoggers(
        settings.model_copy(update={"wandb_project": "p"}), lambda event, **more: told.append((event, more))
    )

    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(sys.modules["wandb"], "init", broken)
    boards.step(REPORT)
    boards.step(replace(REPORT, step=2))
    assert told == [("an experiment logger failed and is left out", {"logger": "WandbLogger", "error": "no network"})]
