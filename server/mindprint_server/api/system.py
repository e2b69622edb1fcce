"""Routes about the server itself: health, metrics, information, funnel."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request, Response, Security

from mindprint.types import SCOPES, Funnel, ServerInfo
from mindprint_server.api.access import AccessRoute, authorize_once_open, requires
from mindprint_server.api.dependencies import ServicesDep, UserFilter
from mindprint_server.api.errors import from_server, reply
from mindprint_server.exceptions import ServerError, Unavailable
from mindprint_server.observability.metrics import CONTENT_TYPE
from mindprint_server.store import StoreError

router = APIRouter(tags=["server"], route_class=AccessRoute)


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
    dependencies=[Security(authorize_once_open, scopes=["read"])],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    metrics, services = request.app.state.metrics, request.app.state.server.services
    # While the store is away, what this process counted is still shown.
    with suppress(StoreError):
        if services is not None:
            queue = await services.store.traces.count_queue()
            metrics.refresh(queue=queue, open_batches=len(await services.store.batches.list_open()))
    return Response(metrics.render(), headers={"Content-Type": CONTENT_TYPE})


@router.get("/v1/info", dependencies=[requires(*SCOPES)])
async def info(services: ServicesDep) -> ServerInfo:
    """Return the versions of server and engine, the base model with its digest, and the LoRA limits."""
    return services.info()


@router.get("/v1/funnel", dependencies=[requires("read")])
async def funnel(services: ServicesDep, user: UserFilter = None) -> Funnel:
    """Return the funnel of the whole server, or of one user."""
    if user is not None:
        await services.store.users.get(user)
    return await services.store.funnel.get(user)
