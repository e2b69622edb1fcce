"""The HTTP routes, a module for each noun; each is thin and hands to a service or the store."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from mindprint.types import ErrorReply
from mindprint_server.api import (
    adapters,
    audit_log,
    batches,
    chat,
    cohorts,
    completions,
    erasures,
    keys,
    leases,
    models,
    publications,
    responses,
    system,
    traces,
    users,
)

REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "Refused: `error.message` says what to do"},
    "5XX": {"model": ErrorReply, "description": "Starting, busy or broken: see Retry-After"},
}
"""What every route may answer besides its own reply."""


def _include_all() -> APIRouter:
    router = APIRouter()
    for module in (
        system,
        keys,
        audit_log,
        users,
        erasures,
        cohorts,
        traces,
        batches,
        leases,
        publications,
        adapters,
        chat,
        completions,
        responses,
        models,
    ):
        router.include_router(module.router, responses=REFUSALS)
    return router


router = _include_all()
"""All routes. A dependency that is declared on a noun's router applies to all routes of the noun; one that is given to
`include_router` in `app.py` applies to all."""
