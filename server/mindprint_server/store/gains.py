"""What thinking gained the base model on a user's own questions, as the verdicts measured it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint_server.store.tables import traces


@dataclass(frozen=True)
class Gain:
    """Of one candidate, in nats a token of the real answer."""

    engagement_id: str
    closed: bool
    """Whether the question came with choices."""
    gain: float


async def of_user(db: AsyncConnection, user_id: str, base_digest: str, prompt_version: str, limit: int) -> list[Gain]:
    made, gain = traces.c.provenance, traces.c.scores["gain"].as_float()
    closed = traces.c.choice_logprobs.is_not(None)
    query = (
        select(traces.c.engagement_id, closed, gain)
        .where(
            traces.c.user_id == user_id,
            traces.c.engagement_id.is_not(None),
            traces.c.mode == "personal",
            made["model"].as_string() == "base",
            made["base_digest"].as_string() == base_digest,
            made["prompt_version"].as_string() == prompt_version,
            made["saw_answer"].as_boolean().is_(False),
            gain.is_not(None),
            # A batch's probe asks for the prior, so that wrong answers have a Gain too; alone, only right ones do.
            or_(traces.c.batch_id.is_not(None), ~closed),
        )
        .order_by(traces.c.id.desc())
        .limit(limit)
    )
    return [Gain(engagement_id, bool(is_closed), value) for engagement_id, is_closed, value in await db.execute(query)]
