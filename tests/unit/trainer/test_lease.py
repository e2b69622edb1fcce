from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from mindprint import MindprintClient
from mindprint_trainer.lease import LeaseKeeper


@contextmanager
def keeping(connect: Callable[[], MindprintClient], lease_id: str, ttl_s: float) -> Iterator[LeaseKeeper]:
    keeper = LeaseKeeper(connect, lease_id, ttl_s)
    keeper.start()
    try:
        yield keeper
    finally:
        keeper.stop()


def wait_until(condition: Any, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return bool(condition())


def test_it_beats_every_third_of_the_time_to_live(server: Any) -> None:
    with keeping(server.client, "lease-1", 0.15) as keeper:
        assert wait_until(lambda: len(server.beats) >= 3)
        assert not keeper.lost.is_set()
    beats = len(server.beats)
    time.sleep(0.15)
    assert len(server.beats) == beats
    assert set(server.beats) == {"lease-1"}


def test_a_refused_beat_loses_the_lease(server: Any, refusal: Any) -> None:
    server.answers["heartbeat"] = refusal(409, "lease_lost")
    with keeping(server.client, "lease-1", 0.03) as keeper:
        assert wait_until(keeper.lost.is_set)


def test_failing_calls_lose_it_only_after_its_time_to_live(server: Any) -> None:
    def broken() -> httpx.Response:
        raise httpx.ConnectError("gone")

    server.answers["heartbeat"] = broken
    started = time.monotonic()
    with keeping(server.client, "lease-1", 0.2) as keeper:
        assert wait_until(keeper.lost.is_set)
    assert time.monotonic() - started >= 0.2


def test_one_failure_among_beats_is_nothing(server: Any, refusal: Any) -> None:
    answers = iter([refusal(503, "engine_dead")])

    def once() -> httpx.Response:
        response: httpx.Response = next(answers)()
        del server.answers["heartbeat"]
        return response

    server.answers["heartbeat"] = once
    with keeping(server.client, "lease-1", 0.6) as keeper:
        assert wait_until(lambda: len(server.beats) >= 3)
        assert not keeper.lost.is_set()
