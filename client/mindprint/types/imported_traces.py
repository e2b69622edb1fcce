"""Imported traces: thinking that a caller sends for training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mindprint.types.base import EngagementId, Flag, Number, Request, ScoreName, Text


class ImportedTrace(Request):
    """Thinking about a stored engagement that was written or edited outside of this server."""

    engagement_id: EngagementId
    thinking: Text
    saw_answer: Flag = False
    """Whether its author saw the real answer."""
    selected: Flag = True
    """Whether the thinking is an example to learn. If it is False, only the real answer after it is learned."""
    scores: Annotated[
        dict[ScoreName, Number], Field(max_length=32, json_schema_extra={"additionalProperties": False})
    ] = Field(default_factory=dict)


class ImportedTraces(Request):
    """Traces to import: all are stored and wait for a trainer, or none.

    A trace that repeats an accepted one of its engagement is not stored again.
    """

    traces: Annotated[list[ImportedTrace], Field(min_length=1, max_length=1000)]
