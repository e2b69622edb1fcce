"""How many engagements are under way at once follows the engine's state."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mindprint_server.engine import EngineStats
from mindprint_server.generation.concurrency import KV_FULL, ConcurrencyLimiter


def test_it_begins_with_the_slots_that_there_are() -> None:
    assert ConcurrencyLimiter(slots=64, most=128).limit == 64
    assert ConcurrencyLimiter(slots=64, most=10).limit == 10


def test_it_grows_to_the_most_while_slots_are_free_and_nothing_waits() -> None:
    inflight = ConcurrencyLimiter(slots=64, most=128)
    limits = [inflight.observe(EngineStats(running=40)) for _ in range(40)]
    assert limits[0] == 68
    assert limits == sorted(limits)
    assert limits[-1] == 128


def test_a_small_engine_grows_too() -> None:
    inflight = ConcurrencyLimiter(slots=2, most=4)
    assert [inflight.observe(EngineStats(running=1)) for _ in range(3)] == [3, 4, 4]


def test_it_stays_while_the_slots_are_full() -> None:
    inflight = ConcurrencyLimiter(slots=64, most=128)
    assert inflight.observe(EngineStats(running=64)) == inflight.observe(EngineStats(running=64, waiting=16)) == 64


def test_it_sinks_slowly_while_much_waits_and_never_below_the_slots() -> None:
    inflight = ConcurrencyLimiter(slots=64, most=128)
    inflight.observe(EngineStats(running=60))
    assert [inflight.observe(EngineStats(running=64, waiting=17)) for _ in range(6)] == [67, 66, 65, 64, 64, 64]


def test_a_queue_changes_nothing_after_a_retreat_from_a_full_cache() -> None:
    inflight = ConcurrencyLimiter(slots=64, most=128)
    inflight.observe(EngineStats(running=64, kv_use=0.99))
    assert inflight.observe(EngineStats(running=48, waiting=17)) == 48


def test_it_shrinks_from_what_runs_when_the_engine_preempts() -> None:
    inflight = ConcurrencyLimiter(slots=64, most=128)
    inflight.observe(EngineStats(running=64))
    assert inflight.observe(EngineStats(running=40, preemptions=1)) == 30
    assert inflight.observe(EngineStats(running=40, preemptions=1)) == 34, "only new preemptions count"


def test_preemptions_of_before_the_first_look_do_not_count() -> None:
    assert ConcurrencyLimiter(slots=64, most=64).observe(EngineStats(running=64, preemptions=9)) == 64


def test_it_shrinks_when_the_cache_is_full() -> None:
    inflight = ConcurrencyLimiter(slots=64, most=128)
    assert inflight.observe(EngineStats(running=64, kv_use=KV_FULL)) == 64
    assert inflight.observe(EngineStats(running=64, kv_use=0.99)) == 48


def test_it_backs_off_once_for_one_full_cache() -> None:
    inflight = ConcurrencyLimiter(slots=64, most=128)
    full = EngineStats(running=64, kv_use=0.99)
    assert [inflight.observe(full) for _ in range(3)] == [48, 48, 48]
    assert inflight.observe(EngineStats(running=48, kv_use=0.99)) == 36


LOADS = st.builds(
    EngineStats,
    running=st.integers(0, 300),
    waiting=st.integers(0, 300),
    kv_use=st.floats(0, 1),
    preemptions=st.integers(0, 3),
)


@given(st.integers(1, 256), st.integers(1, 256), st.lists(LOADS, max_size=50))
def test_it_is_never_below_one_nor_above_the_most(slots: int, most: int, loads: list[EngineStats]) -> None:
    inflight = ConcurrencyLimiter(slots=slots, most=most)
    assert all(1 <= limit <= most for limit in [inflight.limit, *map(inflight.observe, loads)])


@given(st.integers(1, 64), st.integers(1, 64), st.lists(LOADS, max_size=50))
def test_it_comes_back_from_any_trouble(slots: int, most: int, loads: list[EngineStats]) -> None:
    inflight = ConcurrencyLimiter(slots=slots, most=most)
    for load in loads:
        inflight.observe(load)
    inflight.observe(EngineStats(preemptions=9))
    for _ in range(most):
        inflight.observe(EngineStats(preemptions=9))
    assert inflight.limit == most
