"""Shared parts of the routes: the services of a ready server, types of parameters, NDJSON replies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from starlette.responses import StreamingResponse

from mindprint.types import NAME
from mindprint_server.store import Store
from mindprint_server.wiring import Services

ID = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
PAGE = 200
"""Traces that an NDJSON reply reads from the store at a time."""


async def ready(request: Request) -> Services:
    """Return the services of the server; raise Unavailable (503) while the engine is starting and after it died."""
    services: Services = request.app.state.server.ready()
    return services


ServicesDep = Annotated[Services, Depends(ready)]


async def check_writable(services: ServicesDep) -> None:
    """Refuse a write while the disk is full. Reads go on.

    Raises:
        StorageFull: The disk has less than `min_free_bytes` of free space.
    """
    services.readiness.check_writable()


WRITES = [Depends(check_writable)]
"""Dependencies of routes that store what a caller sends."""


async def check_artifacts(services: ServicesDep) -> None:
    """Refuse an upload while the artifact store cannot be reached.

    Raises:
        ArtifactUnavailable: It did not answer the last probe.
    """
    services.readiness.check_artifacts()


PUBLISHES = [*WRITES, Depends(check_artifacts)]
"""Dependencies of the route that stores the files of a version."""


async def check_generation(services: ServicesDep) -> None:
    """Refuse what lets the engine write for a tenant or a key that is over its quota of tokens.

    Raises:
        LimitExceeded: The minute's tokens are used up.
    """
    services.quotas.check_tokens()


GENERATES = [Depends(check_generation)]
"""Dependencies of routes that let the engine write."""

UserId = Annotated[str, Path(pattern=NAME, max_length=64)]
Id = Annotated[str, Path(pattern=ID, max_length=64)]
MAX_PAGE = 1000
"""Maximum size of a page. Also the default of lists that earlier releases returned whole."""
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
After = Annotated[str | None, Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)]
UserFilter = Annotated[str | None, Query(pattern=NAME, max_length=64)]
NDJSON = {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}, "description": "One trace a line"}


def traces_as_ndjson(store: Store, **filters: Any) -> StreamingResponse:
    """Return a reply that streams traces, ordered by id.

    Args:
        store: The store.
        **filters: Filters of `TraceRepository.find`.
    """

    async def lines() -> AsyncIterator[bytes]:
        after, page = None, None
        while page is None or len(page) == PAGE:
            page = await store.traces.find(**filters, after=after, limit=PAGE)
            if page:
                after = page[-1].id
                yield b"".join(trace.model_dump_json().encode() + b"\n" for trace in page)

    return StreamingResponse(lines(), media_type="application/x-ndjson")
