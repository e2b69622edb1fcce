from __future__ import annotations

import asyncio
from typing import Any

import pytest

from demo_made import person, trace
from mindprint.exceptions import ApiError, MindprintError
from mindprint.types import Trace, TraceRequest
from mindprint_demo.scoring import build_request, score_arm, score_trace


class Writer:
    """Answers after a moment, refuses one question, and notes how many it had at once."""

    def __init__(self, refuse: str = "") -> None:
        self.traces = self
        self.asked: list[TraceRequest] = []
        self.most = 0
        self._now = 0
        self._refuse = refuse

    async def create(self, request: TraceRequest) -> Trace:
        self.asked.append(request)
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0.001 * (len(self.asked) % 3))
        self._now -= 1
        if request.query == self._refuse:
            raise ApiError("the queue is full", status=429, code="busy")
        return trace("x", target=-0.5)


async def test_every_question_is_put_once_in_every_mode_and_a_few_at_once() -> None:
    users, ticks = [person("u-0"), person("u-1")], []
    writer: Any = Writer()
    scores = await score_arm(writer, users, ("direct", "personal"), "base", in_flight=3, tick=lambda: ticks.append(1))
    assert len(ticks) == len(writer.asked) == 16
    assert len({(r.user_id, r.query, r.mode) for r in writer.asked}) == 16
    assert writer.most == 3
    assert [a.row for a in scores.of("u-1", "personal")] == [f"u-1/e{n}" for n in range(4)]
    assert scores.failures == []


async def test_a_failure_is_kept_and_the_others_go_on() -> None:
    writer: Any = Writer("q2")
    scores = await score_arm(writer, [person("u-0")], ("direct",), "adapter", in_flight=8, tick=lambda: None)
    assert [a.row for a in scores.of("u-0", "direct")] == ["u-0/e0", "u-0/e1", "u-0/e3"]
    assert scores.failures == ["adapter direct u-0/e2: the queue is full (429 busy)"]
    assert scores.of("u-0", "personal") == []


def test_what_is_asked() -> None:
    row = person("u-0").held_out[1]
    base, adapted = build_request("u-0", row, "direct", "base"), build_request("u-0", row, "personal", "adapter")
    assert (base.model, adapted.model) == ("base", "user/u-0")
    assert (base.temperature, base.asked_at, base.target, base.choices) == (0.0, row.asked_at, "a", ["a", "b"])
    assert adapted.mode == "personal"


def test_what_is_noted_of_an_answer() -> None:
    row = person("u-0").held_out[0]
    found = score_trace(row, trace("x", target=-0.25))
    assert (found.row, found.right, found.logprob, found.profile_version) == ("u-0/e0", True, -0.25, 1)
    with pytest.raises(MindprintError, match="u-0/e0 does not score the choices"):
        score_trace(row, trace("x"))
