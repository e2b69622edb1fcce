"""Who is worked on next, and that nobody is forgotten."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint_server.generation.scheduler import EngagementScheduler, Item, plan_in_chunks

PATIENCE = 10.0
Key = tuple[str, str]


def items(user: str, count: int, batch: str = "b") -> list[Item]:
    return [Item(batch, user, f"e{number:03d}") for number in range(count)]


def of_tenant(tenant: str, user: str, count: int, batch: str) -> list[Item]:
    return [replace(item, tenant=tenant) for item in items(user, count, batch)]


def planner(per_user: int = 2) -> EngagementScheduler:
    return EngagementScheduler(max_per_user=per_user, max_starvation_s=PATIENCE)


def users(taken: list[Item]) -> str:
    return " ".join(item.user_id for item in taken)


def test_a_user_is_worked_through_in_the_order_of_time() -> None:
    plan = planner(per_user=9)
    plan.add(items("ann", 3) + items("bob", 2), now=0)
    assert plan.take(9, now=0) == items("ann", 3) + items("bob", 2)
    assert (plan.remaining, plan.running) == (0, 5)


def test_the_next_user_comes_when_the_first_has_no_more() -> None:
    plan = planner(per_user=9)
    plan.add(items("ann", 3) + items("bob", 3), now=0)
    assert users(plan.take(2, now=0)) == "ann ann"
    assert users(plan.take(2, now=0)) == "ann bob"


def test_slots_that_one_user_may_not_fill_go_to_the_next() -> None:
    plan = planner(per_user=2)
    plan.add(items("ann", 9) + items("bob", 9) + items("cat", 9), now=0)
    taken = plan.take(5, now=0)
    assert users(taken) == "ann ann bob bob cat"
    plan.finish(taken[0])
    assert users(plan.take(1, now=0)) == "ann", "whose memory is cached goes on"


def test_nothing_starts_when_the_limit_is_zero_or_less() -> None:
    plan = planner()
    plan.add(items("ann", 3), now=0)
    assert plan.take(0, now=0) == plan.take(-4, now=0) == []
    assert plan.remaining == 3


def test_who_waited_too_long_takes_the_place_of_who_was_served_longest() -> None:
    plan = planner()
    plan.add(items("ann", 99) + items("bob", 3), now=0)
    served = []
    for second in range(30):
        [item] = plan.take(1, now=second)
        plan.finish(item)
        served.append(item.user_id)
    assert served[:11] == ["ann"] * 11
    assert served[11:14] == ["bob"] * 3
    assert served[14:] == ["ann"] * 16


def test_an_early_batch_does_not_starve_a_later_one() -> None:
    plan = planner()
    plan.add(items("ann", 99, "early") + items("bob", 99, "early"), now=0)
    plan.take(2, now=0)
    plan.add(items("ann", 2, "late"), now=1)
    taken = []
    for second in range(1, 40):
        for item in plan.take(2 - plan.running % 2, now=second):
            plan.finish(item)
            taken.append(item)
    assert set(items("ann", 2, "late")) <= set(taken)


def test_two_batches_share_the_slots_and_one_user_counts_in_each() -> None:
    plan = planner(per_user=2)
    plan.add(items("ann", 9, "one"), now=0)
    plan.add(items("ann", 9, "two"), now=0)
    assert [item.batch_id for item in plan.take(9, now=0)] == ["one", "one", "two", "two"]


def test_tenants_share_the_slots_evenly_however_many_users_each_has() -> None:
    plan = planner(per_user=2)
    for user in ("ann", "bob", "cat", "dan", "eve"):
        plan.add(of_tenant("acme", user, 9, "one"), now=0)
    plan.add(of_tenant("globex", "zoe", 9, "two"), now=0)
    taken = plan.take(4, now=0)
    assert Counter(item.tenant for item in taken) == {"acme": 2, "globex": 2}
    assert Counter(item.tenant for item in plan.take(4, now=0)) == {"acme": 4}, "zoe has as many as a user may"


def test_tenant_that_comes_late_gets_all_free_slots_until_it_has_its_share() -> None:
    plan = planner(per_user=9)
    plan.add(of_tenant("acme", "ann", 99, "one") + of_tenant("acme", "bob", 99, "one"), now=0)
    running = plan.take(6, now=0)
    plan.add(of_tenant("globex", "ann", 9, "two"), now=1)
    order = []
    for _ in range(6):
        plan.finish(running.pop(0))
        running += plan.take(1, now=1)
        order.append(running[-1].tenant)
    assert order == ["globex"] * 3 + ["acme"] * 3
    plan.drop("one")
    assert plan.running == sum(item.tenant == "globex" for item in running)


def test_the_k_th_item_of_a_tenant_starts_after_few_of_the_one_that_floods() -> None:
    plan = planner(per_user=16)
    for user in ("ann", "bob", "cat", "dan"):
        plan.add(of_tenant("acme", user, 500, "one"), now=0)
    running = plan.take(8, now=0)
    plan.add(of_tenant("globex", "zoe", 20, "two"), now=0)
    started = Counter[str]()
    while started["globex"] < 20:
        plan.finish(running.pop(0))
        [item] = plan.take(1, now=0)
        running.append(item)
        started[item.tenant] += 1
        assert started["acme"] <= started["globex"]


def test_nothing_is_kept_of_a_tenant_whose_items_are_done() -> None:
    plan = planner()
    plan.add(of_tenant("acme", "ann", 2, "one"), now=0)
    for item in plan.take(2, now=0):
        plan.finish(item)
        plan.finish(replace(item, tenant="never seen"))
    assert (plan.remaining, plan.running, plan._tenants) == (0, 0, {})


def test_a_dropped_batch_is_forgotten_and_its_last_items_may_finish() -> None:
    plan = planner()
    plan.add(items("ann", 9, "one") + items("bob", 9, "one"), now=0)
    plan.add(items("ann", 1, "two"), now=0)
    taken = plan.take(3, now=0)
    plan.drop("one")
    assert (plan.remaining, plan.running) == (1, 0)
    for item in taken:
        plan.finish(item)
    assert (plan.remaining, plan.running) == (1, 0)
    assert plan.take(9, now=0) == items("ann", 1, "two")
    plan.drop("never seen")


def test_active_user_is_not_starved_by_another_when_the_limit_shrinks() -> None:
    plan = planner(per_user=2)
    plan.add(items("ann", 99) + items("bob", 3), now=0)
    for item in plan.take(4, now=0):
        plan.finish(item)
    served = []
    for second in range(1, 40):
        [item] = plan.take(1, now=second)
        plan.finish(item)
        served.append(item.user_id)
    assert "bob" in served


@dataclass
class Run:
    """What a planner handed out, checked on the way."""

    plan: EngagementScheduler
    per_user: int
    todo: dict[Key, list[Item]]
    now: float = 0.0
    running: list[Item] = field(default_factory=list)
    idle_since: dict[Key, float] = field(default_factory=dict)
    longest_wait: float = 0.0

    def take(self, room: int) -> None:
        open_now = [key for key, left in self.todo.items() if left and self.of(key) < self.per_user]
        taken = self.plan.take(room, self.now)
        assert len(taken) <= max(0, room)
        assert taken or room <= 0 or not open_now, "no slot stays empty while there is work for it"
        for item in taken:
            key = (item.batch_id, item.user_id)
            assert item == self.todo[key].pop(0), "once each, in order"
            self.running.append(item)
            assert self.of(key) <= self.per_user
        for key, left in self.todo.items():
            if self.of(key) or not left:
                self.idle_since[key] = self.now
            self.longest_wait = max(self.longest_wait, self.now - self.idle_since.setdefault(key, self.now))
        assert self.plan.remaining == sum(map(len, self.todo.values()))
        assert self.plan.running == len(self.running)

    def of(self, key: Key) -> int:
        return Counter((item.batch_id, item.user_id) for item in self.running)[key]

    def finish(self, which: int) -> None:
        if self.running:
            self.plan.finish(self.running.pop(which % len(self.running)))


KEYS = st.dictionaries(
    st.tuples(st.sampled_from(["one", "two"]), st.sampled_from(["ann", "bob", "cat"])), st.integers(1, 12), min_size=1
)
STEPS = st.lists(st.tuples(st.integers(-1, 6), st.integers(0, 9), st.sampled_from([0, 1, 11])), max_size=40)


def start(sizes: dict[Key, int], per_user: int) -> Run:
    plan = planner(per_user)
    for (batch, user), count in sizes.items():
        plan.add(items(user, count, batch), now=0)
    return Run(plan, per_user, {(batch, user): items(user, count, batch) for (batch, user), count in sizes.items()})


@given(KEYS, st.integers(1, 3), STEPS)
def test_every_item_is_handed_out_once_within_all_bounds(
    sizes: dict[Key, int], per_user: int, steps: list[tuple[int, int, float]]
) -> None:
    run = start(sizes, per_user)
    for room, which, passed in steps:
        run.now += passed
        run.take(room)
        run.finish(which)
    while any(run.todo.values()) or run.running:
        run.take(1)
        run.finish(0)
    assert run.plan.take(9, run.now) == []


LIMITS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), min_size=1, max_size=8)


@given(st.integers(2, 4), st.integers(1, 3), LIMITS)
def test_nobody_waits_for_ever(count: int, per_user: int, limits: list[tuple[int, int]]) -> None:
    """However many may run at a time, and whichever of them ends: a second passes from one end to the next."""
    run = start({("b", f"u{number}"): 300 for number in range(count)}, per_user)
    for second in range(150):
        limit, which = limits[second * len(limits) // 150]  # each limit holds for a while
        run.now = second
        run.take(limit - len(run.running))
        while len(run.running) >= limit:
            run.finish(which)
    assert run.longest_wait <= count * (PATIENCE + 4)


def test_items_added_while_the_last_of_their_user_run_are_started() -> None:
    plan = planner(per_user=9)
    first, *rest = items("ann", 4)
    plan.add([first], now=0)
    assert plan.take(9, now=0) == [first]
    plan.add(rest[:1], now=1)
    plan.add(rest[1:], now=1)
    assert plan.take(9, now=1) == rest
    for item in [first, *rest]:
        plan.finish(item)
    assert (plan.remaining, plan.running) == (0, 0)


def test_item_that_was_not_started_can_be_removed() -> None:
    plan = planner()
    one, two, three = items("ann", 3)
    plan.add([one, two], now=0)
    plan.remove(three)
    plan.remove(two)
    assert plan.take(9, now=0) == [one]
    plan.remove(one)
    assert (plan.remaining, plan.running) == (0, 1), "it was started"
    plan.finish(one)
    plan.add([three], now=0)
    plan.remove(three)
    assert plan.take(9, now=0) == []


def test_users_take_turns_in_a_plan_with_some_engagements_in_a_row() -> None:
    plan = [("ann", f"e{n}") for n in range(5)] + [("bob", "e0")] + [("cat", f"e{n}") for n in range(3)]
    assert plan_in_chunks(plan, 2) == [
        ("ann", "e0"),
        ("ann", "e1"),
        ("bob", "e0"),
        ("cat", "e0"),
        ("cat", "e1"),
        ("ann", "e2"),
        ("ann", "e3"),
        ("cat", "e2"),
        ("ann", "e4"),
    ]
    assert plan_in_chunks(plan, 9) == plan
    assert plan_in_chunks([], 2) == []


def test_items_of_a_paused_batch_do_not_start_until_it_is_resumed() -> None:
    plan = planner(per_user=9)
    first, *rest = items("ann", 4, "one")
    plan.add([first, *rest[:2]], now=0)
    assert plan.take(1, now=0) == [first]
    plan.pause("one")
    plan.add(rest[2:] + items("bob", 1, "two"), now=0)
    assert (plan.remaining, plan.running) == (1, 1)
    assert plan.take(9, now=0) == items("bob", 1, "two")
    plan.finish(first)
    plan.remove(rest[1])
    plan.resume("one", now=1)
    assert plan.take(9, now=1) == [rest[0], rest[2]]


def test_nothing_is_kept_of_a_paused_batch_that_is_dropped() -> None:
    plan = planner()
    plan.add(items("ann", 3), now=0)
    plan.pause("b")
    plan.drop("b")
    plan.resume("b", now=1)
    assert (plan.take(9, now=1), plan.tenants) == ([], set())


class Compared(str):
    """A name that counts how often it is compared: by lists that are searched in C, too."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Compared.comparisons += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@contextmanager
def counting(operations: Counter[str]) -> Iterator[None]:
    """Count the lines of Python that run in the block, and the comparisons of names."""

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        operations["lines"] += 1
        return trace

    compared, before = Compared.comparisons, sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
        operations["comparisons"] += Compared.comparisons - compared


def operations_of_items(users: int, each: int) -> Counter[str]:
    """Count what it takes to start and finish 64 items, 8 at a time, of so many users."""
    plan, operations = planner(per_user=2), Counter[str]()
    plan.add([item for user in range(users) for item in items(Compared(f"u{user}"), each)], now=0)
    running = plan.take(8, now=0)
    with counting(operations):
        for _ in range(64):
            plan.finish(running.pop(0))
            assert plan.remaining + plan.running == users * each - operations["done"] - 1
            running += plan.take(8 - plan.running, now=0)
            operations["done"] += 1
    return operations


@pytest.mark.parametrize("each", [1, 3])
def test_an_item_costs_the_same_at_100_and_at_20_000_users(each: int) -> None:
    few, many = operations_of_items(100, each), operations_of_items(20_000, each)
    assert many["done"] == few["done"] == 64
    assert many["lines"] == few["lines"] > 0
    assert many["comparisons"] <= 2 * few["comparisons"] + 64, "a table of more names has a few more collisions"
