"""What the routes share: the services of a ready server, the shapes of parameters, NDJSON of traces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from starlette.responses import StreamingResponse

from mindprint.types import NAME
from mindprint_server.store import Store
from mindprint_server.wiring import Container

ID = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
PAGE = 200
"""Traces that a stream holds in memory at once."""


async def ready(request: Request) -> Container:
    """Raises 503 while the engine is starting and after it died."""
    services: Container = request.app.state.life.ready()
    return services


ContainerDep = Annotated[Container, Depends(ready)]
UserId = Annotated[str, Path(pattern=NAME, max_length=64)]
Id = Annotated[str, Path(pattern=ID, max_length=64)]
Limit = Annotated[int, Query(ge=1, le=1000)]
After = Annotated[str | None, Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)]
UserFilter = Annotated[str | None, Query(pattern=NAME, max_length=64)]
NDJSON = {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}, "description": "One trace a line"}


def traces_as_ndjson(store: Store, **filters: Any) -> StreamingResponse:
    """Every trace that passes `filters` (those of `Store.traces`), in the order of their ids, page after page."""

    async def lines() -> AsyncIterator[bytes]:
        after, page = None, None
        while page is None or len(page) == PAGE:
            page = await store.traces.find(**filters, after=after, limit=PAGE)
            if page:
                after = page[-1].id
                yield b"".join(trace.model_dump_json().encode() + b"\n" for trace in page)

    return StreamingResponse(lines(), media_type="application/x-ndjson")
