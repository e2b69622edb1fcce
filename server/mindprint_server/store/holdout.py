"""Held-out engagements: each user's newest. Training never sees them, so the gate can measure versions on them."""

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
    """How many of a user's newest engagements are held out. The defaults hold out none.

    `states.held_out_count` computes the number.
    """

    share: float = 0.0
    """Share of the user's engagements, rounded down."""
    min_engagements: int = 1
    """Users with fewer engagements than this have none held out."""
    max_engagements: int = 2**31 - 1
    """Maximum number of held-out engagements of a user."""


NO_HOLDOUT = Holdout()


def trainable(
    holdout: Holdout, user: ColumnElement[str], engagement: ColumnElement[Any], among: Any
) -> list[ColumnElement[bool]]:
    """Return conditions that a row's engagement is not held out; rows without an engagement do not match.

    Args:
        holdout: Which engagements are held out.
        user: Column with the row's user id.
        engagement: Column with the row's engagement id.
        among: Query for the ids of the users whose engagements are ranked.
    """
    if not holdout.share:
        return []
    ranked = _ranked(engagements.c.user_id.in_(among))
    older = select(ranked.c.user_id, ranked.c.id).where(not_(_held(holdout, ranked)))
    # Select what is trainable instead of excluding what is held out: PostgreSQL cannot join on NOT IN and scans the
    # whole list for every row.
    return [tuple_(user, engagement).in_(older)]


async def of_users(db: AsyncConnection, holdout: Holdout, user_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return ids of held-out engagements by user, oldest first; users without any are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    if holdout.share:
        ranked = _ranked(engagements.c.user_id.in_(user_ids))
        held = select(ranked.c.user_id, ranked.c.id).where(_held(holdout, ranked))
        for row in await db.execute(held.order_by(ranked.c.user_id, ranked.c.rank.desc())):
            found[row.user_id].append(row.id)
    return dict(found)


def _ranked(condition: ColumnElement[bool]) -> Subquery:
    """Select engagements with their rank among those of their user, 1 for the newest, and with the user's total."""
    mine = engagements.c.user_id
    newest_first = engagements.c.occurred_at.desc(), engagements.c.id.desc()
    rank = func.row_number().over(partition_by=mine, order_by=newest_first).label("rank")
    total = func.count().over(partition_by=mine).label("total")
    return select(mine, engagements.c.id, rank, total).where(condition).subquery()


def _held(holdout: Holdout, ranked: Subquery) -> ColumnElement[bool]:
    return and_(
        ranked.c.total >= holdout.min_engagements,
        ranked.c.rank <= holdout.max_engagements,
        ranked.c.rank
        <= literal(holdout.share, Float) * ranked.c.total,  # the same as rounding down: ranks are integers
    )
