"""One user's adapter in a process of its own, as a script for each user would train it: a side of many_users.py."""

from __future__ import annotations

import json
import os
import sys
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
    """Train the job's lease, and return its manifest and the peak memory."""
    from mindprint.types import Lease
    from mindprint_trainer.model.base_model import load_base_model
    from mindprint_trainer.settings import Settings
    from mindprint_trainer.training.multi_adapter import train_adapter

    settings = Settings.model_validate(job["settings"])
    base = load_base_model(Path(job["model"]), job["digest"], settings)
    trained = train_adapter(base, Lease.model_validate(job["lease"]), settings)
    return {"manifest": trained.manifest.model_dump(mode="json"), "peak_mib": peak_mib()}


if __name__ == "__main__":
    main()
