"""Mindprint's trainer in a process of its own: the other side of trainer.py. Speaks as trl_sft.py does."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from peers.trl_sft import peak_mib


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    print(json.dumps(train(job)), file=answers, flush=True)


def train(job: dict[str, Any]) -> dict[str, Any]:
    from mindprint.types import Lease
    from mindprint_trainer.model.base_model import load_base_model
    from mindprint_trainer.settings import Settings
    from mindprint_trainer.training.multi_adapter import Callbacks
    from mindprint_trainer.training.multi_adapter import train_adapter as train_lease
    from mindprint_trainer.training.run import StepReport

    settings = Settings.model_validate(job["settings"])
    base = load_base_model(Path(job["model"]), "sha256:base", settings)
    lease = Lease.model_validate(job["lease"])
    told: list[tuple[float, dict[str, float]]] = []

    def tell(step: StepReport) -> None:
        told.append((time.perf_counter(), step.losses))

    before = peak_mib()
    began = time.perf_counter()
    train_lease(base, lease, settings, Callbacks(on_step=tell))
    seconds = told[-1][0] - began  # as with the other side, without what comes after the last step
    each_epoch = len(told) // settings.epochs
    return {
        "seconds": seconds,
        "losses": [value for start in range(0, len(told), each_epoch) for value in steps(told[start:][:each_epoch])],
        "peak_mib": peak_mib(job["device"]),
        "before_mib": before,
    }


def steps(told: list[tuple[float, dict[str, float]]]) -> list[float]:
    """The loss of each step, from the means of an epoch so far: all steps have equally many segments of one kind."""
    means = [losses["fast_answer"] for _, losses in told]
    pairs = zip(means, [0.0, *means[:-1]], strict=True)
    return [count * mean - (count - 1) * before for count, (mean, before) in enumerate(pairs, start=1)]


if __name__ == "__main__":
    main()
