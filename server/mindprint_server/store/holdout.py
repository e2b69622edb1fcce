"""Held-out engagements: each user's newest, which no training sees, so that a gate can examine a version on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Float, Subquery, and_, func, literal, not_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint_server.store.tables import engagements


@dataclass(frozen=True)
class Holdout:
    """How many of a user's newest engagements are held out; as it stands, none.

    `share` of them, rounded down, and `most` at most; none of users with fewer than `least`.
    `states.held_out_count` says it as a function.
    """

    share: float = 0.0
    least: int = 1
    most: int = 2**31 - 1


def trainable(
    holdout: Holdout, user: ColumnElement[str], engagement: ColumnElement[Any], among: Any
) -> list[ColumnElement[bool]]:
    """Conditions that a row's engagement, which it must have, is not held out. `among`: the ids of users who matter."""
    if not holdout.share:
        return []
    ranked = _ranked(engagements.c.user_id.in_(among))
    older = select(ranked.c.user_id, ranked.c.id).where(not_(_held(holdout, ranked)))
    # Those that are in, not those that are out: NOT IN cannot be a join, and takes a look at each for every row.
    return [tuple_(user, engagement).in_(older)]


async def of_users(db: AsyncConnection, holdout: Holdout, user_ids: Sequence[str]) -> dict[str, list[str]]:
    """Held-out engagements by user, oldest first; users who have none are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    if holdout.share:
        ranked = _ranked(engagements.c.user_id.in_(user_ids))
        held = select(ranked.c.user_id, ranked.c.id).where(_held(holdout, ranked))
        for row in await db.execute(held.order_by(ranked.c.user_id, ranked.c.rank.desc())):
            found[row.user_id].append(row.id)
    return dict(found)


def _ranked(condition: ColumnElement[bool]) -> Subquery:
    """Engagements with their rank among those of their user, 1 for the newest, and with how many those are."""
    mine = engagements.c.user_id
    newest_first = engagements.c.occurred_at.desc(), engagements.c.id.desc()
    rank = func.row_number().over(partition_by=mine, order_by=newest_first).label("rank")
    total = func.count().over(partition_by=mine).label("total")
    return select(mine, engagements.c.id, rank, total).where(condition).subquery()


def _held(holdout: Holdout, ranked: Subquery) -> ColumnElement[bool]:
    return and_(
        ranked.c.total >= holdout.least,
        ranked.c.rank <= holdout.most,
        ranked.c.rank <= literal(holdout.share, Float) * ranked.c.total,  # as good as rounded down: ranks are whole
    )
