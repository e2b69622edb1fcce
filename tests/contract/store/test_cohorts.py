from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mindprint_server.store import EveryoneStays, LeaseLost, RecordNotFound, Store


async def test_everyone_is_always_there(store: Store, make: Any) -> None:
    await make.user(store, "bob")
    await make.user(store, "ann")
    everyone = await store.cohorts.get("everyone")
    assert (everyone.name, everyone.users, everyone.live) == ("everyone", 2, None)
    assert await store.cohorts.list_page() == [everyone]
    assert await store.cohorts.list_members("everyone") == ["ann", "bob"]
    assert await store.cohorts.list_members("everyone", limit=1) == ["ann"]
    assert {user.cohort for user in await store.users.list_page()} == {"everyone"}
    assert (await store.cohorts.put("everyone", "all of us")).description == "all of us"


async def test_users_move_between_cohorts(store: Store, make: Any) -> None:
    for user in ("ann", "bob", "carl"):
        await make.user(store, user)
    made = await store.cohorts.put("cooks", "who cook")
    assert (made.description, made.users) == ("who cook", 0)
    again = await store.cohorts.put("cooks", "")
    assert (again.description, again.created_at) == ("", made.created_at)
    assert (await store.cohorts.add_members("cooks", ["bob", "ann", "ann"])).users == 2
    assert (await store.users.get("ann")).cohort == "cooks"
    assert await store.cohorts.list_members("cooks") == ["ann", "bob"]
    assert await store.cohorts.list_members("everyone") == ["carl"]

    await store.cohorts.put("bakers", "")
    await store.cohorts.add_members("bakers", ["ann"])
    assert [(c.name, c.users) for c in await store.cohorts.list_page()] == [
        ("bakers", 1),
        ("cooks", 1),
        ("everyone", 1),
    ]
    assert (await store.cohorts.remove_member("bakers", "ann")).users == 0
    assert await store.cohorts.list_members("everyone") == ["ann", "carl"]
    await store.cohorts.delete("cooks")
    assert (await store.users.get("bob")).cohort == "everyone"
    assert [c.name for c in await store.cohorts.list_page()] == ["bakers", "everyone"]


async def test_nobody_moves_when_one_is_unknown(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    await store.cohorts.put("cooks", "")
    with pytest.raises(RecordNotFound, match="user 'zoe'"):
        await store.cohorts.add_members("cooks", ["ann", "zoe"])
    assert (await store.cohorts.get("cooks")).users == 0
    with pytest.raises(RecordNotFound, match="member of cohort 'cooks', 'ann'"):
        await store.cohorts.remove_member("cooks", "ann")


async def test_everyone_is_not_joined_left_or_deleted(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    for call in (
        store.cohorts.add_members("everyone", ["ann"]),
        store.cohorts.remove_member("everyone", "ann"),
        store.cohorts.delete("everyone"),
    ):
        with pytest.raises(EveryoneStays, match="holds all users who are in no other"):
            await call


async def test_an_unknown_cohort_is_not_found(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    for call in (
        store.cohorts.get("none"),
        store.cohorts.list_members("none"),
        store.cohorts.add_members("none", ["ann"]),
        store.cohorts.remove_member("none", "ann"),
        store.cohorts.delete("none"),
    ):
        with pytest.raises(RecordNotFound, match="cohort 'none'"):
            await call


async def test_of_a_deletion_and_a_move_at_once_one_wins(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann")
    for n in range(5):
        await store.cohorts.put(f"c{n}", "")
        calls = [store.cohorts.add_members(f"c{n}", ["ann"]), other.cohorts.delete(f"c{n}")]
        moved, deleted = await asyncio.gather(*calls, return_exceptions=True)
        assert deleted is None
        assert isinstance(moved, RecordNotFound) or moved.users == 1  # type: ignore[union-attr]
        assert (await store.users.get("ann")).cohort == "everyone"


async def test_a_deleted_cohort_serves_and_trains_no_more(store: Store, make: Any) -> None:
    await make.cohort(store, "cooks", "ann", "bob")
    version = await make.completed(store, await make.cohort_claim(store, "cooks"))
    assert (await store.cohorts.get("cooks")).live == version.version
    await make.waiting(store, "ann", 1)
    lease = await make.cohort_claim(store, "cooks")
    await store.cohorts.delete("cooks")
    assert (await store.live_versions.get("cohort/cooks")).live is None
    assert (await store.adapters.get("cohort/cooks")).versions == [version.model_copy(update={"state": "standby"})]
    with pytest.raises(LeaseLost, match="released"):
        await make.completed(store, lease)
    assert await make.cohort_claim(store, "cooks") is None
    assert (await store.live_versions.resolve_for_user("ann"))[0] == "cohort/everyone"
    await store.cohorts.put("cooks", "anew")
    assert (await store.cohorts.get("cooks")).live is None
    assert (
        await store.versions.allocate("cohort/cooks")
    ).version == 3  # the number that the lost upload was given is not free
