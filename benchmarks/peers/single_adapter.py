"""One user's adapter in a process of its own, as a script for each user would make it: a side of many_users.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from peers.trl_sft import peak_mib


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to the log
    job = json.loads(sys.stdin.readline())
    print(json.dumps(train(job)), file=answers, flush=True)


def train(job: dict[str, Any]) -> dict[str, Any]:
    from mindprint.types import Lease
    from mindprint_trainer.model.base_model import load_base_model
    from mindprint_trainer.settings import Settings
    from mindprint_trainer.training.multi_adapter import Callbacks
    from mindprint_trainer.training.multi_adapter import train_adapter as train_lease

    settings = Settings.model_validate(job["settings"])
    base = load_base_model(Path(job["model"]), job["digest"], settings)
    made = train_lease(base, Lease.model_validate(job["lease"]), settings, Callbacks())
    return {"manifest": made.manifest.model_dump(mode="json"), "peak_mib": peak_mib()}


if __name__ == "__main__":
    main()
