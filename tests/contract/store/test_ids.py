from __future__ import annotations

import re
import time

import pytest

from mindprint_server.store import new_id


def test_ids_rise_and_differ() -> None:
    made = [new_id() for _ in range(10_000)]
    assert made == sorted(set(made))
    assert all(re.fullmatch(r"[0-9a-f]{32}", id) for id in made)


def test_ids_rise_also_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_id()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    after = [new_id(), new_id()]
    assert before < after[0] < after[1]


def test_id_contains_its_time() -> None:
    assert abs(int(new_id()[:16], 16) - time.time_ns()) < 60 * 10**9
