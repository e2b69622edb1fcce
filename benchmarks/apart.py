"""Runs a script in a process of its own: a line of JSON in, a line of JSON out."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from harness import CannotMeasure


async def ask(script: str, job: dict[str, Any]) -> dict[str, Any]:
    """The reply of a script beside this one. Raises CannotMeasure with the end of its log when it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name(script)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Threads that sleep while they wait, as in the trainer's own process: it is kinder to both on a shared machine.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "passive"},
    )
    output, errors = await process.communicate(json.dumps(job).encode() + b"\n")
    if process.returncode:
        raise CannotMeasure(f"{script} ended with {process.returncode}: {errors.decode(errors='replace')[-300:]}")
    reply: dict[str, Any] = json.loads(output)
    return reply
