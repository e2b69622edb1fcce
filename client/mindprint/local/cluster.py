"""A server and its trainers as child processes of this one: for the demo, the evaluation, benchmarks and tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from mindprint.async_client import AsyncMindprintClient
from mindprint.local.console import Output
from mindprint.local.processes import GRACE_S, Child, Processes, ProcessFailed, free_port

POLL_S = 0.5
TRAINING_POLL_S = 2.0
"""Seconds between two looks at a training. Each is a few requests, which the server logs."""
START_TIMEOUT_S = 300.0
TRAINER_STOP_S = 10.0
"""Seconds from the request to stop a trainer until the kill."""
EXHAUSTIVE_SETTINGS = {"EXHAUSTIVE": "true", "CANDIDATES": "4", "UNHINTED_CANDIDATES": "3"}
"""Server settings for users with few engagements, where every trace counts (docs/decisions/006)."""


class LocalCluster:
    """Run one server and any number of trainers on this machine. Leaving the `with` block ends them all.

    Logs, the store and adapters lie in one folder; a server that is started again finds its data there. The server
    listens on a free port of the loopback address.

    Attributes:
        folder: Holds `<name>.log` of each process, and the server's data in `server/`.
        processes: Starts other child processes that belong to the same run.
        url: The server's address.
    """

    def __init__(self, folder: Path, *, output: Output | None = None, grace_s: float = GRACE_S) -> None:
        """Choose a port. Nothing is started yet.

        Args:
            folder: An existing folder.
            output: Shows the progress of a start; None shows nothing.
            grace_s: Seconds from the request to stop until the kill, on leaving the `with` block.
        """
        self.folder = folder
        self.processes = Processes(folder, grace_s=grace_s)
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._output = output

    def __enter__(self) -> Self:
        self.processes.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.processes.__exit__(kind, error, trace)

    async def start_server(
        self, model: Path, settings: Mapping[str, str] | None = None, *, timeout_s: float = START_TIMEOUT_S
    ) -> Child:
        """Start the server and wait until it takes requests.

        Args:
            model: Folder of the base model.
            settings: The server's settings, by variable name without `MINDPRINT_`.
            timeout_s: Seconds until the start counts as failed.

        Raises:
            ProcessFailed: The server ended, or was not ready in time.
        """
        data = (self.folder / "server").absolute()
        variables = {
            "HOST": "127.0.0.1",
            "PORT": str(self._port),
            "DATA_DIR": str(data),
            "DATABASE_URL": f"sqlite+aiosqlite:///{data / 'mindprint.db'}",
            "MODEL": str(model),
            **(settings or {}),
        }
        server = self.processes.start(
            "server", ["mindprint", "serve"], {f"MINDPRINT_{name}": value for name, value in variables.items()}
        )
        if self._output is None:
            await self._wait_until_ready(server, timeout_s)
            return server
        with self._output.bar("server") as bar:
            await self._wait_until_ready(server, timeout_s, lambda: bar.update(0, server.doing()))
            bar.finish("ready")
        return server

    def start_trainer(
        self, name: str = "trainer", settings: Mapping[str, str] | None = None, arguments: Sequence[str] = ()
    ) -> Child:
        """Start a trainer of this server. It works in the folder `<name>/`.

        Args:
            name: Name of the process and of its log.
            settings: The trainer's settings, by variable name without `MINDPRINT_TRAIN_`.
            arguments: Further words for `mindprint train`.
        """
        variables = {"SERVER": self.url, "WORK_DIR": str(self.folder / name), **(settings or {})}
        return self.processes.start(
            name,
            ["mindprint", "train", *arguments],
            {f"MINDPRINT_TRAIN_{key}": value for key, value in variables.items()},
        )

    async def stop(self, child: Child, timeout_s: float = TRAINER_STOP_S) -> None:
        """Ask a process to stop, and kill it after `timeout_s` seconds."""
        child.ask_to_stop()
        for _ in range(round(timeout_s / POLL_S)):
            if not child.running():
                break
            await asyncio.sleep(POLL_S)
        child.wait(time.monotonic())

    async def _wait_until_ready(self, server: Child, timeout_s: float, tick: Callable[[], None] | None = None) -> None:
        deadline = time.monotonic() + timeout_s
        async with AsyncMindprintClient(self.url) as client:
            while not await client.ready():
                server.check()
                if time.monotonic() > deadline:
                    raise ProcessFailed(f"the server was not ready after {timeout_s:.0f} s: see {server.log}")
                if tick is not None:
                    tick()
                await asyncio.sleep(POLL_S)
