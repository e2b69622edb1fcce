"""The process: `run(settings)` from start to exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console

from mindprint import MindprintClient, MindprintError, Retries, Timeouts
from mindprint.model_files import MissingModel, model_digest, resolve
from mindprint.types import ServerInfo
from mindprint_trainer.errors import Stopped, TrainerError
from mindprint_trainer.reporting import logging
from mindprint_trainer.settings import Settings

if TYPE_CHECKING:
    from mindprint_trainer.model.base_model import Base
    from mindprint_trainer.reporting.progress import View

READY_EVERY_S = 0.5
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
"""Set before torch is loaded. Threads that wait actively for each other come to a standstill where the engine shares
the cores: one pass took 40 s, and 4.5 s with threads that sleep; alone it makes no difference."""


def run(settings: Settings) -> int:
    """Works until the queue is drained (`once`), a signal comes, or it cannot go on.

    Returns 0, 128 + the signal's number, or 1 after one line on stderr that says what to do.
    """
    logging.configure(settings)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    console = Console(stderr=True)
    try:
        with stoppable() as check, connect(settings) as client:
            work(settings, client, console, check)
    except Stopped as stop:
        return 128 + stop.signal_number
    except (TrainerError, MindprintError, MissingModel) as error:
        return fail(str(error))
    except ModuleNotFoundError as error:
        return fail(f"the trainer needs {error.name}, which is not installed: run `pip install 'mindprint[trainer]'`")
    return 0


def fail(line: str) -> int:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    return 1


def work(settings: Settings, client: MindprintClient, console: Console, check: Callable[[], None]) -> None:
    """Meets the server, loads the base, works through leases; shows the table of what was done however it ends."""
    from mindprint_trainer.reporting.progress import open_view, table  # these load torch
    from mindprint_trainer.worker import Worker

    view = open_view(console, settings.log_every_s)
    base = load_base(settings, wait_for(client, settings, view, check), view)
    worker = Worker(settings, base, client, lambda: connect(settings, settings.ttl_s / 3), view, check)
    if settings.dry_run:
        console.print(worker.preview() or nothing(settings))
        return
    try:
        with view.live():
            worker.run()
        if not worker.outcomes:  # it went through what there was, and ends
            console.print(nothing(settings))
    finally:
        if worker.outcomes:
            console.print(table(worker.outcomes))


def nothing(settings: Settings) -> str:
    """Why there is nothing to train."""
    whose = " or ".join(settings.adapter) or "any adapter"
    if settings.min_traces == 1:
        return f"nothing to train: no accepted trace waits for {whose}"
    least = f"fewer than {settings.min_traces} accepted traces wait"
    return f"nothing to train: {least} for {whose} (`--set min_traces=N` takes fewer)"


def wait_for(client: MindprintClient, settings: Settings, view: View, check: Callable[[], None]) -> ServerInfo:
    """What the server says of itself, once it is ready. Raises TrainerError after `startup_wait_s`."""
    deadline = time.monotonic() + settings.startup_wait_s
    if not client.ready():
        view.say("waiting for the server", url=client.url)
    while not client.ready():
        check()
        if time.monotonic() > deadline:
            raise TrainerError(
                f"no server was ready at {client.url} within {settings.startup_wait_s:g} s: "
                "start one with `mindprint serve`, or set MINDPRINT_URL"
            )
        time.sleep(READY_EVERY_S)
    return client.server.info()


def load_base(settings: Settings, info: ServerInfo, view: View) -> Base:
    """The base model that the server serves. Raises BaseMismatch when the files here are others."""
    from mindprint_trainer.model.base_model import load
    from mindprint_trainer.worker import mismatch

    path = resolve(settings.model or info.model_path)
    digest = model_digest(path)
    if digest != info.base_digest:
        raise mismatch(info.base_digest, digest)
    base = load(path, digest, settings)
    view.say("base loaded", model=info.model, device=str(base.device), computes=str(base.model.dtype))
    return base


def connect(settings: Settings, once_s: float | None = None) -> MindprintClient:
    """A client with the usual patience, or for calls that are made once and take at most about `once_s` seconds."""
    key = settings.api_key.get_secret_value() if settings.api_key else None
    if once_s is None:
        return MindprintClient(settings.server, key)
    timeouts = Timeouts(connect_s=once_s / 2, read_s=once_s / 2)
    return MindprintClient(settings.server, key, timeouts=timeouts, retries=Retries(attempts=1))


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Inside, SIGINT and SIGTERM raise Stopped in the main thread, at once and once; what follows may then clean up.

    Yields a check that raises it too, should the first raise have been swallowed by foreign code. Outside the main
    thread signals are left alone.
    """
    caught: list[int] = []

    def check() -> None:
        if caught:
            raise Stopped(caught[0])

    def stop(number: int, _: FrameType | None) -> None:
        if not caught:
            caught.append(number)
            raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
