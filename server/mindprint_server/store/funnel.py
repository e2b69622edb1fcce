"""The funnel: counts of traces by verdict, reason and state.

Those of one user are counted in an index, without a look at a trace; those of all users are kept (`row_counts.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Select, and_, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Funnel
from mindprint_server.store import row_counts
from mindprint_server.store.database import Database
from mindprint_server.store.tables import live_versions, traces
from mindprint_server.store.users import must_exist


class FunnelRepository:
    """Counts traces by verdict, reason and state."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, user_id: str | None = None) -> Funnel:
        """Count the traces of one user, or of all users if `user_id` is None."""
        return await self._database.read(_get, user_id)


async def _get(db: AsyncConnection, user_id: str | None) -> Funnel:
    """Count a funnel. `attempted` is the number of engagements that have a trace."""
    if user_id is None:
        return await row_counts.of_all_traces(db)
    await must_exist(db, user_id)
    mine = traces.c.user_id == user_id
    tried = select(traces.c.engagement_id).distinct().where(traces.c.engagement_id.is_not(None), mine)
    attempted = await db.scalar(select(func.count()).select_from(tried.subquery()))
    return fold(await db.execute(_tally().where(mine))).model_copy(update={"attempted": attempted})


def fold(rows: Iterable[Any]) -> Funnel:
    """Add up rows of (verdict, reason, generated, trained, live) to one funnel."""
    funnel = Funnel()
    for row in rows:
        funnel.generated += row.generated
        funnel.trained += row.trained
        funnel.live += row.live
        if row.verdict == "accepted":
            funnel.accepted += row.generated
        elif row.verdict == "rejected":
            reason = row.reason or "unspecified"
            funnel.rejected[reason] = funnel.rejected.get(reason, 0) + row.generated
    return funnel


def _tally(*by: Any) -> Select[Any]:
    in_live = and_(live_versions.c.adapter == traces.c.adapter, live_versions.c.version == traces.c.version)
    return (
        select(
            *by,
            traces.c.verdict,
            traces.c.reason,
            func.count().label("generated"),
            func.count(case((traces.c.state == "trained", 1))).label("trained"),
            func.count(live_versions.c.version).label("live"),
        )
        .select_from(traces.outerjoin(live_versions, in_live))
        .group_by(traces.c.verdict, traces.c.reason)
    )
