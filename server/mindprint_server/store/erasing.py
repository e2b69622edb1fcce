"""Keeps new rows of a user out while an erasure of the user is open, and those of work that read the erased rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint_server.store.exceptions import RecordNotFound, RowsExpiring, UserBeingErased
from mindprint_server.store.tables import engagements, erasures, users

USERS_A_QUERY = 500
"""Users in one IN list."""


def not_being_erased(user: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition that no erasure of a row's user is open."""
    return user.not_in(select(erasures.c.user_id).where(erasures.c.state == "open"))


async def check_may_write(
    db: AsyncConnection, user_ids: Iterable[str], read_epoch: int | None = None, *, beside_retention: bool = False
) -> None:
    """Refuse new rows of users that are being erased.

    No erasure of these users can be requested until this transaction ends.

    Args:
        db: A connection in a writing transaction.
        user_ids: Whose rows are to be written.
        read_epoch: The tenant's erasure epoch before the rows were read from which the new ones are made; None: the
            new rows are made of no other rows.
        beside_retention: Whether the rows may be written while old ones are removed. They refer to no other rows.

    Raises:
        UserBeingErased: For the first of these users in order.
        RowsExpiring: The same, where only a retention is open.
        RecordNotFound: A user is gone: an erasure ended while this transaction waited for it.
    """
    wanted = sorted(set(user_ids))
    present = await lock_users(db, wanted)
    refused = await find_refused(db, dict.fromkeys(wanted, read_epoch))
    expiring = await _find_expiring(db, refused, read_epoch)
    if refused - expiring:
        raise UserBeingErased(min(refused - expiring))
    if expiring and not beside_retention:
        raise RowsExpiring(min(expiring))
    for user_id in wanted:
        if user_id not in present:
            raise RecordNotFound("user", user_id)


async def lock_users(db: AsyncConnection, user_ids: Collection[str]) -> set[str]:
    """Keep erasures of users from being requested until this transaction ends; return the users that exist."""
    lock = select(users.c.id).where(users.c.id.in_(user_ids)).order_by(users.c.id)
    return set((await db.scalars(lock.with_for_update(read=True, key_share=True))).all())


async def find_refused(db: AsyncConnection, read_epochs: Mapping[str, int | None]) -> set[str]:
    """Return those of some users whose new rows are to be refused, and lock the users against new erasures.

    Args:
        db: A connection in a writing transaction.
        read_epochs: By user, the epoch as in `check_may_write`.
    """
    if not read_epochs:
        return set()
    # Lock before looking: an erasure locks its user in the stronger mode, so it is either seen or not there yet.
    await lock_users(db, read_epochs)
    mine = erasures.c.user_id.in_(read_epochs)
    is_open = select(erasures.c.user_id).where(mine, erasures.c.state == "open")
    refused = set((await db.scalars(is_open)).all())
    newest = select(erasures.c.user_id, func.max(erasures.c.epoch)).where(mine, erasures.c.epoch.is_not(None))
    for user_id, epoch in await db.execute(newest.group_by(erasures.c.user_id)):
        read = read_epochs[user_id]
        if read is not None and read < epoch:
            refused.add(user_id)
    return refused


async def _find_expiring(db: AsyncConnection, refused: Collection[str], read_epoch: int | None) -> set[str]:
    """Return those of refused users for whom nothing but a retention is open, and nothing was erased since."""
    if not refused:
        return set()
    mine = erasures.c.user_id.in_(refused)
    erases = [and_(erasures.c.state == "open", erasures.c.kind != "retention")]
    if read_epoch is not None:
        erases.append(erasures.c.epoch > read_epoch)
    return set(refused) - set(await db.scalars(select(erasures.c.user_id).where(mine, or_(*erases))))


async def without_erased(db: AsyncConnection, items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the items whose engagements are there and not being erased, and lock their users as `find_refused` does.

    Args:
        db: A connection in a writing transaction.
        items: (user id, engagement id), read before.
    """
    kept = list(items)
    user_ids = sorted({user_id for user_id, _ in kept})
    for start in range(0, len(user_ids), USERS_A_QUERY):
        kept = await _without_erased_of(db, kept, user_ids[start : start + USERS_A_QUERY])
    return kept


async def _without_erased_of(
    db: AsyncConnection, items: list[tuple[str, str]], user_ids: Sequence[str]
) -> list[tuple[str, str]]:
    refused = await find_refused(db, dict.fromkeys(user_ids))
    # Only of these users may engagements be gone since the items were read.
    erased = set((await db.scalars(select(erasures.c.user_id).where(erasures.c.user_id.in_(user_ids)))).all())
    there = select(engagements.c.user_id, engagements.c.id).where(engagements.c.user_id.in_(erased - refused))
    stored = {(user_id, id) for user_id, id in await db.execute(there)}
    return [item for item in items if item[0] not in refused and (item[0] not in erased or item in stored)]
