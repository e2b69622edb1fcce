"""The ASGI application. It answers HTTP from the start, while the engine is still starting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import mindprint
from mindprint_server import api
from mindprint_server.api import errors
from mindprint_server.api.docs_page import docs_page
from mindprint_server.api.middleware import BodySizeLimitMiddleware, HeadMiddleware, RequestLogMiddleware
from mindprint_server.exceptions import Unavailable, engine_dead
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services, close_services, open_services

log = structlog.get_logger(__name__)
START_LOG_EVERY_S = 30.0
"""Seconds between two lines that say that the start-up goes on."""
CORS: dict[str, Any] = {
    "allow_methods": ["*"],
    "allow_headers": ["*"],
    "expose_headers": ["Mindprint-Model", "Retry-After", "X-Request-Id", "X-Should-Retry"],
}
"""What pages of the origins in `cors_origins` may send and read. Browsers send no cookies: keys are the pages' own."""


class ServerState:
    """Starts and stops the services of one server, and knows whether they are ready.

    Attributes:
        services: The open services; None before start-up has ended and after `close`.
        failure: One line that says what stopped the server; None while nothing did.
        failed: Set together with `failure`.
    """

    def __init__(self, settings: Settings, metrics: Metrics, services: Services | None = None) -> None:
        self.services = services
        self.failure: str | None = None
        self.failed = asyncio.Event()
        self._settings = settings
        self._metrics = metrics
        self._owned = services is None
        self._phase = "opening the store"
        self._began = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def ready(self) -> Services:
        """Return the services.

        Raises:
            Unavailable: The services are not open yet, or the engine died.
        """
        if self.failure is not None or (self.services is not None and self.services.engine.dead.is_set()):
            raise engine_dead()
        if self.services is None:
            message = f"the engine is starting ({self._phase}): retry in a moment, or watch GET /readyz"
            raise Unavailable("engine_starting", message)
        return self.services

    def status(self) -> dict[str, Any]:
        """Return the body of `/readyz`.

        It holds `status` (starting, ready, not_ready or dead), the start-up phase, seconds since the start, and the
        reasons for not_ready by what fails.
        """
        reasons = self.services.readiness.problems() if self.services is not None else {}
        if self.failure is not None or (self.services is not None and self.services.engine.dead.is_set()):
            status = "dead"
        else:
            status = "starting" if self.services is None else "not_ready" if reasons else "ready"
        phase = self._phase if status == "starting" else None
        seconds = round(time.monotonic() - self._began, 1)
        return {"status": status, "phase": phase, "seconds": seconds, "reasons": reasons}

    def open(self) -> None:
        """Begin the start-up in a background task."""
        self._task = asyncio.create_task(self._run())

    def begin_shutdown(self) -> None:
        """Let open streams end, with an error where they are not done within `shutdown_grace_s`."""
        if self.services is not None:
            self.services.shutdown.begin(self._settings.shutdown_grace_s)

    async def close(self) -> None:
        """Stop the start-up or the running services. A second call does nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        services, self.services = self.services, None
        if services is not None and self._owned:
            await close_services(services)
            log.info("stopped")

    async def _run(self) -> None:
        try:
            if self.services is None:
                telling = asyncio.create_task(self._tell())
                try:
                    self.services = await open_services(self._settings, metrics=self._metrics, progress=self._enter)
                finally:
                    telling.cancel()
                log.info("ready", seconds=self.status()["seconds"])
            await self.services.engine.dead.wait()
            self._fail("the engine died")
        except Exception as error:
            log.debug("start-up failed", exc_info=error)
            self._fail(f"start-up failed while {self._phase}: {str(error) or type(error).__name__}")

    async def _tell(self) -> None:
        """Log now and then that the start-up goes on: the weights of a large model take minutes."""
        while True:
            await asyncio.sleep(START_LOG_EVERY_S)
            log.info("still starting", phase=self._phase, seconds=self.status()["seconds"])

    def _enter(self, phase: str) -> None:
        self._phase = phase
        log.info("starting", phase=phase)

    def _fail(self, why: str) -> None:
        self.failure = " ".join(why.split())
        self.failed.set()


def create_app(settings: Settings, *, services: Services | None = None) -> FastAPI:
    """Create the ASGI application. Its `app.state` holds `settings`, `metrics` and `server` (a `ServerState`).

    Args:
        settings: The server's settings.
        services: Open services, which the caller closes; None opens them at start-up.
    """
    metrics = Metrics() if services is None else services.metrics
    state = ServerState(settings, metrics, services)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state.open()
        try:
            yield
        finally:
            await state.close()

    app = FastAPI(
        title="Mindprint",
        version=mindprint.__version__,
        summary="Personalized thinking traces on vLLM, and a LoRA adapter per user, taken live without a restart.",
        lifespan=lifespan,
        redoc_url=None,
        docs_url=None,
        openapi_url="/openapi.json" if settings.openapi else None,
        redirect_slashes=False,
    )
    app.state.settings, app.state.metrics, app.state.server = settings, metrics, state
    app.include_router(api.router)
    if settings.openapi:
        app.add_route("/docs", docs_page, include_in_schema=False)
    errors.install(app)
    app.add_middleware(BodySizeLimitMiddleware, settings=settings)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **CORS, allow_origins=settings.cors_origins)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(RequestLogMiddleware)  # added last, so outermost
    return app
