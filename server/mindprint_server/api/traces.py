"""Routes of traces: generate one, list pages, export all as a stream."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from mindprint.types import (
    ApiKey,
    EngagementId,
    Mode,
    Requeue,
    Requeued,
    Trace,
    TracePage,
    TraceRequest,
    TraceState,
    VerdictLabel,
)
from mindprint_server.access import may
from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.audit import NOT_AUDITED, audited
from mindprint_server.api.dependencies import (
    GENERATES,
    ID,
    NDJSON,
    WRITES,
    After,
    Id,
    Limit,
    ServicesDep,
    UserFilter,
    traces_as_ndjson,
)
from mindprint_server.api.errors import ApiError

router = APIRouter(prefix="/v1/traces", tags=["traces"], route_class=AccessRoute)
READ = [requires("read")]


@router.post("", dependencies=[requires("infer"), *WRITES, *GENERATES], openapi_extra=NOT_AUDITED)
async def write_trace(
    request: TraceRequest, services: ServicesDep, key: Annotated[ApiKey | None, requires("infer")]
) -> Trace:
    """Write one trace now: about a stored engagement it is judged and stored, about a query only returned.

    Another user's memory (`memory=user/<id>`) needs the scope `admin`.
    """
    if request.memory not in ("own", "none") and key is not None and not may(key, "admin"):
        message = "memory: another user's memory needs the scope admin: use own or none, or a key that has it"
        raise ApiError(403, "missing_scope", message, param="memory")
    return await services.traces.create(request)


@router.get("", dependencies=READ)
async def list_traces(
    services: ServicesDep,
    user: UserFilter = None,
    engagement: EngagementId | None = None,
    mode: Mode | None = None,
    batch: Annotated[str | None, Query(pattern=ID, max_length=64)] = None,
    verdict: VerdictLabel | None = None,
    state: TraceState | None = None,
    limit: Limit = 100,
    after: After = None,
) -> TracePage:
    """List traces by id, page after page, with the filters that are given."""
    traces = await services.store.traces.find(
        user=user,
        engagement=engagement,
        mode=mode,
        batch=batch,
        verdict=verdict,
        state=state,
        after=after,
        limit=limit + 1,
    )
    return TracePage(traces=traces[:limit], next=traces[limit - 1].id if len(traces) > limit else None)


@router.post(
    "/requeue",
    dependencies=[requires("train"), *WRITES],
    openapi_extra=audited("trace.requeue", sent=["trace_ids", "user_id"], replied=["requeued"]),
)
async def requeue(wanted: Requeue, services: ServicesDep) -> Requeued:
    """Put dead letters back into the queue, with no attempts counted: by id, of a user, or all there are."""
    return Requeued(requeued=await services.store.traces.requeue(wanted.trace_ids, user_id=wanted.user_id))


@router.get("/export", dependencies=READ, response_class=StreamingResponse, responses={200: NDJSON})
async def export(
    services: ServicesDep, user: UserFilter = None, verdict: VerdictLabel | None = None
) -> StreamingResponse:
    """Stream all traces as NDJSON, one a line, by id."""
    if user is not None:
        await services.store.users.get(user)
    return traces_as_ndjson(services.store, user=user, verdict=verdict)


@router.get("/{trace_id}", dependencies=READ)
async def one_trace(trace_id: Id, services: ServicesDep) -> Trace:
    """Return one trace."""
    return await services.store.traces.get(trace_id)
