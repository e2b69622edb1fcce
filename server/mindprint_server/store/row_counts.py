"""Counts of items and traces, which triggers keep: reading them costs the same however much is stored.

Each change of a row changes its counts in the same transaction (migration 0017).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Funnel
from mindprint_server.store.tables import row_counts

ALL = ""
"""The `batch_id` of counts that are not of one batch."""
TRACE_KINDS = ("generated", "trained", "live")


@dataclass
class BatchCounts:
    """What is counted of a batch."""

    outcomes: dict[str | None, int] = field(default_factory=dict)
    """Number of items by outcome; None stands for items that are not done."""
    funnel: Funnel = field(default_factory=Funnel)
    """Its traces, without `attempted`: a batch knows it from its items."""


async def of_batches(db: AsyncConnection, batch_ids: Sequence[str]) -> dict[str, BatchCounts]:
    """Return the counts of batches by id."""
    counts: dict[str, BatchCounts] = defaultdict(BatchCounts)
    columns = row_counts.c.batch_id, row_counts.c.kind, row_counts.c.label, row_counts.c.reason
    query = select(*columns, func.sum(row_counts.c.amount)).where(row_counts.c.batch_id.in_(batch_ids))
    for batch_id, kind, label, reason, amount in await db.execute(query.group_by(*columns)):
        if kind == "item":
            if amount:
                counts[batch_id].outcomes[label or None] = int(amount)
        else:
            _add(counts[batch_id].funnel, kind, label, reason, int(amount))
    return counts


async def of_all_traces(db: AsyncConnection) -> Funnel:
    """Return the funnel of all traces. `attempted` is the number of engagements that have a trace."""
    funnel = Funnel()
    columns = row_counts.c.kind, row_counts.c.label, row_counts.c.reason
    mine = row_counts.c.batch_id == ALL, row_counts.c.kind.in_((*TRACE_KINDS, "attempted"))
    query = select(*columns, func.sum(row_counts.c.amount)).where(*mine).group_by(*columns)
    for kind, label, reason, amount in await db.execute(query):
        if kind == "attempted":
            funnel.attempted = int(amount)
        else:
            _add(funnel, kind, label, reason, int(amount))
    return funnel


async def of_states(db: AsyncConnection, tenants: Sequence[str], states: Sequence[str]) -> dict[tuple[str, str], int]:
    """Return the number of traces in these states, by tenant and state; the statement must be on all tenants."""
    columns = row_counts.c.tenant, row_counts.c.label
    mine = (
        row_counts.c.tenant.in_(tenants),
        row_counts.c.batch_id == ALL,
        row_counts.c.kind == "state",
        row_counts.c.label.in_(states),
    )
    query = select(*columns, func.sum(row_counts.c.amount)).where(*mine).group_by(*columns)
    found = {(tenant, state): int(amount) for tenant, state, amount in await db.execute(query)}
    return {(tenant, state): found.get((tenant, state), 0) for tenant in tenants for state in states}


def _add(funnel: Funnel, kind: str, verdict: str, reason: str, amount: int) -> None:
    if kind == "trained":
        funnel.trained += amount
    elif kind == "live":
        funnel.live += amount
    else:
        funnel.generated += amount
        if verdict == "accepted":
            funnel.accepted += amount
        elif verdict == "rejected" and amount:
            reason = reason or "unspecified"
            funnel.rejected[reason] = funnel.rejected.get(reason, 0) + amount
