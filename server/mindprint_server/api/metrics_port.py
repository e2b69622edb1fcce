"""Metrics on a port of their own: what arrives there sees the metrics and nothing else."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.types import Receive, Scope, Send

from mindprint_server.api.access import check_local, is_loopback
from mindprint_server.api.errors import ApiError, reply
from mindprint_server.api.system import render_metrics
from mindprint_server.settings import Settings

PATH = "/metrics"


class MetricsPort:
    """An ASGI application that answers `GET /metrics` on one port, without a key, and passes on the other ports.

    Both ports are sockets of one uvicorn server, so they share its bounds and its end.

    Args:
        app: The application of the other ports.
        port: The port of the metrics.
    """

    def __init__(self, app: FastAPI, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server")
        if scope["type"] != "http" or server is None or server[1] != self._port:
            return await self._app(scope, receive, send)
        request = Request({**scope, "app": self._app})
        try:
            self._check(request, self._app.state.settings)
            response = await render_metrics(self._app)
        except ApiError as error:
            response = reply(request, error)
        await response(scope, receive, send)

    def _check(self, request: Request, settings: Settings) -> None:
        if is_loopback(settings.metrics_host.lower()):
            check_local(request, settings)
        if request.url.path != PATH:
            raise ApiError(404, "not_found", f"this port has only {PATH}: the other routes are on `port`")
        if request.method not in ("GET", "HEAD"):
            message = f"{request.method} is not allowed on {PATH}: use GET"
            raise ApiError(405, "method_not_allowed", message, headers={"Allow": "GET"})
