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
    from mindprint_trainer.reporting.progress import ProgressReporter

READY_EVERY_S = 0.5
TORCH_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
"""Set before torch is loaded. Threads that wait actively for each other come to a standstill where the engine shares
the cores: one pass took 40 s, and 4.5 s with threads that sleep; alone it makes no difference."""


def run(settings: Settings) -> int:
    """Works until the queue is drained (`once`), a signal comes, or it cannot go on.

    Returns 0, 128 + the signal's number, or 1 after one line on stderr that says what to do.
    """
    logging.configure_logging(settings)
    for name, value in TORCH_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    console = Console(stderr=True)
    try:
        with stop_on_signals() as check, create_client(settings) as client:
            run_worker(settings, client, console, check)
    except Stopped as stop:
        return 128 + stop.signal_number
    except (TrainerError, MindprintError, MissingModel) as error:
        return print_error(str(error))
    except ModuleNotFoundError as error:
        return print_error(
            f"the trainer needs {error.name}, which is not installed: run `pip install 'mindprint[trainer]'`"
        )
    return 0


def print_error(line: str) -> int:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    return 1


def run_worker(settings: Settings, client: MindprintClient, console: Console, check: Callable[[], None]) -> None:
    """Meets the server, loads the base, works through leases; shows the table of what was done however it ends."""
    from mindprint_trainer.reporting.progress import create_reporter, outcome_table  # these load torch
    from mindprint_trainer.worker import Worker

    view = create_reporter(console, settings.log_every_s)
    base = load_matching_base(settings, wait_until_ready(client, settings, view, check), view)
    worker = Worker(settings, base, client, lambda: create_client(settings, settings.ttl_s / 3), view, check)
    if settings.dry_run:
        console.print(worker.preview() or nothing_to_train(settings))
        return
    try:
        with view.live():
            worker.run()
        if not worker.outcomes:  # it went through what there was, and ends
            console.print(nothing_to_train(settings))
    finally:
        if worker.outcomes:
            console.print(outcome_table(worker.outcomes))


def nothing_to_train(settings: Settings) -> str:
    """Why there is nothing to train."""
    whose = " or ".join(settings.adapter) or "any adapter"
    if settings.min_traces == 1:
        return f"nothing to train: no accepted trace waits for {whose}"
    least = f"fewer than {settings.min_traces} accepted traces wait"
    return f"nothing to train: {least} for {whose} (`--set min_traces=N` takes fewer)"


def wait_until_ready(
    client: MindprintClient, settings: Settings, view: ProgressReporter, check: Callable[[], None]
) -> ServerInfo:
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


def load_matching_base(settings: Settings, info: ServerInfo, view: ProgressReporter) -> Base:
    """The base model that the server serves. Raises BaseMismatch when the files here are others."""
    from mindprint_trainer.model.base_model import load_base_model
    from mindprint_trainer.worker import base_mismatch

    path = resolve(settings.model or info.model_path)
    digest = model_digest(path)
    if digest != info.base_digest:
        raise base_mismatch(info.base_digest, digest)
    base = load_base_model(path, digest, settings)
    view.say("base loaded", model=info.model, device=str(base.device), computes=str(base.model.dtype))
    return base


def create_client(settings: Settings, once_s: float | None = None) -> MindprintClient:
    """A client with the usual patience, or for calls that are made once and take at most about `once_s` seconds."""
    key = settings.api_key.get_secret_value() if settings.api_key else None
    if once_s is None:
        return MindprintClient(settings.server, key)
    timeouts = Timeouts(connect_s=once_s / 2, read_s=once_s / 2)
    return MindprintClient(settings.server, key, timeouts=timeouts, retries=Retries(attempts=1))


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], None]]:
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
