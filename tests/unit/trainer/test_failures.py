from __future__ import annotations

from typing import Any

import pytest

from mindprint import ApiError, BadReply, ConnectionFailed, MindprintError
from mindprint_trainer.errors import TrainerError
from mindprint_trainer.failures import FailureCounter
from mindprint_trainer.settings import Settings


def api_error(status: int) -> ApiError:
    return ApiError("refused", status=status, code="some_code")


@pytest.fixture
def events() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def counter(events: list[dict[str, Any]], settings: Settings) -> FailureCounter:
    asked = settings.model_copy(update={"max_failures": 3})
    return FailureCounter(asked, lambda event, **fields: events.append(fields))


def test_record_call_when_failures_reach_the_bound_then_raises(
    counter: FailureCounter, events: list[dict[str, Any]]
) -> None:
    counter.record_call(MindprintError("odd"))
    counter.record_call(BadReply("odd"))
    with pytest.raises(TrainerError, match="refused"):
        counter.record_call(api_error(500))
    assert [event["failures"] for event in events] == [1, 2]


@pytest.mark.parametrize("error", [ConnectionFailed("refused", sent=False), api_error(503), api_error(502)])
def test_record_call_when_the_server_is_away_then_never_counts_it(counter: FailureCounter, error: Any) -> None:
    counter.record_call(api_error(500))
    counter.record_call(api_error(500))
    waits = [counter.record_call(error) for _ in range(50)]
    assert all(0 < wait <= 0.05 for wait in waits)
    with pytest.raises(TrainerError, match="refused"):
        counter.record_call(api_error(500))


@pytest.mark.parametrize("status", [400, 401, 403, 409, 422])
def test_record_call_when_status_cannot_pass_then_raises_at_once(counter: FailureCounter, status: int) -> None:
    with pytest.raises(TrainerError, match="refused"):
        counter.record_call(api_error(status))


def test_reset_when_a_call_succeeded_then_counts_anew(counter: FailureCounter, events: list[dict[str, Any]]) -> None:
    counter.record(OSError("full"))
    counter.record(OSError("full"))
    counter.reset()
    counter.record(OSError("full"))
    assert [event["failures"] for event in events] == [1, 2, 1]
