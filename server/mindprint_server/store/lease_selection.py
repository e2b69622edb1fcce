"""Chooses what a new lease holds: adapter, traces, held-out engagements, and the version that training starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from sqlalchemy import ColumnElement, Label, LargeBinary, Select, Text, cast, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import EVERYONE, LeaseRequest, Start, Version
from mindprint.types.keys import COHORT_PREFIX, AdapterKey
from mindprint_server.store import holdout as holdouts
from mindprint_server.store import lineage, live_versions
from mindprint_server.store.database import force_hash_join
from mindprint_server.store.erasing import not_being_erased
from mindprint_server.store.holdout import NO_HOLDOUT, Holdout
from mindprint_server.store.tables import engagements, erasures, trace_versions, traces, users, versions
from mindprint_server.store.tables import leases as rows
from mindprint_server.store.users import in_cohort

StartFrom = Literal["parent", "cohort", "base"]
ACTIVE = select(rows.c.adapter).where(rows.c.state == "active")
"""Query for the adapters that have an active lease."""

WITH_VERSIONS = select(versions.c.adapter).distinct()
"""Query for the adapters that have a version."""

BEING_ERASED = select(erasures.c.user_id).where(erasures.c.state == "open")
"""Query for the users of whom an erasure is open."""

IN_COHORTS = ("waiting", "leased", "trained")
"""States of the accepted traces that a cohort's adapter may be trained on."""

USERS_RANKED_AT_ONCE = 16
MAX_USERS_RANKED_AT_ONCE = 1024
"""Users whose held-out engagements are found with one statement: twice as many in each, up to here."""


@dataclass(frozen=True)
class ClaimPolicy:
    """What the server decides about claims; a `LeaseRequest` says what the trainer wants."""

    max_attempts: int
    """Maximum number of failed leases of a trace, or of a cohort without new traces."""
    holdout: Holdout = NO_HOLDOUT
    """Which engagements are held out: their traces do not count and stay in the queue."""
    start_from: StartFrom = "parent"
    """`parent`: start from the adapter's own live version, else from that of the user's cohort, else of `everyone`.
    `cohort`: as `parent`, but a user's adapter never starts from its own version. `base`: always start afresh."""
    cohort_min_traces: int | None = None
    """New traces that a cohort needs before it is claimed without being named; None: cohorts are never claimed."""
    base_digest: str | None = None
    """The base model. Training starts from a version of it only; None: from any."""
    may_add_adapters: bool = True
    """Whether an adapter without a version may be chosen."""
    max_trace_bytes: int | None = None
    """Most bytes of the texts of the chosen traces, of which there is at least one; None: no bound."""
    ends_expired: bool = True
    """Whether leases past their deadline end first. Right after its start a server leaves them to their trainers."""


@dataclass(frozen=True)
class LeaseSelection:
    """The adapter and the traces of a new lease.

    It is chosen before the transaction that writes the lease, which then confirms it.
    """

    adapter: str
    attempt: int
    traces: Sequence[tuple[str, str]]
    """(trace, user), oldest trace first."""


async def select_traces(db: AsyncConnection, request: LeaseRequest, policy: ClaimPolicy) -> LeaseSelection | None:
    """Choose the adapter and the traces of a new lease; None if no adapter has enough traces."""
    await force_hash_join(db)
    selection = None
    if policy.cohort_min_traces is not None:
        min_traces = request.min_traces
        if request.adapter is None:
            min_traces = max(min_traces, policy.cohort_min_traces)
        selection = await _select_cohort(db, request, policy, min_traces)
    return selection or await _select_user(db, request, policy)


async def _select_user(db: AsyncConnection, request: LeaseRequest, policy: ClaimPolicy) -> LeaseSelection | None:
    """Choose the oldest waiting traces of the named user, or of the user with most."""
    for key in await _rank_users(db, request, policy):
        mine = [traces.c.state == "waiting", traces.c.adapter == key, not_being_erased(traces.c.user_id)]
        mine += _trainable(policy, [AdapterKey(key).name])
        columns = traces.c.id, traces.c.user_id, traces.c.attempts, _bytes_of_trace(db)
        query = select(*columns).select_from(_WITH_CHOICES).where(*mine).order_by(traces.c.id)
        found = (await db.execute(query.limit(request.max_traces))).all()
        found = found[: fitting([row.size for row in found], policy.max_trace_bytes)]
        # None are left if an erasure of the user was requested in between.
        if found:
            attempt = 1 + max(row.attempts for row in found)
            return LeaseSelection(key, attempt, [(row.id, row.user_id) for row in found])
    return None


async def _rank_users(db: AsyncConnection, request: LeaseRequest, policy: ClaimPolicy) -> list[str]:
    """Return the adapter that has most traces to train on, if it has enough; the first by key of several.

    Which traces are held out is found for few users at a time, those with most waiting traces first: no user has more
    traces to train on than waiting ones.
    """
    named = [] if request.adapter is None else [traces.c.adapter == request.adapter]
    # Only columns of the index of the queue: other conditions would read each waiting trace.
    count = func.count().label("count")
    waiting = select(traces.c.adapter, count).where(traces.c.state == "waiting", *named).group_by(traces.c.adapter)
    query = waiting.having(count >= request.min_traces).order_by(count.desc(), traces.c.adapter)
    closed = {*await db.scalars(ACTIVE), *map(AdapterKey.user, await db.scalars(BEING_ERASED))}
    known = None if policy.may_add_adapters else set(await db.scalars(WITH_VERSIONS))
    ranked = [
        (-most, key) for key, most in await db.execute(query) if key not in closed and (known is None or key in known)
    ]
    best: tuple[int, str] | None = None
    start, size = 0, USERS_RANKED_AT_ONCE
    while start < len(ranked) and (best is None or ranked[start] < best):
        keys = [key for _, key in ranked[start : start + size]]
        of_keys = traces.c.state == "waiting", traces.c.adapter.in_(keys)
        trainable = _trainable(policy, [AdapterKey(key).name for key in keys])
        exact = select(traces.c.adapter, count).where(*of_keys, *trainable).group_by(traces.c.adapter)
        counts = [(-most, key) for key, most in await db.execute(exact.having(count >= request.min_traces))]
        best = min([*counts, *([best] if best else [])], default=None)
        start, size = start + size, min(2 * size, MAX_USERS_RANKED_AT_ONCE)
    return [best[1]] if best else []


def _trainable(policy: ClaimPolicy, user_ids: Sequence[str]) -> list[ColumnElement[bool]]:
    return holdouts.trainable(policy.holdout, traces.c.user_id, traces.c.engagement_id, user_ids)


async def _select_cohort(
    db: AsyncConnection, request: LeaseRequest, policy: ClaimPolicy, min_traces: int
) -> LeaseSelection | None:
    """Choose the oldest traces that are new to the named cohort, or to the cohort with most."""
    fresh = _fresh_to_cohorts()
    if request.adapter is not None:
        named = AdapterKey(request.adapter)
        if named.kind != "cohort":
            return None
        fresh.append(in_cohort(named.name))
    of_users = traces.join(users, users.c.id == traces.c.user_id)
    # Ranking engagements for the hold-out is expensive: do it only for cohorts that have enough traces without it.
    enough = select(users.c.cohort).select_from(of_users).where(*fresh).group_by(users.c.cohort)
    by_need = enough.having(func.count() >= min_traces).order_by(func.count().desc(), users.c.cohort)
    held = set((await db.scalars(ACTIVE)).all())
    known = None if policy.may_add_adapters else set((await db.scalars(WITH_VERSIONS)).all())
    for cohort in (await db.scalars(by_need)).all():
        name = cohort or EVERYONE
        key = AdapterKey.cohort(name)
        if key in held or (known is not None and key not in known):
            continue
        members = select(users.c.id).where(in_cohort(name))
        trainable = holdouts.trainable(policy.holdout, traces.c.user_id, traces.c.engagement_id, members)
        mine = [*_fresh_to_cohorts(), in_cohort(name), *trainable]
        count, newest = (
            await db.execute(select(func.count(), func.max(traces.c.id)).select_from(of_users).where(*mine))
        ).one()
        if count < min_traces:
            continue
        attempt = 1 + await _count_failed_leases(db, key, newest)
        if attempt <= policy.max_attempts:
            with_choices = _WITH_CHOICES.join(users, users.c.id == traces.c.user_id)
            oldest = select(traces.c.id, traces.c.user_id, _bytes_of_trace(db)).select_from(with_choices).where(*mine)
            found = (await db.execute(oldest.order_by(traces.c.id).limit(request.max_traces))).all()
            count = fitting([row.size for row in found], policy.max_trace_bytes)
            return LeaseSelection(key, attempt, [(row.id, row.user_id) for row in found[:count]])
    return None


async def is_still_free(db: AsyncConnection, selection: LeaseSelection, policy: ClaimPolicy) -> bool:
    """Return whether everything that a selection rests on is as it was. It reads the selection's own rows alone."""
    key, ids = AdapterKey(selection.adapter), [id for id, _ in selection.traces]
    user_ids = list(dict.fromkeys(user_id for _, user_id in selection.traces))
    if await db.scalar(ACTIVE.where(rows.c.adapter == key)) is not None:
        return False
    if await db.scalar(BEING_ERASED.where(erasures.c.user_id.in_(user_ids)).limit(1)) is not None:
        return False
    states = ("waiting",) if key.kind == "user" else IN_COHORTS
    wanted = traces.c.id.in_(ids), traces.c.verdict == "accepted", traces.c.state.in_(states)
    found = (await db.execute(select(traces.c.user_id, traces.c.engagement_id).where(*wanted))).all()
    if len(found) < len(ids):
        return False
    if policy.holdout.share:
        held = await holdouts.of_users(db, policy.holdout, user_ids)
        if any(id is None or id in held.get(user_id, ()) for user_id, id in found):
            return False
    if key.kind == "user":
        return True
    members = select(func.count()).select_from(users).where(users.c.id.in_(user_ids), in_cohort(key.name))
    trained = _in_completed_version(trace_versions.c.trace_id.in_(ids), key).limit(1)
    return await db.scalar(members) == len(user_ids) and await db.scalar(trained) is None


_WITH_CHOICES = traces.outerjoin(
    engagements, (engagements.c.user_id == traces.c.user_id) & (engagements.c.id == traces.c.engagement_id)
)
"""Traces with their engagements, whose choices are in the samples."""
SAMPLE_OVERHEAD_BYTES = 256
"""Bytes of a sample beside the texts of its trace: ids, tags, the answer prefix."""


def _bytes_of_trace(db: AsyncConnection) -> Label[int]:
    """Return an expression, `size`, for the bytes that the sample of a trace takes."""

    def size(column: ColumnElement[Any]) -> ColumnElement[int]:
        if db.dialect.name == "postgresql":
            return func.octet_length(cast(column, Text))
        return func.length(cast(cast(column, Text), LargeBinary))

    texts = [size(column) for column in (traces.c.prompt, traces.c.thinking, traces.c.answer)]
    total = sum(texts, func.coalesce(size(engagements.c.choices), 0))
    return (total + SAMPLE_OVERHEAD_BYTES).label("size")


def fitting(sizes: Sequence[int], most: int | None) -> int:
    """Return how many of the first traces take `most` bytes at most; at least 1 if there is one."""
    if most is None:
        return len(sizes)
    fits = sum(total <= most for total in accumulate(sizes))
    return max(fits, min(1, len(sizes)))


def _fresh_to_cohorts() -> list[ColumnElement[bool]]:
    """Return conditions on traces joined with users: accepted, and in no completed version of the users' cohort."""
    key = COHORT_PREFIX + func.coalesce(users.c.cohort, EVERYONE)
    trained = _in_completed_version(trace_versions.c.trace_id == traces.c.id, key)
    states = traces.c.state.in_(IN_COHORTS)
    return [traces.c.verdict == "accepted", states, ~trained.exists(), not_being_erased(traces.c.user_id)]


def _in_completed_version(which: ColumnElement[bool], key: ColumnElement[str] | str) -> Select[tuple[str]]:
    """Select those of some traces that a completed version of an adapter was trained on.

    Traces of a refused version, and of one that an erasure withdrew, stay available for the next lease.
    """
    return (
        select(trace_versions.c.trace_id)
        .join(versions, _same_version())
        .join(rows, rows.c.id == versions.c.lease_id)
        .where(which, trace_versions.c.adapter == key, rows.c.state == "completed", versions.c.erasure_id.is_(None))
    )


def _same_version() -> Any:
    return (versions.c.adapter == trace_versions.c.adapter) & (versions.c.version == trace_versions.c.version)


async def _count_failed_leases(db: AsyncConnection, key: str, newest_trace: str) -> int:
    """Count the failed leases of an adapter since its last completed lease and its newest trace.

    A lease failed if it expired or its version was refused.

    Failures before the newest trace do not count, because training with new traces may succeed. Ids of leases and
    traces sort by time.
    """
    mine = (rows.c.adapter == key) & rows.c.imported.is_(False)
    completed = select(func.coalesce(func.max(rows.c.id), "")).where(mine, rows.c.state == "completed")
    refused = select(versions.c.version).where(versions.c.lease_id == rows.c.id).exists()
    failed = or_(rows.c.state == "expired", (rows.c.state == "released") & refused)
    since = rows.c.id > completed.scalar_subquery(), rows.c.id > newest_trace
    return (await db.execute(select(func.count()).select_from(rows).where(mine, failed, *since))).scalar_one()


async def find_start(db: AsyncConnection, key: str, policy: ClaimPolicy) -> Start | None:
    """Return the version whose weights training starts from; None is a fresh adapter."""
    if policy.start_from == "base":
        return None
    adapter = AdapterKey(key)
    own = [key] if adapter.kind == "cohort" or policy.start_from == "parent" else []
    for source in own + (
        await live_versions.list_fallback_adapters(db, adapter.name) if adapter.kind == "user" else []
    ):
        version = (await live_versions.get(db, source)).live
        if version is None or not version.files or policy.base_digest not in (None, version.base_digest):
            continue
        # The trainer knows its own kind of adapters only: one rank, one alpha, all layers.
        if not await _is_imported(db, version):
            return Start(adapter=version.adapter, version=version.version, digest=version.digest)
    return None


async def _is_imported(db: AsyncConnection, version: Version) -> bool:
    of_version = versions.c.adapter == version.adapter, versions.c.version == version.version
    imported = select(rows.c.imported).join(versions, versions.c.lease_id == rows.c.id).where(*of_version)
    return bool(await db.scalar(imported))


async def list_members(db: AsyncConnection, key: str, holdout: Holdout, limit: int) -> list[str]:
    """List the adapter's users that may have held-out engagements, ordered by id.

    Args:
        db: The connection.
        key: The adapter.
        holdout: Users with fewer engagements than it asks for are left out.
        limit: Maximum number of users.
    """
    adapter = AdapterKey(key)
    members = engagements.c.user_id == adapter.name
    if adapter.kind == "cohort":
        members = engagements.c.user_id.in_(select(users.c.id).where(in_cohort(adapter.name)))
    enough = select(engagements.c.user_id).where(members).group_by(engagements.c.user_id)
    query = enough.having(func.count() >= holdout.min_engagements).order_by(engagements.c.user_id).limit(limit)
    return list((await db.scalars(query)).all())


async def find_held_out(
    db: AsyncConnection, holdout: Holdout, selection: LeaseSelection, trained: Sequence[str]
) -> dict[str, list[str]]:
    """Return held-out engagements by user, without those that the versions `trained` or their ancestors learned from.

    A user's newest engagements may be among those: older engagements arrived late, or the user had too few before.
    The gate cannot measure a version on what it was trained on.
    """
    user_ids = list(dict.fromkeys(user_id for _, user_id in selection.traces))
    held = await holdouts.of_users(db, holdout, user_ids)
    if not held or not trained:
        return held
    seen = await lineage.find_trained_engagements(db, trained, user_ids)
    unseen = {user_id: [id for id in ids if (user_id, id) not in seen] for user_id, ids in held.items()}
    return {user_id: ids for user_id, ids in unseen.items() if ids}
