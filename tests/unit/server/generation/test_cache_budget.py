"""What the engine's cache has no room for begins behind what has begun."""

from __future__ import annotations

from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from mindprint_server.engine import Priority
from mindprint_server.generation.concurrency import CacheBudget

SOON, BEHIND = Priority.BATCH, Priority.BATCH_DEFERRED


def test_what_fits_does_not_wait() -> None:
    room = CacheBudget()
    with room.take(60, 100) as one, room.take(40, 100) as two, room.take(1, 100) as three:
        assert (one.priority, two.priority, three.priority) == (SOON, SOON, BEHIND)
        three.began()
        assert three.priority == SOON, "its prompt is cached now"
    with room.take(100, 100) as all_of_it:
        assert all_of_it.priority == SOON
    with room.take(1_000_000, None) as unknown:
        assert unknown.priority == SOON


def test_nobody_overtakes_who_waits() -> None:
    room = CacheBudget()
    with ExitStack() as early:
        early.enter_context(room.take(90, 100))
        with room.take(20, 100) as waits:
            early.close()
            with room.take(20, 100) as after:
                assert (waits.priority, after.priority) == (BEHIND, BEHIND), "there is room by now"
            waits.began()
            with room.take(20, 100) as later:
                assert later.priority == SOON


def test_whoever_fails_before_it_began_waits_no_longer() -> None:
    room = CacheBudget()
    try:
        with room.take(200, 100) as turn:
            assert turn.priority == BEHIND
            raise TimeoutError
    except TimeoutError:
        pass
    assert (room.used, room.behind) == (0, 0)


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=20))
def test_all_room_is_given_back(each: list[tuple[int, bool]]) -> None:
    room = CacheBudget()
    with ExitStack() as stack:
        for tokens, begins in each:
            turn = stack.enter_context(room.take(tokens, 100))
            assert turn.priority == SOON or room.used > 100 or room.behind > 1
            if begins:
                turn.began()
    assert (room.used, room.behind) == (0, 0)
