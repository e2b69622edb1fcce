"""The trainer process, from its start to its exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console

from mindprint import ApiError, MindprintClient, MindprintError, Retries, Timeouts
from mindprint.exceptions import UNKNOWN_CODE
from mindprint.model_files import MissingModel, model_digest, resolve
from mindprint.private_files import private_umask
from mindprint.retry import is_absent
from mindprint.types import ServerInfo
from mindprint_trainer.errors import Stopped, TrainerError
from mindprint_trainer.reporting import logging
from mindprint_trainer.reporting.progress import ProgressReporter, create_reporter, outcome_table
from mindprint_trainer.settings import Settings

if TYPE_CHECKING:
    from mindprint_trainer.model.base_model import Base
    from mindprint_trainer.worker import Worker

READY_EVERY_S = 0.5
ASK_S = 30.0
"""Seconds that one question at start takes at most."""
STARTING_CODE = "engine_starting"
"""Error code of a server that is starting."""
STARTING_EVERY_S = 30.0
"""Seconds between two lines of the same start-up phase."""
LOG_WIDTH = 160
"""Columns of the table at the end where stderr is a file."""
TORCH_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
"""Variables set before torch is loaded. Threads that spin while they wait are slow if the engine uses the same cores: a
pass took 40 s with them, and 4.5 s with threads that sleep. Without other load there is no difference."""


@private_umask()
def run(settings: Settings) -> int:
    """Run the trainer until nothing is waiting (`once`), a signal comes, or it cannot continue.

    Returns:
        The exit code: 0, 128 + the signal's number, or 1 after one line on stderr that says what to do.
    """
    logging.configure_logging(settings)
    for name, value in TORCH_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    console = Console(stderr=True, width=None if sys.stderr.isatty() else LOG_WIDTH)
    try:
        with stop_on_signals() as raise_if_stopped, create_client(settings) as client:
            run_worker(settings, client, console, raise_if_stopped)
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
    """Print one line on stderr, and return the exit code 1."""
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    return 1


def run_worker(
    settings: Settings, client: MindprintClient, console: Console, raise_if_stopped: Callable[[], None]
) -> None:
    """Connect to the server, load the base model, and work on leases. Print a table of outcomes at the end.

    Args:
        settings: The trainer's settings.
        client: The server.
        console: Where progress and the table go.
        raise_if_stopped: Raises when the process is to end.
    """
    worker: Worker | None = None
    try:
        reporter = create_reporter(console, settings.log_every_s)
        info = wait_until_ready(client, settings, reporter, raise_if_stopped)
        worker = create_worker(settings, client, info, reporter, raise_if_stopped)
        if settings.dry_run:
            console.print(worker.preview() or nothing_to_train(settings))
            return
        with reporter.live():
            worker.run()
        if not worker.outcomes:
            console.print(nothing_to_train(settings))
    except Stopped as stop:
        print(describe_stop(stop.signal_number, worker), file=sys.stderr)
        raise
    finally:
        if worker is not None and worker.outcomes:
            console.print(outcome_table(worker.outcomes))


def create_worker(
    settings: Settings,
    client: MindprintClient,
    info: ServerInfo,
    reporter: ProgressReporter,
    raise_if_stopped: Callable[[], None],
) -> Worker:
    """Load torch and the base model, and create the worker.

    Args:
        settings: The trainer's settings.
        client: The server.
        info: What the server says about itself.
        reporter: Shows progress.
        raise_if_stopped: Raises when the process is to end.
    """
    reporter.event("loading the base model", model=info.model)
    from mindprint_trainer.worker import Worker  # loads torch

    base = load_matching_base(settings, info, reporter)
    brief_s = settings.ttl_s / 3
    return Worker(settings, base, client, lambda: create_client(settings, brief_s), reporter, raise_if_stopped)


def describe_stop(signal_number: int, worker: Worker | None) -> str:
    """Say what a trainer did that a signal stops.

    Args:
        signal_number: The signal.
        worker: The worker; None if the signal came before there was one.
    """
    name = signal.Signals(signal_number).name
    if worker is None:
        return f"stopped by {name} before anything was leased"
    trainings = ", ".join(
        f"{adapter} goes on from step {step}" if step else f"{adapter} begins again: it has no checkpoint"
        for adapter, step in worker.resumes_at.items()
    )
    return (
        f"stopped by {name}: leases done: {len(worker.outcomes)}, uploads that the server goes on to check: "
        f"{worker.handed_over}, given back: {worker.given_back}"
    ) + (f" ({trainings})" if trainings else "")


def nothing_to_train(settings: Settings) -> str:
    """Say why there is nothing to train."""
    adapters = " or ".join(settings.adapter) or "any adapter"
    if settings.min_traces == 1:
        return f"nothing to train: no accepted trace waits for {adapters}"
    shortage = f"fewer than {settings.min_traces} accepted traces wait"
    return f"nothing to train: {shortage} for {adapters} (`--set min_traces=N` takes fewer)"


def wait_until_ready(
    client: MindprintClient, settings: Settings, reporter: ProgressReporter, raise_if_stopped: Callable[[], None]
) -> ServerInfo:
    """Wait until the server is ready, and return what it says about itself.

    A server that says that it is starting is waited for without a bound: it bounds its start itself.

    Args:
        client: The server.
        settings: How long to wait.
        reporter: Gets an event before the first call, and some while the server starts.
        raise_if_stopped: Raises when the process is to end.

    Raises:
        TrainerError: No server answered, or none was ready, within `startup_wait_s`.
        MindprintError: The server refuses to say it, for instance without a key.
    """
    reporter.event("waiting for the server", url=client.url)
    deadline = time.monotonic() + settings.startup_wait_s
    told, told_at = "", 0.0
    # Each call asks once: with retries it would be silent for minutes.
    with create_client(settings, ASK_S) as asker:
        while not isinstance(answer := ask_info(asker), ServerInfo):
            raise_if_stopped()
            now = time.monotonic()
            if isinstance(answer, ApiError) and answer.code == STARTING_CODE:
                deadline = now + settings.startup_wait_s
                if answer.message != told or now - told_at >= STARTING_EVERY_S:
                    reporter.event("the server is starting: waiting for it", why=answer.message)
                    told, told_at = answer.message, now
            elif now > deadline:
                raise not_ready(client.url, settings.startup_wait_s, answer)
            time.sleep(READY_EVERY_S)
    return answer


def ask_info(client: MindprintClient) -> ServerInfo | MindprintError | None:
    """Return what a ready server says about itself.

    Returns:
        The error of a server that does not answer, fails or is starting; None if it answers, but is not ready.

    Raises:
        MindprintError: The server refuses to say it, for instance without a key.
    """
    try:
        info = client.server.info()
    except MindprintError as error:
        if is_absent(error) or (isinstance(error, ApiError) and error.status >= HTTPStatus.INTERNAL_SERVER_ERROR):
            return error
        raise
    return info if client.ready() else None


def not_ready(url: str, waited_s: float, reason: MindprintError | None) -> TrainerError:
    """Build the error for a server that was not ready in time.

    Args:
        url: Its address.
        waited_s: How long the trainer waited.
        reason: Why the last call failed; None if the server answered it, but is not ready.
    """
    if reason is None or (isinstance(reason, ApiError) and reason.code != UNKNOWN_CODE):
        why = reason.message if isinstance(reason, ApiError) else "GET /readyz says why"
        return TrainerError(
            f"the server at {url} answers, but was not ready within {waited_s:g} s ({why}): look at the server's log"
        )
    return TrainerError(
        f"no server answered at {url} within {waited_s:g} s: start one with `mindprint serve`, or set MINDPRINT_URL"
    )


def load_matching_base(settings: Settings, info: ServerInfo, reporter: ProgressReporter) -> Base:
    """Load the base model that the server serves, and find out how its passes are computed.

    Args:
        settings: Path of the model, device and dtypes, layers of adapters, and the tolerance of the comparison.
        info: The server's model path and digest, and what it can serve.
        reporter: Gets an event when the model is loaded, and one if it lacks layers that the server names.

    Raises:
        BaseMismatch: The trainer's files have another digest than the server's.
        CannotTrain: The model lacks layers that the settings name, or has none of those that the server names.
        TrainerError: The trainer cannot compute what the model computes.
    """
    from mindprint_trainer.forward_check import choose_forward_path
    from mindprint_trainer.model.base_model import load_base_model
    from mindprint_trainer.model.peft_io import adaptable_names, resolve_target_modules
    from mindprint_trainer.worker import base_mismatch

    path = resolve(settings.model or info.model_path)
    digest = model_digest(path)
    if digest != info.base_digest:
        raise base_mismatch(info.base_digest, digest)
    base = load_base_model(path, digest, settings)
    targets = resolve_target_modules(base.model, settings.target_modules, info.limits)
    base = choose_forward_path(base, targets, settings.forward_tolerance_nats)
    reporter.event(
        "base loaded",
        model=info.model,
        device=str(base.device),
        computes=str(base.model.dtype),
        forward=str(base.path),
    )
    if missing := sorted(set(settings.target_modules or info.limits.target_modules) - set(targets)):
        names = sorted(adaptable_names(base.model))
        reporter.event("the model lacks layers", lacks=",".join(missing), has=",".join(names))
    return base


def create_client(settings: Settings, max_call_s: float | None = None) -> MindprintClient:
    """Create a client of the server.

    Args:
        settings: Address and key.
        max_call_s: Seconds that a call may take, without retries; None keeps the usual time-outs and retries.
    """
    key = settings.api_key.get_secret_value() if settings.api_key else None
    if max_call_s is None:
        return MindprintClient(settings.server, key, retries=Retries(starting_s=0))  # the worker waits, and says so
    timeouts = Timeouts(connect_s=max_call_s / 2, read_s=max_call_s / 2)
    return MindprintClient(settings.server, key, timeouts=timeouts, retries=Retries(attempts=1))


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], None]]:
    """Within the context, raise Stopped in the main thread at the first SIGINT or SIGTERM. Later ones are ignored.

    Other code may swallow that exception. So the context yields a function that raises it again after a signal. Called
    outside the main thread, the context leaves signals alone.
    """
    caught: list[int] = []

    def raise_if_stopped() -> None:
        if caught:
            raise Stopped(caught[0])

    def stop(number: int, _: FrameType | None) -> None:
        if not caught:
            caught.append(number)
            raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield raise_if_stopped
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield raise_if_stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
