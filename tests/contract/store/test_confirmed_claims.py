"""A claim chooses before it writes. What changes in between is seen, and never leased twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from erasing import one, run, user
from mindprint_server.store import Holdout, Store, lease_selection
from mindprint_server.store.lease_selection import LeaseSelection
from mindprint_server.store.leases import CONFIRMED_CLAIMS

Act = Callable[[], Awaitable[Any]]
Between = Callable[..., list[LeaseSelection | None]]


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Between:
    """Lets something happen after each of the next choices; returns what was chosen."""
    select = lease_selection.select_traces
    chosen: list[LeaseSelection | None] = []

    def act_after(*acts: Act) -> list[LeaseSelection | None]:
        left = list(acts)

        async def choose(*args: Any) -> LeaseSelection | None:
            chosen.append(await select(*args))
            if left:
                await left.pop(0)()
            return chosen[-1]

        monkeypatch.setattr(lease_selection, "select_traces", choose)
        return chosen

    return act_after


async def test_an_adapter_that_was_leased_in_between_is_left_to_the_other(
    store: Store, other: Store, make: Any, between: Between
) -> None:
    await make.waiting(store, "ann", 3)
    bobs = await make.waiting(store, "bob", 2)
    taken: list[Any] = []

    async def take() -> None:
        taken.append(await make.claim(other, adapter="user/ann"))

    chosen = between(take)
    lease = await make.claim(store)
    assert lease is not None
    assert (lease.adapter, lease.trace_ids) == ("user/bob", bobs)
    assert [selection and selection.adapter for selection in chosen] == ["user/ann", "user/ann", "user/bob"]
    assert taken[0].adapter == "user/ann"


async def test_a_claim_that_always_comes_late_chooses_while_others_wait(
    store: Store, other: Store, make: Any, between: Between
) -> None:
    users = [f"u{n}" for n in range(CONFIRMED_CLAIMS + 1)]
    for name in users:
        await make.waiting(store, name, 1)

    async def take(name: str) -> None:
        # Not a claim: that would choose too, and so be between itself.
        await other.erasures.request(user(name))

    between(*[lambda name=name: take(name) for name in users[:-1]])
    lease = await make.claim(store)
    assert lease is not None
    assert lease.adapter == f"user/{users[-1]}"


async def test_a_user_whose_erasure_was_requested_in_between_is_not_leased(
    store: Store, other: Store, make: Any, between: Between
) -> None:
    await make.waiting(store, "ann", 2)
    between(lambda: other.erasures.request(user("ann")))
    assert await make.claim(store) is None


async def test_traces_that_are_gone_are_not_leased(store: Store, other: Store, make: Any, between: Between) -> None:
    await make.user(store, "ann", 2)
    kept = await store.traces.add(make.trace("ann", "e0"))
    await store.traces.add(make.trace("ann", "e1"))
    between(lambda: run(other, one("e1")))
    lease = await make.claim(store)
    assert lease is not None
    assert lease.trace_ids == [kept.id]


async def test_traces_that_are_held_out_by_now_are_not_leased(
    store: Store, other: Store, make: Any, between: Between
) -> None:
    await make.user(store, "ann", 9)
    old = await store.traces.add(make.trace("ann", "e0"))
    await store.traces.add(make.trace("ann", "e8"))
    between(lambda: other.engagements.add("ann", [make.engagement(-1)]))
    lease = await make.claim(store, holdout=Holdout(share=0.1, min_engagements=10))
    assert lease is not None
    assert lease.trace_ids == [old.id]
    assert lease.held_out == {"ann": ["e8"]}


async def test_users_who_left_the_cohort_are_not_leased_with_it(
    store: Store, other: Store, make: Any, between: Between
) -> None:
    anns, bobs = await make.cohort(store, "cooks", "ann"), await make.waiting(store, "bob", 1)
    await store.cohorts.add_members("cooks", ["bob"])
    chosen = between(lambda: other.cohorts.remove_member("cooks", "bob"))
    lease = await make.cohort_claim(store, "cooks")
    assert lease is not None
    assert lease.trace_ids == anns
    assert chosen[0] is not None
    assert [id for id, _ in chosen[0].traces] == [*anns, *bobs]


async def test_traces_that_a_cohort_s_version_has_by_now_are_not_leased_again(
    store: Store, other: Store, make: Any, between: Between
) -> None:
    ids = await make.cohort(store, "cooks", "ann", traces=2)

    async def train() -> None:
        await make.completed(other, await make.cohort_claim(other, "cooks"))

    between(train)
    assert await make.cohort_claim(store, "cooks") is None
    assert (await store.traces.get(ids[0])).versions == ["cohort/cooks@1"]


async def test_the_user_with_most_traces_that_are_not_held_out_is_chosen(store: Store, make: Any) -> None:
    """Of many users with the same number of waiting traces, one has none held out; ties go to the first by key."""
    holdout = Holdout(share=0.5, min_engagements=2)
    for n in range(40):
        await make.user(store, f"u{n:02}", 2)
        for engagement in ("e0", "e1") if n != 33 else ("e0", "e0"):
            await store.traces.add(make.trace(f"u{n:02}", engagement, thinking=f"{engagement} {n}"))
    await store.traces.add(make.trace("u33", "e0", thinking="another"))
    lease = await make.claim(store, holdout=holdout)
    assert lease is not None
    assert lease.adapter == "user/u33"
    following = await make.claim(store, holdout=holdout)
    assert following is not None
    assert following.adapter == "user/u00"
    assert await make.claim(store, holdout=holdout, min_traces=2) is None
