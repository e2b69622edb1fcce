"""Stamps of histories: they change whenever a history does, on both databases."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from erasing import one, run, user
from mindprint_server.store import ErasureTarget, Store, tenants
from mindprint_server.tenancy import in_tenant


async def stamp(store: Store, name: str = "ann") -> Any:
    return await store.histories.get_stamp(name)


async def test_there_is_no_stamp_of_an_unknown_user(store: Store) -> None:
    assert await stamp(store) is None
    assert await store.histories.read_all("ann") is None
    assert await store.histories.read_newest("ann", 3) is None
    assert await store.histories.read_after("ann", None, 0) is None


async def test_a_stamp_is_another_after_each_addition(store: Store, make: Any) -> None:
    seen = []
    for n in range(3):
        await store.engagements.add("ann", [make.engagement(n)])
        seen.append(await stamp(store))
    await store.profiles.add(make.profile("ann"))
    seen.append(await stamp(store))
    assert len(set(seen)) == 4
    assert all(later.has_only_grown(earlier) for earlier, later in pairwise(seen))


async def test_a_stamp_stays_while_others_change(store: Store, make: Any) -> None:
    await store.engagements.add("ann", [make.engagement(n) for n in range(3)])
    before = await stamp(store)
    await store.engagements.add("ann", [make.engagement(1)])  # known already
    await store.engagements.add("bob", [make.engagement(n) for n in range(3)])
    await store._database.write(tenants.ensure, "acme")
    with in_tenant("acme"):
        await store.engagements.add("ann", [make.engagement(n) for n in range(5)])
    await run(store, user("bob"))
    assert await stamp(store) == before


@pytest.mark.parametrize("kind", ["engagement", "retention"])
async def test_an_erased_row_that_another_replaces_changes_the_stamp(store: Store, make: Any, kind: str) -> None:
    """The counts of rows are the same before and after."""
    await store.engagements.add("ann", [make.engagement(n) for n in range(3)])
    before = await stamp(store)
    oldest = make.engagement(0)
    target = (
        one(oldest.id)
        if kind == "engagement"
        else ErasureTarget(kind="retention", user_id="ann", before=make.engagement(1).occurred_at)
    )
    await run(store, target)
    await store.engagements.add("ann", [make.engagement(7)])
    after = await stamp(store)
    assert after.engagements == before.engagements
    assert after != before
    assert not after.has_only_grown(before)


async def test_a_user_who_comes_again_after_the_erasure_has_another_stamp(store: Store, make: Any) -> None:
    await store.engagements.add("ann", [make.engagement(n) for n in range(3)])
    before = await stamp(store)
    await run(store, user("ann"))
    assert await stamp(store) is None
    await store.engagements.add("ann", [make.engagement(n) for n in range(3)])
    assert await stamp(store) != before


async def test_rows_change_one_way_while_an_erasure_is_open(store: Store, make: Any) -> None:
    await store.engagements.add("ann", [make.engagement(n) for n in range(3)])
    before = await stamp(store)
    await store.erasures.request(one(make.engagement(0).id))
    is_open = await stamp(store)
    assert is_open != before
    assert not is_open.has_only_grown(before)
    assert not is_open.has_only_grown(is_open)


async def test_what_stands_after_an_engagement_and_a_profile(store: Store, make: Any) -> None:
    events = [make.engagement(n) for n in range(5)]
    await store.engagements.add("ann", events)
    for _ in range(2):
        await store.profiles.add(make.profile("ann"))
    rows = await store.histories.read_after("ann", events[2], 1)
    assert rows is not None
    assert [event.id for event in rows.engagements] == [event.id for event in events[3:]]
    assert [profile.version for profile in rows.profiles] == [2]
    assert rows.stamp == await stamp(store)
    whole, newest = await store.histories.read_all("ann"), await store.histories.read_newest("ann", 2)
    assert whole is not None
    assert newest is not None
    assert (list(whole.engagements), len(whole.profiles)) == (events, 2)
    assert (list(newest.engagements), [profile.version for profile in newest.profiles]) == (events[3:], [2])
    assert await store.histories.read_newest("ann", 5) == whole
