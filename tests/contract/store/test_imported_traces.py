"""Accepted traces that callers bring, many in one transaction."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mindprint.types import Ingested, Trace
from mindprint_server.store import BacklogFull, RecordNotFound, Store


async def add(store: Store, *new: Trace, user: str = "ann", max_waiting: int = 100) -> tuple[int, int]:
    done: Ingested = await store.traces.add_imported(user, new, fingerprint=str.lower, max_waiting=max_waiting)
    return done.created, done.unchanged


async def test_imported_traces_wait_unchanged(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    new = [make.trace("ann", f"e{n}", thinking=f"because {n}", scores={"gain": 0.5}) for n in range(3)]
    assert await add(store, *new) == (3, 0)
    assert await store.traces.find() == new
    assert await store.traces.count_waiting() == {"user/ann": 3}
    assert await store.traces.list_accepted_texts("ann") == {"because 0", "because 1", "because 2"}
    assert (await make.claim(store)).trace_ids == [trace.id for trace in new]


async def test_what_says_the_same_of_its_engagement_is_unchanged(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    await store.traces.add(make.trace("ann", "e0", thinking="Because"))
    same, twice = make.trace("ann", "e0", thinking="BECAUSE"), [make.trace("ann", "e1") for _ in range(2)]
    other = make.trace("ann", "e0", thinking="why not")
    assert await add(store, same, *twice, other) == (2, 2)
    assert await add(store, same, *twice, other) == (0, 4)
    assert [trace.id for trace in (await store.traces.find())[1:]] == [twice[0].id, other.id]


async def test_what_was_trained_on_is_known_and_what_was_not_for_training_is_not(store: Store, make: Any) -> None:
    await make.trained(store, "ann")
    [learned, *_] = await store.traces.find(user="ann")
    await store.engagements.add("ann", [make.engagement(1)])
    await store.traces.add(make.trace("ann", "e1", "rejected"))
    await store.traces.add(make.trace("ann", "e1", state="stored", mode="generic"))
    again = make.trace("ann", "e0", thinking=learned.thinking)
    assert await add(store, again, make.trace("ann", "e1")) == (1, 1)


async def test_one_that_cannot_be_stored_keeps_all_out(store: Store, make: Any) -> None:
    with pytest.raises(RecordNotFound, match="user 'ann'"):
        await add(store, make.trace("ann"))
    await make.user(store, "ann")
    with pytest.raises(RecordNotFound, match="engagement 'e99'"):
        await add(store, make.trace("ann", "e0"), make.trace("ann", "e99"))
    await make.user(store, "bob", 100)
    with pytest.raises(RecordNotFound, match="engagement 'e99'"):
        await add(store, make.trace("ann", "e99"))
    assert await store.traces.find() == []


async def test_no_more_wait_than_may(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    await make.waiting(store, "bob", 3)
    assert await add(store, make.trace("ann", "e0"), max_waiting=1) == (1, 0)
    with pytest.raises(BacklogFull, match="1 accepted traces wait for user/ann, of at most 1"):
        await add(store, make.trace("ann", "e1"), max_waiting=1)
    assert await add(store, make.trace("ann", "e0"), max_waiting=1) == (0, 1), "nothing new needs no room"
    await make.claim(store, adapter="user/ann")
    assert await add(store, make.trace("ann", "e1"), max_waiting=1) == (1, 0), "what is leased no longer waits"


async def test_of_the_same_at_once_one_is_stored(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann")
    news = [[make.trace("ann", f"e{n}") for n in range(3)] for _ in range(4)]
    done = await asyncio.gather(*(add(s, *new) for s, new in zip((store, other) * 2, news, strict=True)))
    assert sorted(done) == [(0, 3), (0, 3), (0, 3), (3, 0)]
    assert len(await store.traces.find()) == 3
