"""Tasks that the supervisor does not start: each has another one that waits for it and sees its error."""

from __future__ import annotations

import ast
from pathlib import Path

import mindprint_server

SERVER = Path(mindprint_server.__file__).parent
STARTERS = ("create_task", "ensure_future")
AWAITED = {
    "access.py": "the time of a key's use, which the next use stores again",
    "adapters/artifacts.py": "requests wait for a fetch; an eviction logs its error",
    "adapters/residency.py": "requests wait for a load; an unloading reports its error to the supervisor",
    "app.py": "the start-up, whose failure ends the process",
    "chat/service.py": "the request waits for the recall",
    "chat/streaming.py": "the request waits for its work and for the caller's disconnect",
    "engine/process_records.py": "the recording of processes, which is done once more at its end",
    "engine/vllm.py": "the health check, whose failure is the engine's death",
    "generation/batch_runner.py": "work on items, whose failure ends the batch",
    "generation/batch_watchers.py": "the poller of a batch, whose error its watchers raise",
    "generation/engagement.py": "candidates, which their engagement waits for",
    "operation/readiness.py": "the ping, which the probe looks at",
    "operation/supervision.py": "the supervisor itself",
    "process.py": "the server, which the process waits for",
    "store/database.py": "a transaction, which its caller waits for",
    "training_data/replay.py": "replays in a group, which their job waits for",
}
"""Modules that start tasks by themselves, and why no error of these is lost."""


def starts_tasks(file: Path) -> bool:
    calls = (node.func for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call))
    return any(isinstance(called, ast.Attribute) and called.attr in STARTERS for called in calls)


def test_every_other_task_is_started_by_the_supervisor() -> None:
    found = {str(file.relative_to(SERVER)) for file in SERVER.rglob("*.py") if starts_tasks(file)}
    assert found - set(AWAITED) == set(), "start a background task with Supervisor.start_loop or start_job"
    assert set(AWAITED) - found == set()


def test_no_wait_can_lose_a_cancellation() -> None:
    """`asyncio.wait_for` of Python 3.11 drops one that comes together with the result: a loop then never stops."""
    found = [str(file.relative_to(SERVER)) for file in SERVER.rglob("*.py") if "wait_for(" in file.read_text("utf-8")]
    assert found == [], "use `async with asyncio.timeout(...)`"
