"""Keeps an engagement from having two accepted traces with the same thinking."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Trace
from mindprint_server.store.tables import engagements, traces


async def reject_repeated(db: AsyncConnection, new: Sequence[Trace]) -> list[Trace]:
    """Return new traces, where accepted ones that repeat an accepted thinking of their engagement are rejected instead.

    Two writers of one engagement do not see each other's traces until they are stored: batches that overlap, or a batch
    and a caller. So the last check is here, where the rows of the engagements are locked until this transaction ends.
    """
    # Those of rejected traces too: the count of attempted engagements locks them, and must not wait for one that is
    # before others in this order.
    keys = sorted({(trace.user_id, trace.engagement_id) for trace in new if trace.engagement_id is not None})
    if not keys:
        return list(new)
    lock = select(engagements.c.id).where(tuple_(engagements.c.user_id, engagements.c.id).in_(keys))
    await db.execute(lock.order_by(engagements.c.user_id, engagements.c.id).with_for_update(key_share=True))
    if not any(_is_for_queue(trace) for trace in new):
        return list(new)
    accepted = select(traces.c.user_id, traces.c.engagement_id, traces.c.thinking).where(
        tuple_(traces.c.user_id, traces.c.engagement_id).in_(keys),
        traces.c.verdict == "accepted",
        traces.c.state != "stored",
    )
    known = {tuple(row) for row in await db.execute(accepted)}
    kept: list[Trace] = []
    for trace in new:
        identity = (trace.user_id, trace.engagement_id, trace.thinking)
        if _is_for_queue(trace) and identity in known:
            trace = trace.model_copy(update={"verdict": "rejected", "reason": "duplicate", "state": "stored"})
        elif _is_for_queue(trace):
            known.add(identity)
        kept.append(trace)
    return kept


def _is_for_queue(trace: Trace) -> bool:
    return trace.engagement_id is not None and trace.verdict == "accepted" and trace.state != "stored"
