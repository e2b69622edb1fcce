from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from mindprint_server.store import EngagementConflict, RecordNotFound, Store


async def test_engagements_come_back_as_they_were_sent(store: Store, make: Any) -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    sent = make.engagement(
        1, prompt="Ünïcode\n✓", choices=["yes", "no"], reason="so", occurred_at=datetime(2026, 1, 1, 5, 0, 0, 7, east)
    )
    assert (await store.engagements.add("ann", [sent])).model_dump() == {"created": 1, "unchanged": 0}
    found = await store.engagements.get("ann", "e1")
    assert found == sent
    assert found.occurred_at.tzinfo == UTC
    assert found.occurred_at == datetime(2025, 12, 31, 23, 30, 0, 7, UTC)


async def test_first_and_last_time_come_back_in_order(store: Store, make: Any) -> None:
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)
    sent = [make.engagement(2, occurred_at=last), make.engagement(1), make.engagement(0, occurred_at=first)]
    await store.engagements.add("ann", sent)
    assert await store.engagements.list_page("ann", limit=9) == sorted(sent, key=lambda item: item.id)
    history = await store.engagements.list_history("ann", before=last, limit=9)
    assert [item.occurred_at for item in history] == [first, sent[1].occurred_at]


async def test_sending_again_changes_nothing(store: Store, make: Any) -> None:
    first = [make.engagement(n) for n in range(3)]
    await store.engagements.add("ann", first)
    again = await store.engagements.add("ann", [*first, make.engagement(3), make.engagement(3)])
    assert again.model_dump() == {"created": 1, "unchanged": 4}
    assert (await store.users.get("ann")).engagements == 4


async def test_a_conflict_stores_nothing_at_all(store: Store, make: Any) -> None:
    await store.engagements.add("ann", [make.engagement(5)])
    with pytest.raises(EngagementConflict, match="e5"):
        await store.engagements.add("ann", [make.engagement(1), make.engagement(5, response="no"), make.engagement(9)])
    assert [e.id for e in await store.engagements.list_page("ann")] == ["e5"]
    with pytest.raises(EngagementConflict):
        await store.engagements.add("bob", [make.engagement(1), make.engagement(1, response="no")])
    with pytest.raises(RecordNotFound):
        await store.users.get("bob")


async def test_two_users_may_use_one_id(store: Store, make: Any) -> None:
    await store.engagements.add("ann", [make.engagement(1)])
    await store.engagements.add("bob", [make.engagement(1, response="no")])
    assert (await store.engagements.get("ann", "e1")).response == "yes"
    assert (await store.engagements.get("bob", "e1")).response == "no"


async def test_the_same_engagements_at_once_are_created_once(store: Store, other: Store, make: Any) -> None:
    items = [make.engagement(n) for n in range(20)]
    calls = [s.engagements.add("ann", order) for s in (store, other) for order in (items, items[::-1])]
    counts = await asyncio.gather(*calls)
    assert sum(c.created for c in counts) == 20
    assert sum(c.unchanged for c in counts) == 60


async def test_history_is_what_came_strictly_before(store: Store, make: Any) -> None:
    noon = make.T0 + timedelta(hours=12)
    times = {"a": -3, "b": -2, "d": -1, "c": -1, "tie": 0, "query": 0, "later": 1}
    await store.engagements.add(
        "ann", [make.engagement(0, id=id, occurred_at=noon + timedelta(hours=h)) for id, h in times.items()]
    )

    async def ids(before: datetime | None, limit: int, not_id: str | None = None) -> list[str]:
        return [
            e.id for e in await store.engagements.list_history("ann", before=before, exclude_id=not_id, limit=limit)
        ]

    assert await ids(noon, 10, "query") == ["a", "b", "c", "d"]
    assert await ids(noon, 2, "query") == ["c", "d"]
    assert await ids(noon, 1) == ["d"]
    assert await ids(noon + timedelta(microseconds=1), 3, "query") == ["c", "d", "tie"]
    assert await ids(noon, 10, "c") == ["a", "b", "d"]
    assert await ids(None, 3) == ["query", "tie", "later"]
    assert await ids(noon, 0) == []
    assert await store.engagements.list_history("nobody", before=None, limit=3) == []


async def test_a_history_is_as_long_as_without_a_limit(store: Store, make: Any) -> None:
    noon = make.T0 + timedelta(hours=12)
    times = {"a": -2, "b": -1, "tie": 0, "query": 0, "later": 1}
    await store.engagements.add(
        "ann", [make.engagement(0, id=id, occurred_at=noon + timedelta(hours=h)) for id, h in times.items()]
    )
    await make.user(store, "bob", 4)
    for before in (None, noon, noon + timedelta(microseconds=1), noon - timedelta(days=1)):
        for not_id in (None, "query", "a"):
            found = await store.engagements.list_history("ann", before=before, exclude_id=not_id, limit=10)
            assert await store.engagements.count_history("ann", before=before, exclude_id=not_id) == len(found)
    assert await store.engagements.count_history("ann", before=noon) == 2
    assert await store.engagements.count_history("nobody", before=None) == 0


async def test_counts_up_to_a_time_and_at_it(store: Store, make: Any) -> None:
    await make.user(store, "ann", 5)
    assert await store.engagements.count("ann") == 5
    assert await store.engagements.count("ann", until=make.T0 + timedelta(hours=2)) == 3
    assert await store.engagements.count("nobody") == 0


async def test_pages_of_engagements_join_without_gap_or_repeat(store: Store, make: Any) -> None:
    same = make.T0
    items = [make.engagement(n, occurred_at=same) for n in range(4)] + [make.engagement(n) for n in range(4, 8)]
    await store.engagements.add("ann", items[::-1])
    seen: list[str] = []
    while page := await store.engagements.list_page("ann", after=seen[-1] if seen else None, limit=3):
        seen += [e.id for e in page]
    assert seen == [f"e{n}" for n in range(8)]
    with pytest.raises(RecordNotFound, match="engagement 'e99'"):
        await store.engagements.list_page("ann", after="e99")
    with pytest.raises(RecordNotFound, match="user 'nobody'"):
        await store.engagements.list_page("nobody")


async def test_users_sort_byte_by_byte_on_every_database(store: Store, make: Any) -> None:
    names = ["B", "a", "Z.1", "_x", "a-b", "ab"]
    for name in names:
        await make.user(store, name, 1)
    assert [u.id for u in await store.users.list_page()] == sorted(names)
    assert [u.id for u in await store.users.list_page(after="Z.1", limit=2)] == sorted(names)[2:4]


async def test_a_user_shows_profile_and_live_version(store: Store, make: Any) -> None:
    await make.user(store, "bob", 1)
    version = await make.trained(store, "ann")
    await store.profiles.add(make.profile("ann"))
    ann, bob = await store.users.list_page()
    assert (ann.engagements, ann.profile_version, ann.live_version) == (1, 1, version.version)
    assert (bob.engagements, bob.profile_version, bob.live_version) == (1, None, None)
    assert ann.created_at.tzinfo == UTC
    assert await store.users.get("ann") == ann
    with pytest.raises(RecordNotFound, match="user 'carl'"):
        await store.users.get("carl")


async def test_profiles_are_numbered_here_and_chosen_by_what_they_cover(store: Store, make: Any) -> None:
    await make.user(store, "ann", 1)
    assert await store.profiles.get_newest("ann") is None
    for day in range(3):
        stored = await store.profiles.add(make.profile("ann", version=99, covers_until=make.T0 + timedelta(days=day)))
        assert stored.version == day + 1
    newest = await store.profiles.get_newest("ann")
    assert newest == stored
    before = await store.profiles.get_newest("ann", before=make.T0 + timedelta(days=2))
    assert before is not None
    assert before.version == 2
    assert await store.profiles.get_newest("ann", before=make.T0) is None
    with pytest.raises(RecordNotFound, match="user 'bob'"):
        await store.profiles.add(make.profile("bob"))


async def test_profiles_written_at_once_get_numbers_of_their_own(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann", 1)
    stored = await asyncio.gather(*(s.profiles.add(make.profile("ann")) for s in (store, other) * 3))
    assert sorted(p.version for p in stored) == [1, 2, 3, 4, 5, 6]


async def test_profile_that_two_servers_write_is_stored_once(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann", 1)
    for covers in (5, 10):
        profile = make.profile("ann", covers=covers)
        stored = await asyncio.gather(*(s.profiles.add(profile, only_if_new=True) for s in (store, other) * 2))
        assert {(p.version, p.covers) for p in stored} == {(covers // 5, covers)}
    late = await store.profiles.add(make.profile("ann", covers=5), only_if_new=True)
    assert (late.version, late.covers) == (2, 10), "what is newer is kept"
    assert [p.version for p in await store.profiles.list_versions("ann")] == [1, 2]
