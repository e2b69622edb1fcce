"""Routes about the server itself: health, metrics, information, funnel."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response, Security

import mindprint
from mindprint.types import SCOPES, Funnel, ServerInfo, SystemInfo
from mindprint_server.api.access import AccessRoute, authorize_operator, requires
from mindprint_server.api.dependencies import ServicesDep, UserFilter
from mindprint_server.api.errors import from_server, reply
from mindprint_server.exceptions import NotFound, ServerError, Unavailable
from mindprint_server.observability.metrics import CONTENT_TYPE
from mindprint_server.operation import system
from mindprint_server.store import StoreError

router = APIRouter(tags=["server"], route_class=AccessRoute)


@router.get("/")
async def about(request: Request) -> dict[str, str | None]:
    """Say what this server is, and where its routes are described."""
    shown = request.app.state.settings.openapi
    return {
        "name": "mindprint",
        "version": mindprint.__version__,
        "about": request.app.summary,
        "openai_base_url": "/v1",
        "docs": "/docs" if shown else None,
        "openapi": "/openapi.json" if shown else None,
    }


@router.get("/version")
async def version() -> dict[str, str]:
    """Return the version of the server, as vLLM's route of this name does."""
    return {"version": mindprint.__version__}


@router.get("/health", response_class=Response)
async def health(request: Request) -> Response:
    """Answer 200 without a body while the engine is up, and 503 otherwise, as vLLM's route of this name does."""
    request.app.state.server.ready()
    return Response()


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Answer 200 while the process runs."""
    return {"status": "alive"}


@router.get("/readyz", response_model=None)
async def readyz(request: Request) -> dict[str, Any] | Response:
    """Answer 200 when the server is ready, and 503 while it starts, when something fails or after the engine died.

    `status` is starting, ready, not_ready or dead. `reasons` names what fails: the store, the disk, or a background
    task. The server then still answers what it can.
    """
    state = request.app.state.server
    status = state.status()
    try:
        state.ready()
        if reasons := status["reasons"]:
            failing = "; ".join(f"{name}: {why}" for name, why in reasons.items())
            raise Unavailable("not_ready", f"the server is not ready ({failing}): retry once this has passed")
    except ServerError as error:
        return reply(request, from_server(error, request.app.state.settings.retry_after_s), extra=status)
    return dict(status)


@router.get(
    "/metrics",
    dependencies=[Security(authorize_operator, scopes=["read"])],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format. 404 where they have a port of their own (`metrics_port`)."""
    if request.app.state.settings.metrics_port is not None:
        message = "the metrics have a port of their own: ask there, at metrics_host and metrics_port of the settings"
        raise NotFound("metrics_elsewhere", message)
    return await render_metrics(request.app)


async def render_metrics(app: FastAPI) -> Response:
    """Return the metrics, with what is counted in the store where that answers."""
    metrics, services = app.state.metrics, app.state.server.services
    # While the store is away, what this process counted is still shown.
    with suppress(StoreError):
        if services is not None:
            queue = await services.store.traces.count_queue()
            open_batches = Counter(tenant for tenant, _ in await services.store.batches.list_open())
            metrics.refresh(queue=queue, open_batches=open_batches)
    return Response(metrics.render(), headers={"Content-Type": CONTENT_TYPE})


@router.get("/v1/info", dependencies=[requires(*SCOPES)])
async def info(services: ServicesDep) -> ServerInfo:
    """Return the versions of server and engine, the base model with its digest, and the LoRA limits."""
    return services.info()


@router.get("/v1/system", dependencies=[Security(authorize_operator, scopes=["admin"])])
async def system_info(services: ServicesDep) -> SystemInfo:
    """Return where the server listens, which database it uses, and the free space: for `mindprint doctor --server`."""
    problem = services.readiness.problems().get("artifacts")
    return await system.describe(services.settings, database=services.store.database, artifacts_problem=problem)


@router.get("/v1/funnel", dependencies=[requires("read")])
async def funnel(services: ServicesDep, user: UserFilter = None) -> Funnel:
    """Return the funnel of the whole server, or of one user."""
    if user is not None:
        await services.store.users.get(user)
    return await services.store.funnel.get(user)
