"""What an erasure removes, and the versions and leases that learned from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, Select, and_, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Check, ErasureKind, Manifest, ParityItem, Start
from mindprint.types.keys import AdapterKey, VersionRef
from mindprint_server.store import live_versions, publication_jobs
from mindprint_server.store.database import advisory_lock
from mindprint_server.store.tables import (
    batch_items,
    engagements,
    leases,
    profiles,
    trace_versions,
    traces,
    version_users,
    versions,
)

T = TypeVar("T")
CHECK = "erased_data"
"""Name of the check that a version fails once it learned from erased rows."""
NO_PARITY_ITEM = ParityItem(prompt_ids=[0], target_ids=[0], logprobs=[0.0], base_logprobs=[0.0])
"""Stands in the manifest of a withdrawn version: the trainer's items hold token ids of the samples."""
IDS_A_QUERY = 500
"""Ids in one IN list."""


class ErasureTarget(BaseModel, frozen=True):
    """What an erasure removes."""

    kind: ErasureKind
    user_id: str
    engagement_id: str | None = None
    after: datetime | None = None
    before: datetime | None = None
    traces_before: datetime | None = None
    """Only of a retention: traces that were written before this time go too."""


class ErasurePlan(BaseModel):
    """Ids of what an erasure removes."""

    engagements: list[str] = Field(default_factory=list)
    profiles: list[str] = Field(default_factory=list)
    """Their versions."""
    traces: list[str] = Field(default_factory=list)
    batch_items: list[str] = Field(default_factory=list)
    """Batch id, `/`, engagement id."""
    versions: list[str] = Field(default_factory=list)
    """Versions of the user's own adapter, whose rows go."""
    withdrawn: list[str] = Field(default_factory=list)
    """Other versions that learned from the rows. Their rows stay."""
    artifacts: list[str] = Field(default_factory=list)
    """Under which the files of all these versions, and of the uploads of revoked leases, are stored."""
    revoked_leases: list[str] = Field(default_factory=list)
    retraining: list[str] = Field(default_factory=list)
    """Adapters that had a version withdrawn."""

    @property
    def without_files(self) -> list[str]:
        """Return the names of the versions whose files go."""
        return [*self.versions, *self.withdrawn]


def is_erased(target: ErasureTarget) -> list[ColumnElement[bool]]:
    """Return the conditions on the engagements that go."""
    conditions = [engagements.c.user_id == target.user_id]
    if target.engagement_id is not None:
        conditions.append(engagements.c.id == target.engagement_id)
    if target.after is not None:
        conditions.append(engagements.c.occurred_at >= target.after)
    if target.before is not None:
        conditions.append(engagements.c.occurred_at < target.before)
    if target.kind == "retention" and target.before is None:
        conditions.append(engagements.c.id.is_(None))  # traces alone are too old
    return conditions


async def make(db: AsyncConnection, erasure_id: str, target: ErasureTarget) -> ErasurePlan:
    """Make the plan of an erasure. Revoke the leases, and withdraw the versions, that its rows are in."""
    # First wait for publications that are being committed: their versions are then seen, and later ones are refused.
    await db.execute(_active_leases().with_for_update())
    if target.kind == "retention":
        return await _too_old(db, target)
    plan, shown = await _rows(db, target)
    tainted = await _list_tainted(db, target, plan, shown)
    plan.artifacts = await _list_artifacts(db, tainted)
    plan.revoked_leases = await _revoke_leases(db, erasure_id, target, tainted)
    plan.artifacts += await publication_jobs.revoke(db, plan.revoked_leases, erasure_id)
    own = AdapterKey.user(target.user_id)
    goes: set[str] = {own} if target.kind == "user" else set()
    plan.versions = [name for name in tainted if VersionRef(name).key in goes]
    plan.withdrawn = await _withdraw(db, erasure_id, tainted, goes)
    plan.retraining = list(dict.fromkeys(str(VersionRef(name).key) for name in plan.withdrawn))
    return plan


# --- rows ---


async def _rows(db: AsyncConnection, target: ErasureTarget) -> tuple[ErasurePlan, set[str]]:
    """Return the plan's rows, and the ids of the engagements whose prompts may show the erased ones."""
    erased = (await db.execute(select(engagements.c.id, engagements.c.occurred_at).where(*is_erased(target)))).all()
    mine = traces.c.user_id == target.user_id
    if target.kind == "user":
        is_shown, of_traces, of_profiles = [engagements.c.user_id == target.user_id], [mine], []
    elif erased:
        oldest = min(row.occurred_at for row in erased)
        later = or_(engagements.c.occurred_at > oldest, and_(*is_erased(target)))
        is_shown = [engagements.c.user_id == target.user_id, later]
        of_traces = [mine, or_(traces.c.engagement_id.is_(None), later)]
        # A profile summarises all engagements up to its time.
        of_profiles = [profiles.c.covers_until >= oldest]
    else:
        return ErasurePlan(), set()
    same = (engagements.c.user_id == traces.c.user_id) & (engagements.c.id == traces.c.engagement_id)
    found = select(traces.c.id).select_from(traces.outerjoin(engagements, same)).where(*of_traces)
    written = select(profiles.c.version).where(profiles.c.user_id == target.user_id, *of_profiles)
    ids = sorted(row.id for row in erased)
    plan = ErasurePlan(
        engagements=ids,
        traces=list((await db.scalars(found.order_by(traces.c.id))).all()),
        profiles=[str(version) for version in (await db.scalars(written.order_by(profiles.c.version))).all()],
        batch_items=await _list_batch_items(db, target.user_id, ids),
    )
    return plan, set((await db.scalars(select(engagements.c.id).where(*is_shown))).all())


async def _list_batch_items(db: AsyncConnection, user_id: str, engagement_ids: Sequence[str]) -> list[str]:
    names: list[str] = []
    for ids in _pieces(engagement_ids):
        of_ids = batch_items.c.user_id == user_id, batch_items.c.engagement_id.in_(ids)
        query = select(batch_items.c.batch_id, batch_items.c.engagement_id).where(*of_ids)
        names += [f"{batch_id}/{engagement_id}" for batch_id, engagement_id in await db.execute(query)]
    return sorted(names)


async def _too_old(db: AsyncConnection, target: ErasureTarget) -> ErasurePlan:
    """Return the rows of a user that are older than they may be. What an active lease holds waits for the next time."""
    held = {id for ids in await db.scalars(select(leases.c.trace_ids).where(leases.c.state == "active")) for id in ids}
    old = set((await db.scalars(select(engagements.c.id).where(*is_erased(target)))).all())
    written = select(traces.c.id, traces.c.engagement_id, traces.c.created_at).where(traces.c.user_id == target.user_id)
    rows = (await db.execute(written.order_by(traces.c.id))).all()
    old -= {row.engagement_id for row in rows if row.id in held}
    before = target.traces_before
    gone = [
        row.id
        for row in rows
        if row.id not in held and (row.engagement_id in old or (before is not None and row.created_at < before))
    ]
    summaries: list[int] = []
    if target.before is not None:
        covered = profiles.c.user_id == target.user_id, profiles.c.covers_until < target.before
        summaries = list((await db.scalars(select(profiles.c.version).where(*covered))).all())
    return ErasurePlan(
        engagements=sorted(old),
        traces=gone,
        profiles=[str(version) for version in sorted(summaries)],
        batch_items=await _list_batch_items(db, target.user_id, sorted(old)),
    )


# --- versions ---


async def _list_tainted(db: AsyncConnection, target: ErasureTarget, plan: ErasurePlan, shown: set[str]) -> list[str]:
    """List the versions that learned from the rows, and all that started from one of them, by adapter and number."""
    of_user = select(version_users.c.adapter, version_users.c.version).where(version_users.c.user_id == target.user_id)
    learned = {(key, number) for key, number in await db.execute(of_user)}
    if target.kind == "user":
        own = select(versions.c.adapter, versions.c.version).where(
            versions.c.adapter == AdapterKey.user(target.user_id)
        )
        learned |= {(key, number) for key, number in await db.execute(own)}
    else:
        learned = await _which_saw(db, target.user_id, learned, set(plan.traces), shown)
    starts = select(versions.c.adapter, versions.c.version, versions.c.start).where(versions.c.start.is_not(None))
    following: dict[str, list[str]] = defaultdict(list)
    for key, number, start in await db.execute(starts):
        following[start].append(VersionRef.of(key, number))
    tainted, todo = set(), [str(VersionRef.of(key, number)) for key, number in learned]
    while todo:
        if (name := todo.pop()) not in tainted:
            tainted.add(name)
            todo += following[name]
    return sorted(tainted, key=lambda name: (VersionRef(name).key, VersionRef(name).number))


async def _which_saw(
    db: AsyncConnection, user_id: str, candidates: Collection[tuple[str, int]], gone: set[str], shown: set[str]
) -> set[tuple[str, int]]:
    """Return those versions whose samples were made of these traces or showed these engagements.

    A version whose lineage is no longer complete, because retention removed traces, counts as one of them.
    """
    saw: set[tuple[str, int]] = set()
    for key, number in candidates:
        mine = versions.c.adapter == key, versions.c.version == number
        of_lease = select(leases.c.fast, leases.c.rejected, leases.c.trace_ids).join(
            versions, versions.c.lease_id == leases.c.id
        )
        lease = (await db.execute(of_lease.where(*mine))).one()
        in_version = trace_versions.c.adapter == key, trace_versions.c.version == number
        known = set((await db.scalars(select(trace_versions.c.trace_id).where(*in_version))).all())
        is_incomplete = len(known) < len(lease.trace_ids)
        in_samples = shown & set(lease.fast.get(user_id, ())) or gone & set(lease.rejected.get(user_id, ()))
        if is_incomplete or in_samples or known & gone:
            saw.add((key, number))
    return saw


async def _withdraw(db: AsyncConnection, erasure_id: str, names: Sequence[str], goes: set[str]) -> list[str]:
    """Refuse versions for good; pointers and other users' traces leave them. Return those not in the adapters `goes`.

    Versions that an earlier erasure withdrew are left out.
    """
    check = Check(name=CHECK, passed=False, detail=f"it learned from data that erasure {erasure_id} removed")
    # Before the rows of versions are changed, as others do, and in one order: two erasures never wait for each other.
    for locked in sorted({VersionRef(name).key for name in names}):
        await advisory_lock(db, f"adapter {locked}")
    withdrawn: dict[str, list[int]] = defaultdict(list)
    for name in names:
        ref = VersionRef(name)
        mine = versions.c.adapter == ref.key, versions.c.version == ref.number
        row = (await db.execute(select(versions).where(*mine))).mappings().one()
        manifest = Manifest.model_validate(row["manifest"]).model_copy(update={"parity_items": [NO_PARITY_ITEM]})
        if row["erasure_id"] is not None and ref.key not in goes:
            continue
        values: dict[str, Any] = {
            "refused": True,
            "files": False,
            "pinned": False,
            "erasure_id": erasure_id,
            "checks": [*row["checks"], check.model_dump(mode="json")],
            "manifest": manifest.model_dump(mode="json"),
        }
        await db.execute(update(versions).where(*mine).values(**values))
        withdrawn[ref.key].append(ref.number)
    for adapter, numbers in withdrawn.items():
        await live_versions.leave_erased(db, adapter)
        if AdapterKey(adapter).kind == "user":
            trained = traces.c.adapter == adapter, traces.c.state == "trained", traces.c.version.in_(numbers)
            again = {"state": "waiting", "version": None, "lease_id": None, "attempts": 0}
            await db.execute(update(traces).where(*trained).values(**again))
    return [VersionRef.of(key, number) for key in withdrawn if key not in goes for number in withdrawn[key]]


# --- leases ---


def _active_leases() -> Select[Any]:
    return select(leases).where(leases.c.state == "active").order_by(leases.c.id)


async def _revoke_leases(
    db: AsyncConnection, erasure_id: str, target: ErasureTarget, tainted: Collection[str]
) -> list[str]:
    """Revoke active leases with rows of the user, or that start from a tainted version. Return their ids."""
    revoked: list[str] = []
    for lease in (await db.execute(_active_leases())).mappings().all():
        start = Start.model_validate(lease["start"]) if lease["start"] else None
        from_tainted = start is not None and VersionRef.of(start.adapter, start.version) in tainted
        if from_tainted or await _holds_rows_of(db, lease, target.user_id):
            revoked.append(lease["id"])
    if revoked:
        mine = leases.c.id.in_(revoked)
        await db.execute(update(leases).where(mine).values(state="revoked", revoked_by=erasure_id))
        leased = traces.c.lease_id.in_(revoked), traces.c.state == "leased"
        await db.execute(update(traces).where(*leased).values(state="waiting", lease_id=None))
    return revoked


async def _holds_rows_of(db: AsyncConnection, lease: Any, user_id: str) -> bool:
    """Return whether a lease has rows of a user. Of any: the prompt of each may show the others."""
    if lease["adapter"] == AdapterKey.user(user_id):
        return True
    if any(user_id in lease[name] for name in ("held_out", "fast", "rejected")):
        return True
    for ids in _pieces(lease["trace_ids"]):
        mine = select(traces.c.id).where(traces.c.user_id == user_id, traces.c.id.in_(ids)).limit(1)
        if await db.scalar(mine) is not None:
            return True
    return False


async def _list_artifacts(db: AsyncConnection, names: Sequence[str]) -> list[str]:
    """List the artifacts of versions that have files."""
    found: set[str] = set()
    for part in _pieces(names):
        keys = [(str(VersionRef(name).key), VersionRef(name).number) for name in part]
        mine = tuple_(versions.c.adapter, versions.c.version).in_(keys)
        found.update(await db.scalars(select(versions.c.artifact).where(mine, versions.c.artifact.is_not(None))))
    return sorted(found)


def _pieces(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + IDS_A_QUERY] for start in range(0, len(items), IDS_A_QUERY)]
