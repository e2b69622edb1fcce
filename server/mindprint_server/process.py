"""The server process: one uvicorn server, one engine, one exit code."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import structlog
import uvicorn

from mindprint.private_files import make_private_folder, private_umask
from mindprint_server.api.access import is_loopback
from mindprint_server.api.connections import bounded_connections
from mindprint_server.api.metrics_port import MetricsPort
from mindprint_server.app import ServerState, create_app
from mindprint_server.observability import logging
from mindprint_server.operation.preflight import (
    FAILED,
    REFUSED,
    CannotStart,
    check_data_folder,
    check_model,
    listen,
)
from mindprint_server.settings import Settings
from mindprint_server.store import Store, StoreError

log = structlog.get_logger(__name__)


@private_umask()
def run(settings: Settings) -> int:
    """Serve until a signal comes or the engine dies.

    Returns:
        The exit code: 0, 1 if the engine or the start-up failed, or 2 if the server cannot listen.
    """
    logging.configure(settings)
    try:
        check_data_folder(settings)
        check_model(settings)
    except CannotStart as error:
        return _say(str(error), error.code)
    if not is_loopback(settings.host.lower()):
        try:
            has_keys = asyncio.run(_has_keys(settings))
        except StoreError as error:
            return _say(str(error), FAILED)
        if not has_keys:
            return _say(
                f"will not listen on {settings.host} without a key, only on loopback (127.0.0.1): "
                "create one with `mindprint keys create --admin`, or set MINDPRINT_ADMIN_KEY",
                REFUSED,
            )
    try:
        listeners = listen(settings)
    except CannotStart as error:
        return _say(str(error), error.code)
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener)
        return _run(settings, listeners)


def _run(settings: Settings, listeners: list[socket.socket]) -> int:
    """Serve on sockets that listen already: the second one, if any, is for metrics alone."""
    app = create_app(settings)
    config = uvicorn.Config(
        app if len(listeners) == 1 else MetricsPort(app, listeners[1].getsockname()[1]),
        http=bounded_connections(settings, app.state.metrics),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        # Streams end with an error when the grace time is over; this is for what does not end even so.
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_s) + 1,
    )
    server = _Server(config, app.state.server)
    for listener, event in zip(listeners, ("listening", "metrics"), strict=False):
        host, port = listener.getsockname()[:2]
        log.info(event, url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    with _quiet_signals(server), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(server, listeners, app.state.server))
    failure = app.state.server.failure
    return 0 if failure is None else _say(failure, FAILED)


class _Server(uvicorn.Server):
    """Uvicorn, which tells the application that it stops while requests still run."""

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self._state = state

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._state.begin_shutdown()
        await super().shutdown(sockets)
        if self.force_exit:
            # After a second Ctrl-C uvicorn (0.54) leaves the lifespan waiting: cancelled, it logs a traceback.
            await self.lifespan.shutdown()


async def _has_keys(settings: Settings) -> bool:
    if settings.admin_key is not None:
        return True
    make_private_folder(settings.data_dir)
    store = await Store.open(settings.url)
    try:
        return await store.api_keys.exist()
    finally:
        await store.close()


async def _serve(server: uvicorn.Server, listeners: list[socket.socket], state: ServerState) -> None:
    """Serve until uvicorn is asked to stop, or until the server has failed."""
    serving = asyncio.create_task(server.serve(sockets=listeners))
    failed = asyncio.create_task(state.failed.wait())
    await asyncio.wait({serving, failed}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    failed.cancel()
    try:
        await serving
    finally:
        await state.close()  # uvicorn skips the application's shutdown where its start-up was interrupted


@contextlib.contextmanager
def _quiet_signals(server: uvicorn.Server) -> Iterator[None]:
    """Keep a handled signal from killing the process after uvicorn has stopped.

    When uvicorn is done, it raises a signal that it handled again, for the handlers that were installed before. Inside
    the block these handlers do no more than stop uvicorn. So the process ends with the exit code of `run`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str, code: int) -> int:
    print(f"mindprint: {line}", file=sys.stderr, flush=True)
    return code
