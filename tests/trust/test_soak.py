from __future__ import annotations

import asyncio
import random
from collections import Counter

import httpx
import pytest

from soak import ACTIONS, MAX_GROWTH, Load, Soaked, Trend, find_trend

TIMES = [float(second) for second in range(0, 400, 10)]


def test_find_trend_leaves_out_the_warm_up() -> None:
    trend = find_trend(TIMES, [100 + min(second, 90) for second in TIMES])
    assert (trend.first, trend.last, trend.is_flat) == (190, 190, True)
    assert trend.slope_per_hour == pytest.approx(0, abs=1e-6)


def test_find_trend_of_a_leak_is_not_flat() -> None:
    trend = find_trend(TIMES, [1000 + second for second in TIMES])
    assert trend.slope_per_hour == pytest.approx(3600)
    assert trend.growth > MAX_GROWTH
    assert not trend.is_flat


def test_find_trend_of_what_shrinks_is_flat() -> None:
    assert find_trend(TIMES, [1000 - second for second in TIMES]).is_flat


ALL = dict.fromkeys(ACTIONS, 1)


@pytest.mark.parametrize(
    ("answers", "done", "is_flat", "holds"),
    [
        ({"200": 9, "503": 1}, ALL, True, True),
        ({"200": 9, "500": 1}, ALL, True, False),
        ({"200": 9, "404": 1}, ALL, True, False),
        ({"200": 9}, ALL, False, False),
        ({"503": 9}, {}, True, False),
        ({}, {}, True, False),
        *(({"200": 9}, ALL | {action: 0}, True, False) for action in ACTIONS),
    ],
)
def test_soak_holds_where_all_was_done_without_faults_refusals_and_growth(
    answers: dict[str, int], done: dict[str, int], is_flat: bool, holds: bool
) -> None:
    trend = Trend(first=1, last=1, slope_per_hour=0, growth=0, is_flat=is_flat)
    assert Soaked(1, answers, done, {"threads": trend}).holds is holds


async def test_load_counts_what_was_done_to_its_end() -> None:
    """A server that answers one time in two, whose batches fail and whose streams break off now and then."""
    calls = Counter[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        calls[request.url.path] += 1
        is_odd = calls[request.url.path] % 2 == 1
        if request.url.path == "/v1/batches":
            return httpx.Response(200, json={"id": "b", "state": "done" if is_odd else "failed"})
        if b"stream" in request.content:
            return httpx.Response(200, text="data: x\n\n" + ("data: [DONE]\n\n" if is_odd else ""))
        return httpx.Response(200 if is_odd else 429, json={})

    load = Load("http://server", random.Random(1))
    await load.close()
    load._client = httpx.AsyncClient(base_url="http://server", transport=httpx.MockTransport(answer))
    for action, done in ((load._chat, "chat"), (load._stream, "stream"), (load._trace, "trace")):
        calls.clear()
        await action()
        assert load.done.pop(done) == 1
        await action()
        assert load.done == {}, "refused, or broken off"
    for _ in range(2):
        await load._batch(asyncio.Event())
    assert load.done == {"batch": 1}
    await load.close()
