"""Whose request gets the next free slot."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from mindprint_server.sharing.fair_queue import FairQueue, Ticket


@dataclass
class Line:
    """A queue, and the requests that hold its slots, the oldest first."""

    queue: FairQueue
    running: list[Ticket] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    """Tenants, as they were admitted."""

    def add(self, tenant: str, count: int = 1, slots: int = 1) -> list[Ticket]:
        tickets = [self.queue.add(tenant, slots) for _ in range(count)]
        self.admit()
        return tickets

    def admit(self) -> None:
        admitted = self.queue.admit()
        self.running += admitted
        self.order += [ticket.tenant for ticket in admitted]

    def finish(self, which: int = 0) -> None:
        self.queue.remove(self.running.pop(which))
        self.admit()

    def held(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for ticket in self.running:
            counts[ticket.tenant] += ticket.slots
        return counts


def test_one_tenant_takes_all_slots_in_the_order_of_its_requests() -> None:
    line = Line(FairQueue(2, reserved=1))
    tickets = line.add("a", 4)
    assert line.running == tickets[:2]
    line.finish(1)
    assert line.running == [tickets[0], tickets[2]]


def test_a_tenant_that_comes_late_is_served_before_the_one_that_floods() -> None:
    line = Line(FairQueue(4))
    line.add("a", 100)
    line.add("b", 3)
    line.order.clear()
    for _ in range(8):
        line.finish()
    assert line.order[:5] == ["b", "b", "a", "a", "b"], "until both hold two, and then who holds fewer"


def test_the_k_th_request_of_a_tenant_waits_for_few_of_the_one_that_floods() -> None:
    for slots in (1, 2, 5, 8):
        for k in (1, 3, 10):
            line = Line(FairQueue(slots))
            line.add("a", 1000)
            line.add("b", k)
            line.order.clear()
            while line.order.count("b") < k:
                line.finish()
            assert line.order.count("a") <= k, (slots, k)


def test_reserved_slots_are_free_at_once_for_a_second_tenant() -> None:
    line = Line(FairQueue(8, reserved=2))
    (first,) = line.add("b")
    line.queue.remove(first)
    line.running.remove(first)
    line.add("a", 100)
    assert line.held() == {"a": 6}
    line.add("b", 2)
    assert line.held() == {"a": 6, "b": 2}


def test_until_a_second_tenant_asks_nothing_is_reserved() -> None:
    line = Line(FairQueue(8, reserved=2))
    line.add("a", 100)
    assert line.held() == {"a": 8}


def test_a_request_for_many_slots_waits_for_them_and_is_not_passed() -> None:
    line = Line(FairQueue(4))
    line.add("a", 4)
    line.add("b", slots=3)
    line.add("a", 9)
    for _ in range(3):
        line.finish()
        assert line.held()["a"] <= 3
    assert line.held() == {"a": 1, "b": 3}


def test_a_request_for_more_slots_than_there_are_takes_all() -> None:
    line = Line(FairQueue(4, reserved=1))
    line.add("a", slots=8)
    assert line.held() == {"a": 4}
    line.add("b")
    assert "b" not in line.held()
    line.finish()
    assert line.held() == {"b": 1}
    line.add("a", slots=8)
    line.finish()
    assert line.held() == {"a": 4}, "it may begin where it holds nothing, whatever is reserved"


def test_who_leaves_while_waiting_is_forgotten() -> None:
    line = Line(FairQueue(1))
    line.add("a")
    gone, stays = line.add("b", 2)
    line.queue.remove(gone)
    assert line.queue.count_waiting("b") == 1
    line.finish()
    assert line.running == [stays]
    line.finish()
    assert (line.queue.held, line.queue.count_waiting("b")) == (0, 0)


STEPS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "end", "leave"]), st.integers(0, 9)), max_size=80)


@given(st.integers(1, 6), STEPS)
def test_while_a_tenant_waits_none_that_holds_more_gets_a_slot(slots: int, steps: list[tuple[str, int]]) -> None:
    line, waiting = Line(FairQueue(slots)), list[Ticket]()
    for what, number in steps:
        before = len(line.order)
        if what == "end" and line.running:
            line.finish(number % len(line.running))
        elif what == "leave" and waiting:
            line.queue.remove(waiting.pop(number % len(waiting)))
            line.admit()
        elif what in ("a", "b", "c"):
            waiting += line.add(what)
        waiting = [ticket for ticket in waiting if not ticket.is_admitted]
        held, named = line.held(), {ticket.tenant for ticket in waiting}
        for tenant in line.order[before:]:
            assert all(held[tenant] - 1 <= held[other] for other in named), "it held no more than who waits"
        assert held.total() == line.queue.held <= slots
        assert not waiting or held.total() == slots, "no slot is free while somebody waits"
        assert Counter(ticket.tenant for ticket in waiting) == {
            tenant: count for tenant in named if (count := line.queue.count_waiting(tenant))
        }
