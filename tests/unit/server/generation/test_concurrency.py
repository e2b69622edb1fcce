"""How many engagements are under way at once follows the engine's state."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mindprint_server.engine import EngineStats
from mindprint_server.generation.concurrency import KV_FULL, ConcurrencyLimiter


def test_it_begins_with_the_slots_that_there_are() -> None:
    assert ConcurrencyLimiter(slots=64, max_limit=128).limit == 64
    assert ConcurrencyLimiter(slots=64, max_limit=10).limit == 10


def test_it_grows_to_the_most_while_slots_are_free_and_nothing_waits() -> None:
    limiter = ConcurrencyLimiter(slots=64, max_limit=128)
    limits = [limiter.update(EngineStats(running=40)) for _ in range(40)]
    assert limits[0] == 68
    assert limits == sorted(limits)
    assert limits[-1] == 128


def test_a_small_engine_grows_too() -> None:
    limiter = ConcurrencyLimiter(slots=2, max_limit=4)
    assert [limiter.update(EngineStats(running=1)) for _ in range(3)] == [3, 4, 4]


def test_it_stays_while_the_slots_are_full() -> None:
    limiter = ConcurrencyLimiter(slots=64, max_limit=128)
    assert limiter.update(EngineStats(running=64)) == limiter.update(EngineStats(running=64, waiting=16)) == 64


def test_it_sinks_slowly_while_much_waits_and_never_below_the_slots() -> None:
    limiter = ConcurrencyLimiter(slots=64, max_limit=128)
    limiter.update(EngineStats(running=60))
    assert [limiter.update(EngineStats(running=64, waiting=17)) for _ in range(6)] == [67, 66, 65, 64, 64, 64]


def test_a_queue_changes_nothing_after_a_retreat_from_a_full_cache() -> None:
    limiter = ConcurrencyLimiter(slots=64, max_limit=128)
    limiter.update(EngineStats(running=64, kv_use=0.99))
    assert limiter.update(EngineStats(running=48, waiting=17)) == 48


def test_it_shrinks_from_what_runs_when_the_engine_preempts() -> None:
    limiter = ConcurrencyLimiter(slots=64, max_limit=128)
    limiter.update(EngineStats(running=64))
    assert limiter.update(EngineStats(running=40, preemptions=1)) == 30
    assert limiter.update(EngineStats(running=40, preemptions=1)) == 34, "only new preemptions count"


def test_preemptions_of_before_the_first_look_do_not_count() -> None:
    assert ConcurrencyLimiter(slots=64, max_limit=64).update(EngineStats(running=64, preemptions=9)) == 64


def test_it_shrinks_when_the_cache_is_full() -> None:
    limiter = ConcurrencyLimiter(slots=64, max_limit=128)
    assert limiter.update(EngineStats(running=64, kv_use=KV_FULL)) == 64
    assert limiter.update(EngineStats(running=64, kv_use=0.99)) == 48


def test_it_backs_off_once_for_one_full_cache() -> None:
    limiter = ConcurrencyLimiter(slots=64, max_limit=128)
    full = EngineStats(running=64, kv_use=0.99)
    assert [limiter.update(full) for _ in range(3)] == [48, 48, 48]
    assert limiter.update(EngineStats(running=48, kv_use=0.99)) == 36


LOADS = st.builds(
    EngineStats,
    running=st.integers(0, 300),
    waiting=st.integers(0, 300),
    kv_use=st.floats(0, 1),
    preemptions=st.integers(0, 3),
)


@given(st.integers(1, 256), st.integers(1, 256), st.lists(LOADS, max_size=50))
def test_it_is_never_below_one_nor_above_the_most(slots: int, most: int, loads: list[EngineStats]) -> None:
    limiter = ConcurrencyLimiter(slots=slots, max_limit=most)
    assert all(1 <= limit <= most for limit in [limiter.limit, *map(limiter.update, loads)])


@given(st.integers(1, 64), st.integers(1, 64), st.lists(LOADS, max_size=50))
def test_it_comes_back_from_any_trouble(slots: int, most: int, loads: list[EngineStats]) -> None:
    limiter = ConcurrencyLimiter(slots=slots, max_limit=most)
    for load in loads:
        limiter.update(load)
    limiter.update(EngineStats(preemptions=9))
    for _ in range(most):
        limiter.update(EngineStats(preemptions=9))
    assert limiter.limit == most


def test_it_sinks_until_the_reserved_slots_are_free() -> None:
    limiter = ConcurrencyLimiter(slots=8, max_limit=16)
    for _ in range(4):
        limiter.update(EngineStats(running=7))
    assert limiter.limit == 12
    limits = [limiter.update(EngineStats(running=8), reserved=2) for _ in range(8)]
    assert limits == [11, 10, 9, 8, 7, 6, 6, 6]
    assert limiter.update(EngineStats(running=6), reserved=2) == 6, "two slots are free, and stay so"
    assert limiter.update(EngineStats(running=6)) == 7
    assert ConcurrencyLimiter(slots=1, max_limit=1).update(EngineStats(running=1), reserved=1) == 1
