from __future__ import annotations

from typing import Any

import pytest

from mindprint import ApiError, MindprintError
from mindprint_trainer.errors import TrainerError
from mindprint_trainer.failures import FailureCounter


def api_error(status: int) -> ApiError:
    return ApiError("refused", status=status, code="some_code")


@pytest.fixture
def events() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def counter(events: list[dict[str, Any]]) -> FailureCounter:
    return FailureCounter(3, lambda event, **fields: events.append(fields))


def test_record_call_when_failures_reach_the_bound_then_raises(
    counter: FailureCounter, events: list[dict[str, Any]]
) -> None:
    counter.record_call(MindprintError("gone"))
    counter.record_call(api_error(503))
    with pytest.raises(TrainerError, match="refused"):
        counter.record_call(api_error(429))
    assert [event["failures"] for event in events] == [1, 2]


def test_record_call_when_status_cannot_pass_then_raises_at_once(counter: FailureCounter) -> None:
    with pytest.raises(TrainerError, match="refused"):
        counter.record_call(api_error(403))


def test_reset_when_a_call_succeeded_then_counts_anew(counter: FailureCounter, events: list[dict[str, Any]]) -> None:
    counter.record(OSError("full"))
    counter.record(OSError("full"))
    counter.reset()
    counter.record(OSError("full"))
    assert [event["failures"] for event in events] == [1, 2, 1]
