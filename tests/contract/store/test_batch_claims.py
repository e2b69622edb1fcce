"""Items of batches are claimed by one server each."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import BatchRequest
from mindprint_server.store import Store
from mindprint_server.store.batch_claims import ItemKey
from mindprint_server.store.batches import DroppedResult, ItemResult
from mindprint_server.store.tables import batch_items

ANN = [("ann", f"e{n}") for n in range(4)]
BOB = [("bob", f"e{n}") for n in range(4)]
PLAN = [*ANN, *BOB]
TTL_S = 30.0
LATER = timedelta(seconds=TTL_S)


@pytest_asyncio.fixture(loop_scope="session")
async def batch(store: Store, make: Any) -> str:
    """A batch with the items of PLAN; its id."""
    for user in ("ann", "bob"):
        await make.user(store, user, 4)
    return (await store.batches.add(BatchRequest(seed=3), PLAN, max_open=9))[0].id


async def claim(store: Store, batch: str, owner: str = "a", limit: int = 100, **when: Any) -> list[ItemKey]:
    return await store.batch_claims.claim(batch, owner, limit=limit, ttl_s=TTL_S, **when)


async def finish(
    store: Store, make: Any, batch: str, keys: list[ItemKey], owner: str | None = "a"
) -> list[tuple[ItemKey, str]]:
    results = [ItemResult(batch, user, id, "accepted", [make.trace(user, id)]) for user, id in keys]
    dropped = await store.batches.finish_items(results, {batch: 1.0}, owner=owner)
    return [((result.user_id, result.engagement_id), reason) for result, reason in dropped]


async def owners(store: Store, batch: str) -> Counter[str | None]:
    async def read(db: AsyncConnection) -> Counter[str | None]:
        query = select(batch_items.c.owner).where(batch_items.c.batch_id == batch, batch_items.c.outcome.is_(None))
        return Counter((await db.scalars(query)).all())

    return await store._database.read(read)


async def test_claims_follow_the_plan_and_do_not_overlap(store: Store, batch: str) -> None:
    assert await claim(store, batch, "a", 3) == ANN[:3]
    assert await claim(store, batch, "a", 2) == [ANN[3], BOB[0]]
    assert await claim(store, batch, "b") == BOB[1:]
    assert await claim(store, batch, "a") == await claim(store, batch, "b") == []
    assert await owners(store, batch) == {"a": 5, "b": 3}


async def test_first_claim_starts_the_batch(store: Store, batch: str) -> None:
    await claim(store, batch, limit=1)
    running = await store.batches.get(batch)
    assert running.state == "running"
    assert running.started_at is not None
    await claim(store, batch, limit=1)
    assert await store.batches.get(batch) == running


async def test_server_prefers_users_of_whom_no_other_server_holds_items(store: Store, batch: str) -> None:
    assert await claim(store, batch, "a", 2) == ANN[:2]
    assert await claim(store, batch, "b", 2) == BOB[:2], "not the rest of ann"
    assert await claim(store, batch, "a", 2) == ANN[2:]
    assert await claim(store, batch, "a", 9) == BOB[2:], "but rather those than none"


async def test_servers_that_claim_at_once_share_the_items(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann", 60)
    plan = [("ann", f"e{n}") for n in range(60)]
    id = (await store.batches.add(BatchRequest(), plan, max_open=9))[0].id

    async def work(at: Store, owner: str) -> list[ItemKey]:
        mine: list[ItemKey] = []
        for _ in range(100):
            mine += await claim(at, id, owner, 3)
            if not (await owners(store, id))[None]:
                break
        return mine

    shares = await asyncio.gather(*(work(at, f"s{n}") for n, at in enumerate((store, other) * 2)))
    assert sorted(item for share in shares for item in share) == sorted(plan)


async def test_claim_ends_at_its_deadline_unless_it_is_extended(store: Store, make: Any, batch: str) -> None:
    now = make.T0
    await claim(store, batch, "a", 4, now=now)
    await claim(store, batch, "b", 4, now=now)
    assert await store.batch_claims.extend("a", {batch: ANN}, TTL_S, now=now + LATER / 2) == {batch: set()}
    assert await claim(store, batch, "c", now=now + LATER * 0.99) == []
    assert await claim(store, batch, "c", now=now + LATER) == BOB, "no one extended these"
    assert await claim(store, batch, "c", now=now + LATER * 1.5) == ANN


async def test_extending_names_the_items_that_another_server_took_over(store: Store, make: Any, batch: str) -> None:
    now = make.T0
    await claim(store, batch, "a", 4, now=now)
    await finish(store, make, batch, ANN[:1])
    assert await claim(store, batch, "b", 1, now=now + 2 * LATER) == [ANN[1]]
    assert await store.batch_claims.extend("a", {batch: ANN}, TTL_S, now=now + 2 * LATER) == {batch: {ANN[1]}}
    assert await claim(store, batch, "c", now=now + 2.5 * LATER) == BOB, "the others hold again"
    assert await store.batch_claims.extend("a", {"none": ANN}, TTL_S) == {"none": set()}


async def test_items_given_back_are_claimed_at_once(store: Store, batch: str) -> None:
    await claim(store, batch, "a", 4)
    await claim(store, batch, "b", 1)
    await store.batch_claims.give_back("a", {batch: [*ANN[1:], BOB[0]], "none": ANN})
    assert await owners(store, batch) == {"a": 1, "b": 1, None: 6}, "what b holds stays"
    assert await claim(store, batch, "c") == [*ANN[1:], *BOB[1:]]


async def test_result_counts_only_for_the_server_that_holds_the_item(store: Store, make: Any, batch: str) -> None:
    now = make.T0
    await claim(store, batch, "a", 1, now=now)
    await claim(store, batch, "b", 1, now=now + LATER)
    assert await finish(store, make, batch, ANN[:1], "a") == [(ANN[0], "lost")]
    assert await store.traces.find() == []
    assert await finish(store, make, batch, ANN[:1], "b") == []
    assert await finish(store, make, batch, ANN[:1], "a") == [], "it is done"
    assert len(await store.traces.find()) == 1
    counted = await store.batches.get(batch)
    assert (counted.done, counted.generated_tokens) == (1, 10)


async def test_result_counts_after_the_deadline_if_nobody_took_the_item(store: Store, make: Any, batch: str) -> None:
    await claim(store, batch, "a", 1, now=make.T0)
    assert await finish(store, make, batch, ANN[:1]) == []
    assert (await store.batches.get(batch)).done == 1


async def test_nothing_is_stored_for_a_cancelled_batch(store: Store, other: Store, make: Any, batch: str) -> None:
    await claim(store, batch)
    await finish(store, make, batch, ANN[:1])
    cancelled = await other.batches.cancel(batch)
    assert await finish(store, make, batch, ANN[:2]) == [(ANN[1], "ended")]
    assert await claim(store, batch) == []
    after = await store.batches.get(batch)
    assert (after.state, after.done, len(await store.traces.find())) == ("cancelled", cancelled.done, 1)
    assert await store.batch_claims.list_open() == []


async def test_cancel_and_commits_at_once_agree(store: Store, other: Store, make: Any, batch: str) -> None:
    """What the cancelled batch says is final: no commit comes after it."""
    await claim(store, batch)
    commits = asyncio.gather(*(finish(store, make, batch, [key]) for key in PLAN[:6]))
    cancelled = await other.batches.cancel(batch)
    await commits
    assert (await store.batches.get(batch)).done == cancelled.done
    assert len(await store.traces.find()) == cancelled.done


async def test_commit_of_the_last_item_ends_the_batch(store: Store, other: Store, make: Any, batch: str) -> None:
    await claim(store, batch, "a", 4)
    await claim(other, batch, "b", 4)
    calls = [finish(store, make, batch, [key], "a") for key in ANN]
    calls += [finish(other, make, batch, [key], "b") for key in BOB[:-1]]
    await asyncio.gather(*calls)
    assert (await store.batches.get(batch)).state == "running"
    await finish(other, make, batch, BOB[-1:], "b")
    done = await store.batches.get(batch)
    assert (done.state, done.done) == ("done", 8)
    assert done.finished_at is not None


@pytest.mark.parametrize("round", range(3))
async def test_two_servers_that_finish_last_at_once_end_the_batch(
    store: Store, other: Store, make: Any, batch: str, round: int
) -> None:
    await claim(store, batch, "a", 4)
    await claim(other, batch, "b", 4)
    await asyncio.gather(finish(store, make, batch, ANN, "a"), finish(other, make, batch, BOB, "b"))
    assert (await store.batches.get(batch)).state == "done"


async def test_open_batches_say_whether_there_is_something_to_claim(store: Store, make: Any, batch: str) -> None:
    empty = (await store.batches.add(BatchRequest(mode="direct"), [], max_open=9))[0].id

    async def look(**when: Any) -> list[tuple[str, bool, bool]]:
        return [(o.id, o.has_claimable, o.is_complete) for o in await store.batch_claims.list_open(**when)]

    assert await look() == [(batch, True, False), (empty, False, True)]
    await claim(store, batch, now=make.T0)
    assert await look(now=make.T0) == [(batch, False, False), (empty, False, True)]
    assert await look(now=make.T0 + LATER) == [(batch, True, False), (empty, False, True)]
    assert await store.batch_claims.end_if_complete(empty)
    assert not await store.batch_claims.end_if_complete(empty)
    assert not await store.batch_claims.end_if_complete(batch)
    ended = await store.batches.get(empty)
    assert (ended.state, ended.started_at) == ("done", ended.finished_at)
    assert (await store.batch_claims.list_open())[0].request == BatchRequest(seed=3)


async def test_unknown_batch_has_nothing(store: Store) -> None:
    assert await claim(store, "none") == []
    assert await store.batches.finish_items([gone := ItemResult("none", "ann", "e0", "rejected")], {}) == [
        DroppedResult(gone, "gone")
    ]


async def test_heartbeats_and_commits_at_once_do_not_wait_for_each_other(
    store: Store, other: Store, make: Any, batch: str
) -> None:
    """Two transactions that lock the same rows in another order would end in a deadlock."""
    for _ in range(3):
        id = (await store.batches.add(BatchRequest(mode="direct"), PLAN, max_open=99))[0].id
        await claim(store, id)
        results = [ItemResult(id, user, key, "rejected") for user, key in reversed(PLAN)]
        await asyncio.gather(
            *(other.batch_claims.extend("a", {id: PLAN}, TTL_S) for _ in range(4)),
            store.batches.finish_items(results, {}, owner="a"),
            other.batch_claims.give_back("a", {id: BOB}),
        )
        left = await owners(store, id)
        assert left["a"] == 0
        assert sum(left.values()) in (0, 4)


async def test_all_claims_end_when_no_other_server_runs(store: Store, batch: str, make: Any) -> None:
    """The deadline of a killed server lies far ahead, since the wall clock was set back since then."""
    await finish(store, make, batch, (await claim(store, batch, limit=1)))
    await store.batch_claims.claim(batch, "a", limit=2, ttl_s=1e6)
    assert len(await claim(store, batch, "b")) == len(PLAN) - 3
    await store.batch_claims.release_all()
    assert set(await owners(store, batch)) == {None}
    assert len(await claim(store, batch, "b")) == len(PLAN) - 1, "what is done stays done"


async def test_wait_of_a_batch_is_noted_until_somebody_claims_or_it_ends(store: Store, batch: str) -> None:
    await store.batch_claims.note_wait(batch, "a quota")
    assert (await store.batches.get(batch)).waiting_for == "a quota"
    await claim(store, batch, limit=1)
    assert (await store.batches.get(batch)).waiting_for is None
    await store.batch_claims.note_wait(batch, "a quota")
    await store.batch_claims.note_wait(batch, None)
    assert (await store.batches.get(batch)).waiting_for is None
    await store.batch_claims.note_wait(batch, "a quota")
    assert (await store.batches.cancel(batch)).waiting_for is None
    await store.batch_claims.note_wait(batch, "a quota")
    assert (await store.batches.get(batch)).waiting_for is None, "it has ended"


async def test_open_batch_names_the_key_that_started_it(store: Store) -> None:
    await store.batches.add(BatchRequest(), [], max_open=9, api_key="one")
    assert [batch.api_key for batch in await store.batch_claims.list_open()] == ["one"]
