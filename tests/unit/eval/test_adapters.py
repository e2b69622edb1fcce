"""How an evaluation waits for its trainer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mindprint.local import stalls
from mindprint.local.console import Output
from mindprint_eval import adapters
from mindprint_eval.adapters import AdapterBuilder
from mindprint_eval.arms import RECIPES
from mindprint_eval.config import EvalOptions, EvaluationError


class Trainer:
    """A trainer that says what a test lets it say. Each question takes an hour."""

    def __init__(self, *events: str) -> None:
        self.events = list(events)
        self.said = ""
        self.hours = 0
        self.code = 0
        self.log = Path("trainer.log")

    def running(self) -> bool:
        return bool(self.events)

    def doing(self) -> str:
        self.hours += 1
        self.said = self.events.pop(0)
        return self.said


class Client:
    """A server without adapters."""

    def __init__(self) -> None:
        self.adapters = self
        self.asked = 0

    async def list(self) -> Any:
        self.asked += 1
        return SimpleNamespace(adapters=[], next=None)


async def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trainer: Trainer) -> Client:
    """Wait for the trainer with a limit of two hours without progress."""
    monkeypatch.setattr(adapters, "TRAINING_POLL_S", 0)
    monkeypatch.setattr(
        adapters, "Progress", lambda timeout_s: stalls.Progress(timeout_s, clock=lambda: 3600.0 * trainer.hours)
    )
    client = Client()
    cluster: Any = SimpleNamespace(folder=tmp_path, start_trainer=lambda *_: trainer)
    builder = AdapterBuilder(EvalOptions(data=tmp_path, train_timeout_s=7200), Output(), client, cluster, 0)  # type: ignore[arg-type]

    async def none(_: str) -> None:
        return None

    monkeypatch.setattr(builder, "_adapter", none)
    await builder._train(next(iter(RECIPES.values())), ["user/ann"], {})
    return client


async def test_a_check_that_takes_hours_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a version for `train_timeout_s` the training counted as failed, whatever the server did."""
    trainer = Trainer("training step=1/9", *["check: the gate evaluates it adapter=user/ann"] * 9, "version 1")
    assert (await trained(monkeypatch, tmp_path, trainer)).asked == 11


async def test_steps_of_a_long_training_are_progress(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trainer = Trainer(*(f"training step={step}/9" for step in range(9)))
    await trained(monkeypatch, tmp_path, trainer)


async def test_a_trainer_that_stands_still_ends_the_evaluation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trainer = Trainer(*["training step=1/9"] * 9)
    with pytest.raises(EvaluationError, match=r"no progress for 7200 s .*: the cause is in trainer\.log"):
        await trained(monkeypatch, tmp_path, trainer)
