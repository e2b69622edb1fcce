from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

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


def test_failing_calls_lose_it_only_after_its_time_to_live(server: Any, refusal: Any) -> None:
    server.answers["heartbeat"] = refusal(500, "internal_error")
    started = time.monotonic()
    with keeping(server.client, "lease-1", 0.2) as keeper:
        assert wait_until(keeper.lost.is_set)
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("answer", [httpx.ConnectError("gone"), httpx.Response(502), httpx.Response(404)])
def test_server_that_is_away_for_longer_than_its_time_to_live_loses_nothing(server: Any, answer: Any) -> None:
    asked: list[float] = []

    def away() -> httpx.Response:
        asked.append(time.monotonic())
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code)

    server.answers["heartbeat"] = away
    with keeping(server.client, "lease-1", 0.06) as keeper:
        assert wait_until(lambda: len(asked) >= 6)
        assert not keeper.lost.is_set()
        del server.answers["heartbeat"]
        assert wait_until(lambda: server.beats)
        assert not keeper.lost.is_set()


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
