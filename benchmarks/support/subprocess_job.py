"""Runs a script in a process of its own: a line of JSON in, a line of JSON out."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from support.harness import CannotMeasure

FOLDER = Path(__file__).resolve().parent.parent
"""Where `peers` and `support` lie: child processes start there, so that they find both."""


async def run_job(module: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run a module of `peers` as a script and return its reply.

    Raises:
        CannotMeasure: It failed; the message quotes the end of its log.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        cwd=FOLDER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Threads that sleep while they wait, as in the trainer's own process: it is kinder to both on a shared machine.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "passive"},
    )
    output, errors = await process.communicate(json.dumps(job).encode() + b"\n")
    if process.returncode:
        raise CannotMeasure(f"{module} ended with {process.returncode}: {errors.decode(errors='replace')[-300:]}")
    reply: dict[str, Any] = json.loads(output)
    return reply
