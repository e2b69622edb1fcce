"""Mindprint's trainer in a process of its own: a side of trainer.py, with the same input and output as trl_sft.py."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from peers.trl_sft import peak_mib


def main() -> None:
    """Read a job from stdin, train, and print the result as JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever else is printed goes to the log.
    job = json.loads(sys.stdin.readline())
    print(json.dumps(train(job)), file=answers, flush=True)


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train the job's lease, and return seconds of the steps, the loss of each step, and the peak memory."""
    from mindprint.types import Lease
    from mindprint_trainer.model.base_model import load_base_model
    from mindprint_trainer.settings import Settings
    from mindprint_trainer.training.multi_adapter import Callbacks, train_adapter
    from mindprint_trainer.training.run import StepReport

    settings = Settings.model_validate(job["settings"])
    base = load_base_model(Path(job["model"]), "sha256:base", settings)
    lease = Lease.model_validate(job["lease"])
    reports: list[tuple[float, dict[str, float]]] = []

    def record(step: StepReport) -> None:
        reports.append((time.perf_counter(), step.losses))

    before = peak_mib()
    began = time.perf_counter()
    train_adapter(base, lease, settings, Callbacks(on_step=record))
    seconds = reports[-1][0] - began  # Without what comes after the last step, as on the other side.
    steps = len(reports) // settings.epochs
    return {
        "seconds": seconds,
        "losses": [loss for start in range(0, len(reports), steps) for loss in step_losses(reports[start:][:steps])],
        "peak_mib": peak_mib(job["device"]),
        "before_mib": before,
    }


def step_losses(reports: list[tuple[float, dict[str, float]]]) -> list[float]:
    """Compute the loss of each step from the running means of an epoch, whose steps have equally many segments."""
    means = [losses["fast_answer"] for _, losses in reports]
    pairs = zip(means, [0.0, *means[:-1]], strict=True)
    return [count * mean - (count - 1) * before for count, (mean, before) in enumerate(pairs, start=1)]


if __name__ == "__main__":
    main()
