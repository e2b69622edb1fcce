"""Histories that are kept: they are those of the store at each use, whoever changed it, and go with erasures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest

from erasing import one, run, user
from mindprint.types import Engagement, Profile
from mindprint_server.memory.history import UserHistory
from mindprint_server.memory.history_cache import HistoryCache, KeptHistory, size
from mindprint_server.settings import Settings
from mindprint_server.store import ErasureTarget, Store
from mindprint_server.store.histories import HistoryStamp
from mindprint_server.tenancy import current_tenant, erasure_epoch, in_tenant, set_erasure_epoch
from samples import engagement


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    opened = await Store.open(settings.url)
    yield opened
    await opened.close()


@pytest.fixture
async def replica(settings: Settings, store: Store) -> AsyncIterator[Store]:
    """Another server's store on the same database."""
    opened = await Store.open(settings.url)
    yield opened
    await opened.close()


@pytest.fixture
def cache(settings: Settings, store: Store) -> HistoryCache:
    return HistoryCache(settings.model_copy(update={"recall_from": 4}), store)


@pytest.fixture
def reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The reads of rows, by name."""
    seen: list[str] = []
    for name in ("read_all", "read_newest", "read_after"):
        real = getattr(store.histories, name)

        async def noted(*args: object, real: object = real, name: str = name) -> object:
            seen.append(name)
            return await real(*args)  # type: ignore[operator]

        monkeypatch.setattr(store.histories, name, noted)
    return seen


def ids(history: UserHistory | None) -> list[str] | None:
    return None if history is None else [event.id for event in history.engagements]


def named(numbers: Sequence[int]) -> list[str]:
    return [engagement(n).id for n in numbers]


def events(*numbers: int) -> list[Engagement]:
    return [engagement(n) for n in numbers]


async def test_an_unchanged_history_is_read_once(cache: HistoryCache, store: Store, reads: list[str]) -> None:
    await store.engagements.add("ann", events(*range(9)))
    found = [await cache.get_all("ann") for _ in range(3)]
    assert ids(found[0]) == named(range(9))
    assert found[1] is found[2] is found[0]
    assert reads == ["read_all"]


async def test_queries_of_now_keep_the_end_of_a_history(cache: HistoryCache, store: Store, reads: list[str]) -> None:
    await store.engagements.add("ann", events(*range(20)))
    newest = await cache.get_newest("ann")
    assert newest is not None
    assert await newest.all().length() == 20
    assert newest.engagements == events(*range(newest.earlier, 20))
    assert ids(await cache.get_all("ann")) == named(range(20))
    assert ids(await cache.get_newest("ann")) == named(range(20))
    assert reads == ["read_newest", "read_all"]


async def test_what_comes_at_the_end_is_read_alone_and_shares_the_index(
    cache: HistoryCache, store: Store, replica: Store, reads: list[str]
) -> None:
    await store.engagements.add("ann", events(*range(5)))
    first = await cache.get_all("ann")
    await replica.engagements.add("ann", events(5, 6))
    second = await cache.get_all("ann")
    assert (ids(first), ids(second)) == (named(range(5)), named(range(7)))
    assert first is not None
    assert second is not None
    assert second.index is first.index
    assert reads == ["read_all", "read_after"]


async def test_the_end_of_a_history_does_not_grow_for_ever(cache: HistoryCache, store: Store) -> None:
    await store.engagements.add("ann", events(*range(20)))
    for n in range(20, 60):
        await store.engagements.add("ann", events(n))
        newest = await cache.get_newest("ann")
        assert newest is not None
        assert newest.engagements[-1] == engagement(n)
        assert await newest.all().length() == n + 1
        assert len(newest.engagements) < 25


async def test_what_comes_before_the_end_is_in_its_place(cache: HistoryCache, store: Store) -> None:
    await store.engagements.add("ann", events(1, 3, 5))
    first = await cache.get_all("ann")
    await store.engagements.add("ann", events(2, 6))
    second = await cache.get_all("ann")
    assert ids(second) == named([1, 2, 3, 5, 6])
    assert first is not None
    assert second is not None
    assert second.index is not first.index


async def test_a_corrected_engagement_is_the_corrected_one(cache: HistoryCache, store: Store, replica: Store) -> None:
    """It is erased and sent again: the ids and counts are the same."""
    await store.engagements.add("ann", events(1, 2, 3))
    assert await cache.get_all("ann")
    await run(replica, one(engagement(2).id))
    await replica.engagements.add("ann", [engagement(2).model_copy(update={"prompt": "what it should say"})])
    history = await cache.get_all("ann")
    assert history is not None
    assert [event.prompt for event in history.engagements][1] == "what it should say"


async def test_rows_that_grew_too_old_are_gone(cache: HistoryCache, store: Store, replica: Store) -> None:
    await store.engagements.add("ann", events(1, 2, 3))
    assert await cache.get_all("ann")
    before = engagement(2).occurred_at + timedelta(seconds=1)
    await run(replica, ErasureTarget(kind="retention", user_id="ann", before=before))
    await replica.engagements.add("ann", events(4, 5))
    assert ids(await cache.get_all("ann")) == named([3, 4, 5])


async def test_a_user_whom_another_server_erased_is_unknown_and_not_kept(
    cache: HistoryCache, store: Store, replica: Store
) -> None:
    await store.engagements.add("ann", events(1, 2, 3))
    assert await cache.get_newest("ann")
    await run(replica, user())
    assert await cache.get_newest("ann") is None
    assert len(cache._kept) == 0


async def test_a_new_profile_is_seen(cache: HistoryCache, store: Store) -> None:
    await store.engagements.add("ann", events(*range(20)))
    whole, newest = await cache.get_all("ann"), await cache.get_newest("ann")
    assert whole is newest
    for version in (1, 2):
        written = Profile(
            user_id="ann", version=0, text=f"version {version}", tokens=3, covers=1,
            covers_until=engagement(version).occurred_at, prompt_version="1", base_digest="b",
            created_at=engagement(1).occurred_at,
        )  # fmt: skip
        await store.profiles.add(written)
        history = await cache.get_newest("ann")
        assert history is not None
        assert [profile.text for profile in history.profiles] == [f"version {n + 1}" for n in range(version)]
    cache.forget()
    history = await cache.get_newest("ann")
    assert history is not None
    assert [profile.text for profile in history.profiles] == ["version 2"]


async def test_forgetting_drops_one_tenant_s_histories(cache: HistoryCache, store: Store) -> None:
    for tenant in ("acme", "default"):
        with in_tenant(tenant):
            cache._kept[(current_tenant(), "ann", erasure_epoch())] = _kept(1)
    with in_tenant("acme"):
        cache.forget()
    assert [key[0] for key in cache._kept] == ["default"]


async def test_a_read_that_an_erasure_overtakes_is_not_kept(
    cache: HistoryCache, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.engagements.add("ann", events(1, 2, 3))
    real, may_end, has_read = store.histories.read_all, asyncio.Event(), asyncio.Event()

    async def slow(user_id: str) -> object:
        rows = await real(user_id)
        has_read.set()
        await may_end.wait()
        return rows

    monkeypatch.setattr(store.histories, "read_all", slow)
    reading = asyncio.create_task(cache.get_all("ann"))
    await has_read.wait()
    await run(store, user())
    cache.forget()
    set_erasure_epoch(erasure_epoch() + 1)
    may_end.set()
    await reading
    assert len(cache._kept) == 0


async def test_requests_that_come_at_once_read_once(cache: HistoryCache, store: Store, reads: list[str]) -> None:
    await store.engagements.add("ann", events(*range(9)))
    found = await asyncio.gather(*(cache.get_newest("ann") for _ in range(8)))
    assert {id(history) for history in found} == {id(found[0])}
    assert reads.count("read_newest") == 1


def _kept(count: int) -> KeptHistory:
    made = events(*range(count))
    return KeptHistory(UserHistory(made, []), HistoryStamp(count, 0, 0, 0), size(made))


async def test_what_is_kept_is_bounded(settings: Settings, store: Store) -> None:
    for n in range(6):
        await store.engagements.add(f"u{n}", events(*range(8)))
    await store.engagements.add("long", events(*range(80)))
    room = 3 * size(events(*range(8)))
    cache = HistoryCache(settings.model_copy(update={"history_cache_mib": room / 2**20}), store)
    for n in range(6):
        await cache.get_all(f"u{n}")
    assert ids(await cache.get_all("long")) == named(range(80))
    assert [key[1] for key in cache._kept] == ["u3", "u4", "u5"]
    nothing = HistoryCache(settings.model_copy(update={"history_cache_mib": 0}), store)
    assert ids(await nothing.get_all("u1")) == named(range(8))
    assert len(nothing._kept) == 0


async def test_a_history_is_not_kept_longer_than_the_setting_says(settings: Settings, store: Store) -> None:
    now = [0.0]
    cache = HistoryCache(settings.model_copy(update={"history_cache_s": 60}), store, clock=lambda: now[0])
    await store.engagements.add("ann", events(1))
    await cache.get_all("ann")
    now[0] = 59
    assert len(cache._kept) == 1
    now[0] = 61
    assert len(cache._kept) == 0
