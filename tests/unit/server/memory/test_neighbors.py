"""Who the nearest other user is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint.types import Engagement
from mindprint_server.context import ServerContext
from mindprint_server.memory import neighbors
from mindprint_server.memory.neighbors import Features, NeighborIndex, Neighbors, features, pick, similarity
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def closed(**answers: str) -> list[Engagement]:
    """Answers, yes or no, to questions of one word."""
    return [
        Engagement(id=word, prompt=f"{word}?", response=answer, choices=["yes", "no"], occurred_at=NOW)
        for word, answer in answers.items()
    ]


def spoken(*answers: str) -> list[Engagement]:
    return [Engagement(id=f"e{n}", prompt="Why?", response=answer, occurred_at=NOW) for n, answer in enumerate(answers)]


def test_the_nearest_gives_the_same_answers_to_the_same_words() -> None:
    mine = features(closed(tea="yes", war="no", lake="yes"))
    others = {
        "contrary": features(closed(tea="no", war="yes", lake="no")),
        "akin": features(closed(tea="yes", war="no", lake="no")),
        "elsewhere": features(closed(cars="yes", golf="no")),
    }
    assert pick("me", mine, others)[0] == "akin"
    assert similarity(mine, others["contrary"]) == 0
    assert similarity(mine, others["akin"]) == pytest.approx(2 / 3)


def test_open_answers_are_compared_by_their_words() -> None:
    mine = features(spoken("I love quiet lakes", "Quiet mornings, please"))
    others = {"loud": features(spoken("Parties!")), "calm": features(spoken("quiet lakes in the morning"))}
    assert pick("me", mine, others)[0] == "calm"


def test_case_and_marks_do_not_matter_and_the_order_neither() -> None:
    assert features(spoken("Tea, please!", "no")) == features(spoken("no", "please TEA"))


def test_nobody_else_is_nobody() -> None:
    mine = features(closed(tea="yes"))
    assert pick("me", mine, {}) == (None, None)
    assert pick("me", mine, {"me": mine, "blank": features([])}) == (None, None)


def test_one_other_user_is_the_nearest_and_there_is_no_random_one() -> None:
    assert pick("me", {}, {"you": features(closed(tea="yes"))}) == ("you", None)


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.sampled_from(["yes", "no"]), min_size=1))
def test_a_user_is_most_like_itself(answers: dict[str, str]) -> None:
    mine = features(closed(**answers))
    assert similarity(mine, mine) == pytest.approx(1)


@given(st.sets(st.sampled_from("abcdefgh"), min_size=2), st.sampled_from("abcdefgh"))
def test_the_random_one_is_stable_and_differs_from_the_nearest(ids: set[str], me: str) -> None:
    others: dict[str, Features] = {id: features(closed(tea="yes", **{id: "no"})) for id in ids - {me}}
    nearest, chosen = pick(me, others.get("a", {}), others)
    assert pick(me, others.get("a", {}), dict(reversed(others.items()))) == (nearest, chosen)
    assert nearest in others
    assert (chosen is None) == (len(others) == 1)
    assert chosen not in (nearest, me)


def test_different_users_get_different_random_ones() -> None:
    others = {f"u{n}": features(closed(tea="yes")) for n in range(20)}
    assert len({pick(f"me{n}", {}, others)[1] for n in range(20)}) > 3


# --- remembered for a while ---


class Histories:
    """A store as far as neighbours go; counts how often it is asked."""

    def __init__(self, **histories: list[Engagement]) -> None:
        self.histories = histories
        self.asked = 0
        self.users = self.engagements = self

    async def list_others(self, user_id: str, *, limit: int) -> list[str]:
        self.asked += 1
        return sorted(id for id in self.histories if id != user_id)[:limit]

    async def list_history(self, user_id: str, *, before: None, limit: int) -> list[Engagement]:
        return self.histories.get(user_id, [])[-limit:]


def finder(store: Histories, clock: Callable[[], float] = time.monotonic, **changes: object) -> NeighborIndex:
    settings = Settings.model_validate({"anchor_refresh_s": 60} | changes)
    return NeighborIndex(ServerContext(settings, cast(Any, store), cast(Any, None), Metrics()), clock=clock)


async def test_neighbors_are_looked_up_once_until_they_expire() -> None:
    store = Histories(ann=closed(tea="yes"), bob=closed(tea="yes"))
    clock = SimpleNamespace(now=1000.0)
    found = finder(store, lambda: clock.now)
    assert await found.get("ann") == await found.get("ann") == Neighbors("bob", None)
    assert store.asked == 1
    store.histories["cat"] = closed(tea="no")
    clock.now += 59
    assert await found.get("ann") == Neighbors("bob", None)
    clock.now += 2
    assert await found.get("ann") == Neighbors("bob", "cat")
    assert await found.get("ann") == Neighbors("bob", "cat")
    assert store.asked == 2


async def test_whoever_asks_at_the_same_time_waits_for_one_look() -> None:
    store = Histories(ann=closed(tea="yes"), bob=closed(tea="yes"))
    found = finder(store)
    assert await asyncio.gather(*(found.get("ann") for _ in range(9))) == 9 * [Neighbors("bob", None)]
    assert store.asked == 1


async def test_nobody_is_remembered_too() -> None:
    store = Histories(ann=closed(tea="yes"))
    found = finder(store)
    assert await found.get("ann") == await found.get("ann") == Neighbors(None, None)
    assert store.asked == 1


async def test_without_a_pool_there_are_no_neighbors() -> None:
    store = Histories(ann=closed(tea="yes"), bob=closed(tea="yes"))
    assert await finder(store, anchor_pool=0).get("ann") == Neighbors(None, None)


async def test_users_are_compared_by_their_newest_engagements() -> None:
    store = Histories(
        ann=closed(tea="yes", golf="no"), once=closed(tea="yes", cars="no"), now=closed(cars="yes", golf="no")
    )
    assert await finder(store, anchor_history=1).get("ann") == Neighbors("now", "once")


async def test_a_bounded_number_of_users_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "CACHED_USERS", 2)
    store = Histories(**{f"u{n}": closed(tea="yes") for n in range(5)})
    found = finder(store)
    for n in (0, 1, 2, 2, 1):
        await found.get(f"u{n}")
    assert store.asked == 3
    await found.get("u0")
    assert store.asked == 4


@pytest.mark.parametrize("work", ["features", "pick"])
async def test_histories_are_compared_outside_of_the_event_loop(monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    threads: set[int] = set()
    compute = getattr(neighbors, work)

    def noted(*args: object) -> object:
        threads.add(threading.get_ident())
        return compute(*args)

    monkeypatch.setattr(neighbors, work, noted)
    store = Histories(ann=closed(tea="yes"), bob=closed(tea="yes"))
    assert await finder(store).get("ann") == Neighbors("bob", None)
    assert threads
    assert threading.get_ident() not in threads
