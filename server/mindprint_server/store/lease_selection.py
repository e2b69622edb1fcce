"""Claims: which adapter a trainer gets, which traces, what is held out of them, and where its training starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import EVERYONE, Lease, Start
from mindprint_server.store import cohorts, leases, lineage, live_versions
from mindprint_server.store import holdout as holdouts
from mindprint_server.store.database import advisory_lock, force_hash_join
from mindprint_server.store.holdout import Holdout
from mindprint_server.store.ids import new_id
from mindprint_server.store.tables import leases as rows
from mindprint_server.store.tables import trace_versions, traces, users, versions

StartFrom = Literal["parent", "cohort", "base"]
ACTIVE = select(rows.c.adapter).where(rows.c.state == "active")
"""Adapters that a trainer holds."""


@dataclass(frozen=True)
class Choice:
    adapter: str
    attempt: int
    traces: Sequence[tuple[str, str]]
    """(trace, user), oldest trace first."""


async def claim(
    db: AsyncConnection,
    *,
    owner: str,
    adapter: str | None,
    ttl_s: float,
    min_traces: int,
    max_traces: int,
    max_attempts: int,
    holdout: Holdout,
    start_from: StartFrom,
    cohort_min_traces: int | None,
    now: datetime,
) -> Lease | None:
    await advisory_lock(
        db, "claims"
    )  # they are few and short; side by side they would take each other's traces in shreds
    await leases.sweep(db, max_attempts, now)
    await force_hash_join(db)
    choice = None
    if cohort_min_traces is not None:
        # Whoever names a cohort has decided that it is time.
        least = max(min_traces, cohort_min_traces) if adapter is None else min_traces
        choice = await _cohort(db, adapter, least, max_traces, max_attempts, holdout)
    choice = choice or await _user(db, adapter, min_traces, max_traces, holdout)
    if choice is None:
        return None
    id, trace_ids = new_id(), [trace_id for trace_id, _ in choice.traces]
    start, live = await _start(db, choice.adapter, start_from), await live_versions.live(db, choice.adapter)
    known = [(v.adapter, v.version) for v in (start, live) if v]
    lease = {
        "id": id,
        "adapter": choice.adapter,
        "owner": owner,
        "state": "active",
        "deadline": now + timedelta(seconds=ttl_s),
        "attempt": choice.attempt,
        "trace_ids": trace_ids,
        "held_out": await _held_out(db, holdout, choice, [f"{key}@{number}" for key, number in known]),
        "start": start.model_dump() if start else None,
        "parent": live.version if live else None,
        "created_at": now,
    }
    await db.execute(rows.insert(), lease)
    if choice.adapter.startswith("user/"):
        await db.execute(update(traces).where(traces.c.id.in_(trace_ids)).values(state="leased", lease_id=id))
    return await leases.get(db, id)


async def _user(db: AsyncConnection, adapter: str | None, least: int, most: int, holdout: Holdout) -> Choice | None:
    """The waiting traces of the user, or of the one with most."""
    waiting = [traces.c.state == "waiting"]
    if adapter is not None:
        waiting.append(traces.c.adapter == adapter)
    trainable = holdouts.trainable(
        holdout, traces.c.user_id, traces.c.engagement_id, select(traces.c.user_id).where(*waiting)
    )
    free = select(traces.c.adapter).where(*waiting, *trainable, traces.c.adapter.not_in(ACTIVE))
    enough = free.group_by(traces.c.adapter).having(func.count() >= least)
    key = await db.scalar(enough.order_by(func.count().desc(), traces.c.adapter).limit(1))
    if key is None:
        return None
    mine = select(traces.c.id, traces.c.user_id, traces.c.attempts).where(*waiting, *trainable, traces.c.adapter == key)
    found = (await db.execute(mine.order_by(traces.c.id).limit(most))).all()
    attempt = 1 + max(row.attempts for row in found)
    return Choice(key, attempt, [(row.id, row.user_id) for row in found])


async def _cohort(
    db: AsyncConnection, adapter: str | None, least: int, most: int, max_attempts: int, holdout: Holdout
) -> Choice | None:
    """The traces that are new to the cohort, or to the one with most."""
    fresh = _fresh_to_cohorts()
    if adapter is not None:
        kind, _, name = adapter.partition("/")
        if kind != "cohort":
            return None
        fresh.append(cohorts.of(name))
    of_users = traces.join(users, users.c.id == traces.c.user_id)
    # Hold-outs are looked at only where there is enough with them.
    enough = select(users.c.cohort).select_from(of_users).where(*fresh).group_by(users.c.cohort)
    by_need = enough.having(func.count() >= least).order_by(func.count().desc(), users.c.cohort)
    held = set((await db.scalars(ACTIVE)).all())
    for cohort in (await db.scalars(by_need)).all():
        name = cohort or EVERYONE
        key = f"cohort/{name}"
        if key in held:
            continue
        members = select(users.c.id).where(cohorts.of(name))
        trainable = holdouts.trainable(holdout, traces.c.user_id, traces.c.engagement_id, members)
        mine = [*_fresh_to_cohorts(), cohorts.of(name), *trainable]
        count, newest = (
            await db.execute(select(func.count(), func.max(traces.c.id)).select_from(of_users).where(*mine))
        ).one()
        if count < least:
            continue
        attempt = 1 + await _bad_ends(db, key, newest)
        if attempt <= max_attempts:
            oldest = select(traces.c.id, traces.c.user_id).select_from(of_users).where(*mine).order_by(traces.c.id)
            return Choice(key, attempt, [(id, user_id) for id, user_id in await db.execute(oldest.limit(most))])
    return None


def _fresh_to_cohorts() -> list[ColumnElement[bool]]:
    """Conditions on traces beside their users: accepted, and in no version that the users' cohort completed."""
    key = "cohort/" + func.coalesce(users.c.cohort, EVERYONE)
    trained = (
        select(trace_versions.c.trace_id)
        .join(versions, _same_version())
        .join(rows, rows.c.id == versions.c.lease_id)
        # A refused version leaves its traces to the next try, as it does with users'.
        .where(trace_versions.c.trace_id == traces.c.id, trace_versions.c.adapter == key, rows.c.state == "completed")
    )
    return [traces.c.verdict == "accepted", traces.c.state.in_(("waiting", "leased", "trained")), ~trained.exists()]


def _same_version() -> Any:
    return (versions.c.adapter == trace_versions.c.adapter) & (versions.c.version == trace_versions.c.version)


async def _bad_ends(db: AsyncConnection, key: str, newest_trace: str) -> int:
    """Leases of an adapter that ran out or were refused since the last one that was completed, and since its newest
    trace came: new traces are a new chance. Ids of both sort by time."""
    mine = rows.c.adapter == key
    completed = select(func.coalesce(func.max(rows.c.id), "")).where(mine, rows.c.state == "completed")
    refused = select(versions.c.version).where(versions.c.lease_id == rows.c.id).exists()
    bad = or_(rows.c.state == "expired", (rows.c.state == "released") & refused)
    since = rows.c.id > completed.scalar_subquery(), rows.c.id > newest_trace
    return (await db.execute(select(func.count()).select_from(rows).where(mine, bad, *since))).scalar_one()


async def _start(db: AsyncConnection, key: str, start_from: StartFrom) -> Start | None:
    """The version whose weights training begins with; None is a fresh adapter."""
    if start_from == "base":
        return None
    kind, _, name = key.partition("/")
    own = [key] if kind == "cohort" or start_from == "parent" else []
    for candidate in own + (await live_versions.cohorts_of(db, name) if kind == "user" else []):
        version = await live_versions.live(db, candidate)
        if version and version.files:
            return Start(adapter=version.adapter, version=version.version, digest=version.digest)
    return None


async def _held_out(
    db: AsyncConnection, holdout: Holdout, choice: Choice, known: Sequence[str]
) -> dict[str, list[str]]:
    """A user's newest engagements may be among what an earlier version was trained on, when older ones came in late or
    the user had too few till now: on those nothing could be examined."""
    user_ids = list(dict.fromkeys(user_id for _, user_id in choice.traces))
    held = await holdouts.of_users(db, holdout, user_ids)
    if not held or not known:
        return held
    seen = await lineage.seen(db, known, user_ids)
    unseen = {user_id: [id for id in ids if (user_id, id) not in seen] for user_id, ids in held.items()}
    return {user_id: ids for user_id, ids in unseen.items() if ids}
