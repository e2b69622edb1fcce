"""Routes of batches: durable jobs, their progress as server-sent events, their traces as NDJSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import StreamingResponse

from mindprint.endpoints.batches import FINAL_STATES
from mindprint.types import Batch, BatchPage, BatchRequest
from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.audit import audited
from mindprint_server.api.dependencies import (
    GENERATES,
    NDJSON,
    WRITES,
    After,
    Id,
    Limit,
    ServicesDep,
    traces_as_ndjson,
)
from mindprint_server.api.errors import envelope, from_server
from mindprint_server.exceptions import Busy, Unavailable

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=AccessRoute)
TRAIN = [requires("train")]
READ_OR_TRAIN = [requires("read", "train")]
STOP_WITHIN_S = 1.0
"""Seconds in which a stream sends its last event when the server stops."""
EVENTS = {
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
    "description": "`progress` events, each with a Batch, the last one in its final state; or an `error` event "
    "as the last one, with an ErrorReply, after which the stream may be opened again",
}


@router.post(
    "",
    dependencies=[*TRAIN, *WRITES, *GENERATES],
    openapi_extra=audited("batch.submit", sent=["users", "mode"], replied=["id"]),
    status_code=201,
    responses={200: {"model": Batch, "description": "The batch of this idempotency key"}},
)
async def submit(request: BatchRequest, response: Response, services: ServicesDep) -> Batch:
    """Plan a batch and store it. It runs in the background and survives a restart of the server."""
    batch, created = await services.batches.submit(request)
    response.status_code = 201 if created else 200
    return batch


@router.get("", dependencies=READ_OR_TRAIN)
async def list_batches(services: ServicesDep, limit: Limit = 100, after: After = None) -> BatchPage:
    """List batches, newest first, page after page."""
    found = await services.store.batches.list_newest(limit + 1, after=after)
    return BatchPage(batches=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@router.get("/{batch_id}", dependencies=READ_OR_TRAIN)
async def one_batch(batch_id: Id, services: ServicesDep) -> Batch:
    """Return a batch with its progress and its funnel."""
    return await services.store.batches.get(batch_id)


@router.post("/{batch_id}/cancel", dependencies=TRAIN, openapi_extra=audited("batch.cancel"))
async def cancel(batch_id: Id, services: ServicesDep) -> Batch:
    """Cancel a batch. What it wrote stays; a batch that has ended does not change."""
    return await services.batches.cancel(batch_id)


@router.get(
    "/{batch_id}/events",
    dependencies=READ_OR_TRAIN,
    response_model=None,
    response_class=EventSourceResponse,
    responses={200: EVENTS, 204: {"description": "The batch has ended, and `Last-Event-ID` is that of its last event"}},
)
async def events(
    batch_id: Id, services: ServicesDep, last_event_id: Annotated[str | None, Header(max_length=64)] = None
) -> Response:
    """Send the batch as a server-sent event now and after each change, until it ends.

    A browser's `EventSource` opens a stream that ended again. It then sends the id of the last event it saw, and 204
    tells it to stop.
    """
    watched = services.batches.watch(batch_id)
    first = await anext(watched)  # an unknown batch and too many watchers are refused before the stream begins
    if first.state in FINAL_STATES and last_event_id == _event_id(first):
        await watched.aclose()
        return Response(status_code=204)

    async def progress() -> AsyncIterator[ServerSentEvent]:
        passed = services.shutdown.watching.pass_on(watched)
        async with aclosing(watched):
            try:
                yield _progress(first)
                async for batch in passed:
                    yield _progress(batch)
            except (Busy, Unavailable) as error:
                content = envelope(from_server(error, services.settings.retry_after_s))
                yield ServerSentEvent(event="error", data=json.dumps(content, ensure_ascii=False))

    # Without an event of its own, the response would end all streams as soon as it hears of a signal.
    return EventSourceResponse(progress(), shutdown_event=anyio.Event(), shutdown_grace_period=STOP_WITHIN_S)


def _progress(batch: Batch) -> ServerSentEvent:
    return ServerSentEvent(event="progress", id=_event_id(batch), data=batch.model_dump_json())


def _event_id(batch: Batch) -> str:
    return f"{batch.state}-{batch.done}"


@router.get(
    "/{batch_id}/results", dependencies=READ_OR_TRAIN, response_class=StreamingResponse, responses={200: NDJSON}
)
async def results(batch_id: Id, services: ServicesDep) -> StreamingResponse:
    """Stream the traces of a batch as NDJSON, one a line, by id."""
    await services.store.batches.get(batch_id)
    return traces_as_ndjson(services.store, batch=batch_id)
