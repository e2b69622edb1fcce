"""Traces: what was written, and, in their state, the queue that trainers take from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Ingested, Trace
from mindprint_server.store import holdout as holdouts
from mindprint_server.store import leases, lineage, users
from mindprint_server.store.database import advisory_lock, force_hash_join
from mindprint_server.store.exceptions import BacklogFull, NotFound
from mindprint_server.store.holdout import Holdout
from mindprint_server.store.tables import engagements, traces


async def add(db: AsyncConnection, trace: Trace) -> Trace:
    await users.must_exist(db, trace.user_id)
    if trace.engagement_id is not None:
        await users.engagement(db, trace.user_id, trace.engagement_id)
    await insert(db, [trace])
    return await get(db, trace.id)


async def add_given(
    db: AsyncConnection, user_id: str, new: Sequence[Trace], alike: Callable[[str], str], most: int
) -> Ingested:
    await users.must_exist(db, user_id)
    await advisory_lock(db, f"given traces of {user_id}")  # or two that bring the same would both store it
    wanted = dict.fromkeys(trace.engagement_id for trace in new)
    of_user = engagements.c.user_id == user_id
    there = set((await db.scalars(select(engagements.c.id).where(of_user, engagements.c.id.in_(wanted)))).all())
    for id in wanted:
        if id not in there:
            raise NotFound("engagement", str(id))
    brought = or_(and_(*_for_the_queue()), traces.c.reason == "not_selected")
    mine = [traces.c.user_id == user_id, traces.c.engagement_id.in_(wanted), brought]
    query = select(traces.c.engagement_id, traces.c.thinking).where(*mine)
    known = {(engagement_id, alike(thinking)) for engagement_id, thinking in await db.execute(query)}
    fresh: dict[tuple[str | None, str], Trace] = {}
    for trace in new:
        if (said := (trace.engagement_id, alike(trace.thinking))) not in known:
            fresh.setdefault(said, trace)
    if wait := sum(trace.state == "waiting" for trace in fresh.values()):
        key = f"user/{user_id}"
        waiting = (await backlog(db)).get(key, 0)
        if waiting + wait > most:
            raise BacklogFull(key, waiting, most)
    await insert(db, list(fresh.values()))
    return Ingested(created=len(fresh), unchanged=len(new) - len(fresh))


async def insert(db: AsyncConnection, new: Sequence[Trace]) -> None:
    rows = [trace.model_dump(exclude={"versions"}) | {"adapter": f"user/{trace.user_id}"} for trace in new]
    if rows:
        await db.execute(traces.insert(), rows)


async def get(db: AsyncConnection, id: str) -> Trace:
    found = await find(db, {"id": id})
    if not found:
        raise NotFound("trace", id)
    return found[0]


async def find(
    db: AsyncConnection, equal: Mapping[str, str | None], after: str | None = None, limit: int | None = None
) -> list[Trace]:
    """Traces whose columns equal those given (None: any), in the order of their ids."""
    query = select(traces).order_by(traces.c.id).limit(limit)
    query = query.where(*(traces.c[name] == value for name, value in equal.items() if value is not None))
    if after is not None:
        query = query.where(traces.c.id > after)
    return await _load(db, query)


async def of_lease(db: AsyncConnection, lease_id: str) -> list[Trace]:
    lease = await leases.get(db, lease_id)
    if lease.adapter.startswith("user/"):
        return await find(db, {"lease_id": lease_id})
    return await _load(db, select(traces).where(traces.c.id.in_(lease.trace_ids)).order_by(traces.c.id))


async def _load(db: AsyncConnection, query: Select[Any]) -> list[Trace]:
    rows = (await db.execute(query)).mappings().all()
    trained = await lineage.of_traces(db, [row["id"] for row in rows])
    return [Trace.model_validate(dict(row) | {"versions": trained.get(row["id"], [])}) for row in rows]


async def accepted_texts(db: AsyncConnection, user_id: str) -> set[str]:
    query = select(traces.c.thinking).where(traces.c.user_id == user_id, *_for_the_queue())
    return set((await db.scalars(query)).all())


async def rejected(db: AsyncConnection, user_id: str, reasons: Sequence[str]) -> list[Trace]:
    """Of each engagement the first blind personal trace that was accepted or rejected for `reasons`: the rejected ones.

    Only the base model's or somebody's: an adapter must not learn from what adapters thought.
    """
    firsts = (
        select(func.min(traces.c.id))
        .where(
            traces.c.user_id == user_id,
            traces.c.mode == "personal",
            or_(and_(*_for_the_queue()), and_(traces.c.verdict == "rejected", traces.c.reason.in_(reasons))),
            traces.c.provenance["saw_answer"].as_boolean().is_(False),
            traces.c.provenance["model"].as_string().in_(("base", "given")),
        )
        .group_by(traces.c.engagement_id)
    )
    first = [traces.c.id.in_(firsts), traces.c.verdict == "rejected"]
    return await _load(db, select(traces).where(*first).order_by(traces.c.id))


def _for_the_queue() -> list[Any]:
    """Accepted personal thinking of the base model; other modes' traces are judged right or wrong and only kept."""
    return [traces.c.verdict == "accepted", traces.c.state != "kept"]


async def untraced(db: AsyncConnection, user_ids: Sequence[str] | None, holdout: Holdout) -> list[tuple[str, str]]:
    mine = []
    if user_ids is not None:
        await users.must_exist(db, *user_ids)
        mine = [engagements.c.user_id.in_(user_ids)]
    accepted = select(traces.c.id).where(
        traces.c.user_id == engagements.c.user_id,
        traces.c.engagement_id == engagements.c.id,
        *_for_the_queue(),
    )
    await force_hash_join(db)
    among = select(engagements.c.user_id).where(*mine)
    trainable = holdouts.trainable(holdout, engagements.c.user_id, engagements.c.id, among)
    query = (
        select(engagements.c.user_id, engagements.c.id)
        .where(~accepted.exists(), *mine, *trainable)
        .order_by(engagements.c.user_id, engagements.c.occurred_at, engagements.c.id)
    )
    return [(user_id, id) for user_id, id in await db.execute(query)]


async def backlog(db: AsyncConnection) -> dict[str, int]:
    query = select(traces.c.adapter, func.count()).where(traces.c.state == "waiting").group_by(traces.c.adapter)
    return {adapter: count for adapter, count in await db.execute(query)}


async def revive(db: AsyncConnection, ids: Sequence[str]) -> int:
    dead: list[Any] = [traces.c.id.in_(ids), traces.c.state == "dead"]
    return (await db.execute(update(traces).where(*dead).values(state="waiting", attempts=0))).rowcount
