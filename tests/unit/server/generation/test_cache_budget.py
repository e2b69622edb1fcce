"""What the engine's cache has no room for begins behind what has begun."""

from __future__ import annotations

from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from mindprint_server.engine import Priority
from mindprint_server.generation.concurrency import CacheBudget

SOON, DEFERRED = Priority.BATCH, Priority.BATCH_DEFERRED


def test_what_fits_does_not_wait() -> None:
    budget = CacheBudget()
    with budget.reserve(60, 100) as one, budget.reserve(40, 100) as two, budget.reserve(1, 100) as three:
        assert (one.priority, two.priority, three.priority) == (SOON, SOON, DEFERRED)
        three.mark_started()
        assert three.priority == SOON, "its prompt is cached now"
    with budget.reserve(100, 100) as all_of_it:
        assert all_of_it.priority == SOON
    with budget.reserve(1_000_000, None) as unknown:
        assert unknown.priority == SOON


def test_nobody_overtakes_who_waits() -> None:
    budget = CacheBudget()
    with ExitStack() as early:
        early.enter_context(budget.reserve(90, 100))
        with budget.reserve(20, 100) as waits:
            early.close()
            with budget.reserve(20, 100) as after:
                assert (waits.priority, after.priority) == (DEFERRED, DEFERRED), "there is room by now"
            waits.mark_started()
            with budget.reserve(20, 100) as later:
                assert later.priority == SOON


def test_whoever_fails_before_it_began_waits_no_longer() -> None:
    budget = CacheBudget()
    try:
        with budget.reserve(200, 100) as turn:
            assert turn.priority == DEFERRED
            raise TimeoutError
    except TimeoutError:
        pass
    assert (budget.used, budget.deferred) == (0, 0)


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=20))
def test_all_reserved_tokens_are_freed(each: list[tuple[int, bool]]) -> None:
    budget = CacheBudget()
    with ExitStack() as stack:
        for tokens, begins in each:
            turn = stack.enter_context(budget.reserve(tokens, 100))
            assert turn.priority == SOON or budget.used > 100 or budget.deferred > 1
            if begins:
                turn.mark_started()
    assert (budget.used, budget.deferred) == (0, 0)
