"""Traces: generated or imported thinking with its verdict. Their state is the queue that trainers take from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Ingested, Mode, Trace, TraceState, VerdictLabel
from mindprint.types.keys import AdapterKey
from mindprint_server.store import engagements as engagement_rows
from mindprint_server.store import holdout as holdouts
from mindprint_server.store import leases, lineage, row_counts, tenants
from mindprint_server.store.accepted_texts import reject_repeated
from mindprint_server.store.database import Database, advisory_lock, force_hash_join
from mindprint_server.store.erasing import check_may_write, not_being_erased
from mindprint_server.store.exceptions import BacklogFull, RecordNotFound
from mindprint_server.store.holdout import NO_HOLDOUT, Holdout
from mindprint_server.store.tables import engagements, traces
from mindprint_server.store.users import must_exist
from mindprint_server.tenancy import in_all_tenants


@dataclass(frozen=True)
class Gain:
    """Gain of one candidate, in nats per token of the real answer."""

    engagement_id: str
    closed: bool
    """Whether the question came with choices."""
    gain: float


QUEUE_STATES = ("waiting", "leased", "dead_letter")
"""States of accepted traces that are in no version yet."""


class TraceRepository:
    """Stores traces. The state of a trace is also the queue that trainers take from."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, trace: Trace, *, read_epoch: int | None = None) -> Trace:
        """Store a trace and return it as it is stored.

        An accepted trace whose thinking is that of an accepted one of its engagement is stored as rejected.

        Args:
            trace: The trace.
            read_epoch: The tenant's erasure epoch before the memory was read that its prompt shows.

        Raises:
            UserBeingErased: Data of the user is being erased, or was since `read_epoch`.
        """
        return await self._database.write(_add, trace, read_epoch)

    async def add_imported(
        self,
        user_id: str,
        new: Sequence[Trace],
        *,
        fingerprint: Callable[[str], str],
        max_waiting: int,
        read_epoch: int | None = None,
    ) -> Ingested:
        """Store imported traces of one user, all or none; leave out those whose thinking is known already.

        Args:
            user_id: Whose traces.
            new: Traces of stored engagements of this user.
            fingerprint: Maps a thinking to a text; two thinkings of one engagement are the same if their texts are.
            max_waiting: Maximum number of traces that may wait for the user's adapter afterwards.
            read_epoch: The tenant's erasure epoch before the memory was read that the prompts show.

        Returns:
            How many were stored and how many were left out.

        Raises:
            BacklogFull: More than `max_waiting` traces would wait.
            UserBeingErased: Data of the user is being erased, or was since `read_epoch`.
        """
        return await self._database.write(_add_imported, user_id, new, fingerprint, max_waiting, read_epoch)

    async def get(self, trace_id: str) -> Trace:
        """Return a trace with the versions that were trained on it."""
        return await self._database.read(_get, trace_id)

    async def find(
        self,
        *,
        user: str | None = None,
        engagement: str | None = None,
        mode: Mode | None = None,
        batch: str | None = None,
        verdict: VerdictLabel | None = None,
        state: TraceState | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[Trace]:
        """Find traces that match all given filters, ordered by id, which is by time.

        Args:
            user: Id of the user.
            engagement: Id of the engagement.
            mode: Mode in which the thinking was generated.
            batch: Id of the batch.
            verdict: What the checks decided.
            state: State in the training queue.
            after: Last id of the previous page; None starts at the beginning.
            limit: Maximum number of traces.
        """
        equal = {
            "user_id": user,
            "engagement_id": engagement,
            "mode": mode,
            "batch_id": batch,
            "verdict": verdict,
            "state": state,
        }
        return await self._database.read(_find, equal, after, limit)

    async def list_of_lease(self, lease_id: str) -> list[Trace]:
        """List the traces that a lease holds, or that were trained under it, ordered by id.

        For the lease of a cohort these are all traces that it lists.
        """
        return await self._database.read(_list_of_lease, lease_id)

    async def list_accepted_texts(self, user_id: str) -> set[str]:
        """Return the thinking of all accepted traces of a user."""
        return await self._database.read(_list_accepted_texts, user_id)

    async def list_first_rejected(self, user_id: str, reasons: Sequence[str]) -> list[Trace]:
        """List each engagement's first unhinted trace whose text is sound, if it was rejected for one of `reasons`.

        A trace's text is sound if the trace was accepted or rejected for one of `reasons`. Only traces of the base
        model and imported traces count: an adapter must not learn from the thinking of an adapter.
        """
        return await self._database.read(_list_first_rejected, user_id, reasons)

    async def list_untraced(
        self, user_ids: Sequence[str] | None, holdout: Holdout = NO_HOLDOUT
    ) -> list[tuple[str, str]]:
        """List engagements that have no accepted trace and are not held out, ordered by user, then time.

        Users who are being erased are left out.

        Args:
            user_ids: Only engagements of these users; None: of all users.
            holdout: Which engagements are held out.

        Returns:
            Pairs (user id, engagement id).
        """
        return await self._database.read(_list_untraced, user_ids, holdout)

    async def list_gains(self, user_id: str, *, base_digest: str, prompt_version: str, limit: int) -> list[Gain]:
        """List Gains of the user's newest unhinted personal candidates, whatever their verdict, newest first.

        Closed questions count only where they were part of a batch: outside of a batch only correct answers have a
        Gain, which would bias the mean upwards.

        Args:
            user_id: Whose candidates.
            base_digest: Only candidates of this base model.
            prompt_version: Only candidates of this version of the prompts.
            limit: Maximum number of Gains.
        """
        return await self._database.read(_list_gains, user_id, base_digest, prompt_version, limit)

    async def count_waiting(self) -> dict[str, int]:
        """Count the traces that wait for training, by adapter key."""
        return await self._database.read(_count_waiting)

    async def count_queue(self) -> dict[tuple[str, str], int]:
        """Count the accepted traces in the queues of all tenants, by tenant and state.

        The states are `waiting`, `leased` and `dead_letter`.
        """
        with in_all_tenants():
            return await self._database.read(_count_queue)

    async def requeue(self, trace_ids: Sequence[str] | None = None, *, user_id: str | None = None) -> int:
        """Put dead letters back into the queue, with no attempts counted.

        Args:
            trace_ids: Only these traces; None: of any id.
            user_id: Only traces of this user; None: of all users.

        Returns:
            How many of these traces were dead letters.

        Raises:
            RecordNotFound: The user does not exist.
        """
        return await self._database.write(_requeue, trace_ids, user_id)


async def _add(db: AsyncConnection, trace: Trace, read_epoch: int | None) -> Trace:
    await must_exist(db, trace.user_id)
    await check_may_write(db, [trace.user_id], read_epoch)
    if trace.engagement_id is not None:
        await engagement_rows.get(db, trace.user_id, trace.engagement_id)
    await insert(db, await reject_repeated(db, [trace]))
    return await _get(db, trace.id)


async def _add_imported(
    db: AsyncConnection,
    user_id: str,
    new: Sequence[Trace],
    fingerprint: Callable[[str], str],
    max_waiting: int,
    read_epoch: int | None,
) -> Ingested:
    await must_exist(db, user_id)
    await check_may_write(db, [user_id], read_epoch)
    # Without this lock, two imports of the same trace at the same time would both store it.
    await advisory_lock(db, f"imported traces of {user_id}")
    wanted = dict.fromkeys(trace.engagement_id for trace in new)
    of_user = engagements.c.user_id == user_id
    stored = set((await db.scalars(select(engagements.c.id).where(of_user, engagements.c.id.in_(wanted)))).all())
    for id in wanted:
        if id not in stored:
            raise RecordNotFound("engagement", str(id))
    imported = or_(and_(*_accepted_for_queue()), traces.c.reason == "not_selected")
    mine = [traces.c.user_id == user_id, traces.c.engagement_id.in_(wanted), imported]
    query = select(traces.c.engagement_id, traces.c.thinking).where(*mine)
    known = {(engagement_id, fingerprint(thinking)) for engagement_id, thinking in await db.execute(query)}
    fresh: dict[tuple[str | None, str], Trace] = {}
    for trace in new:
        if (identity := (trace.engagement_id, fingerprint(trace.thinking))) not in known:
            fresh.setdefault(identity, trace)
    if added := sum(trace.state == "waiting" for trace in fresh.values()):
        key = AdapterKey.user(user_id)
        waiting = (await _count_waiting(db)).get(key, 0)
        if waiting + added > max_waiting:
            raise BacklogFull(key, waiting, max_waiting)
    await insert(db, list(fresh.values()))
    return Ingested(created=len(fresh), unchanged=len(new) - len(fresh))


async def insert(db: AsyncConnection, new: Sequence[Trace]) -> None:
    """Insert traces of users who exist; each belongs to the queue of its user's adapter."""
    rows = [trace.model_dump(exclude={"versions"}) | {"adapter": AdapterKey.user(trace.user_id)} for trace in new]
    if rows:
        # With RETURNING, many rows are one statement on PostgreSQL. Without it, each row is one.
        await db.execute(traces.insert().returning(traces.c.id), rows)


async def _get(db: AsyncConnection, id: str) -> Trace:
    found = await _find(db, {"id": id})
    if not found:
        raise RecordNotFound("trace", id)
    return found[0]


async def _find(
    db: AsyncConnection, equal: Mapping[str, str | None], after: str | None = None, limit: int | None = None
) -> list[Trace]:
    # A filter of None matches every trace.
    query = select(traces).order_by(traces.c.id).limit(limit)
    query = query.where(*(traces.c[name] == value for name, value in equal.items() if value is not None))
    if after is not None:
        query = query.where(traces.c.id > after)
    return await _load(db, query)


async def _list_of_lease(db: AsyncConnection, lease_id: str) -> list[Trace]:
    lease = await leases.get(db, lease_id)
    if AdapterKey(lease.adapter).kind == "user":
        return await _find(db, {"lease_id": lease_id})
    return await _load(db, select(traces).where(traces.c.id.in_(lease.trace_ids)).order_by(traces.c.id))


async def _load(db: AsyncConnection, query: Select[Any]) -> list[Trace]:
    rows = (await db.execute(query)).mappings().all()
    trained = await lineage.list_versions_by_trace(db, [row["id"] for row in rows])
    return [Trace.model_validate(dict(row) | {"versions": trained.get(row["id"], [])}) for row in rows]


async def _list_accepted_texts(db: AsyncConnection, user_id: str) -> set[str]:
    query = select(traces.c.thinking).where(traces.c.user_id == user_id, *_accepted_for_queue())
    return set((await db.scalars(query)).all())


async def _list_first_rejected(db: AsyncConnection, user_id: str, reasons: Sequence[str]) -> list[Trace]:
    judged = or_(and_(*_accepted_for_queue()), and_(traces.c.verdict == "rejected", traces.c.reason.in_(reasons)))
    mine = [
        traces.c.user_id == user_id,
        traces.c.mode == "personal",
        judged,
        traces.c.provenance["saw_answer"].as_boolean().is_(False),
        traces.c.provenance["model"].as_string().in_(("base", "imported")),
    ]
    # One pass. With `id IN (SELECT min(id) ...)` PostgreSQL without statistics ran the inner query for each row.
    place = func.row_number().over(partition_by=traces.c.engagement_id, order_by=traces.c.id).label("place")
    ranked = select(traces, place).where(*mine).subquery()
    firsts = select(*(ranked.c[column.name] for column in traces.c)).where(
        ranked.c.place == 1, ranked.c.verdict == "rejected"
    )
    return await _load(db, firsts.order_by(ranked.c.id))


def _accepted_for_queue() -> list[Any]:
    """Return conditions for accepted traces that are meant for training.

    Traces of other modes have a verdict too, but are `stored`: they never enter the queue.
    """
    return [traces.c.verdict == "accepted", traces.c.state != "stored"]


async def _list_untraced(
    db: AsyncConnection, user_ids: Sequence[str] | None, holdout: Holdout
) -> list[tuple[str, str]]:
    mine = []
    if user_ids is not None:
        await must_exist(db, *user_ids)
        mine = [engagements.c.user_id.in_(user_ids)]
    accepted = select(traces.c.id).where(
        traces.c.user_id == engagements.c.user_id,
        traces.c.engagement_id == engagements.c.id,
        *_accepted_for_queue(),
    )
    await force_hash_join(db)
    among = select(engagements.c.user_id).where(*mine)
    trainable = holdouts.trainable(holdout, engagements.c.user_id, engagements.c.id, among)
    query = (
        select(engagements.c.user_id, engagements.c.id)
        .where(~accepted.exists(), *mine, *trainable, not_being_erased(engagements.c.user_id))
        .order_by(engagements.c.user_id, engagements.c.occurred_at, engagements.c.id)
    )
    return [(user_id, id) for user_id, id in await db.execute(query)]


async def _list_gains(
    db: AsyncConnection, user_id: str, base_digest: str, prompt_version: str, limit: int
) -> list[Gain]:
    provenance, gain = traces.c.provenance, traces.c.scores["gain"].as_float()
    closed = traces.c.choice_logprobs.is_not(None)
    query = (
        select(traces.c.engagement_id, closed, gain)
        .where(
            traces.c.user_id == user_id,
            traces.c.engagement_id.is_not(None),
            traces.c.mode == "personal",
            provenance["model"].as_string() == "base",
            provenance["base_digest"].as_string() == base_digest,
            provenance["prompt_version"].as_string() == prompt_version,
            provenance["saw_answer"].as_boolean().is_(False),
            gain.is_not(None),
            # A batch scores the direct answer of every engagement (`prefilter_by_prior`), so candidates with a wrong
            # answer have a Gain too. Outside of a batch only those with the correct answer have one.
            or_(traces.c.batch_id.is_not(None), ~closed),
        )
        .order_by(traces.c.id.desc())
        .limit(limit)
    )
    return [Gain(engagement_id, bool(is_closed), value) for engagement_id, is_closed, value in await db.execute(query)]


async def _count_waiting(db: AsyncConnection) -> dict[str, int]:
    query = select(traces.c.adapter, func.count()).where(traces.c.state == "waiting").group_by(traces.c.adapter)
    return {adapter: count for adapter, count in await db.execute(query)}


async def _count_queue(db: AsyncConnection) -> dict[tuple[str, str], int]:
    return await row_counts.of_states(db, await tenants.list_all(db), QUEUE_STATES)


async def _requeue(db: AsyncConnection, ids: Sequence[str] | None, user_id: str | None) -> int:
    dead: list[Any] = [traces.c.state == "dead_letter"]
    if ids is not None:
        dead.append(traces.c.id.in_(ids))
    if user_id is not None:
        await must_exist(db, user_id)
        dead.append(traces.c.user_id == user_id)
    return (await db.execute(update(traces).where(*dead).values(state="waiting", attempts=0))).rowcount
