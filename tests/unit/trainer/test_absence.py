from __future__ import annotations

from typing import Any

import pytest

from mindprint import ApiError, ConnectionFailed
from mindprint.exceptions import UNKNOWN_CODE
from mindprint_trainer.absence import ServerAbsence, absence_wait_s
from mindprint_trainer.errors import TrainerError
from mindprint_trainer.settings import Settings

GONE = ConnectionFailed("no server answers", sent=False)


def api_error(status: int, code: str = UNKNOWN_CODE, **fields: Any) -> ApiError:
    return ApiError("no", status=status, code=code, **fields)


def test_waits_double_up_to_the_bound() -> None:
    assert [absence_wait_s(tries, 2, 30, 1) for tries in range(1, 8)] == [2, 4, 8, 16, 30, 30, 30]
    assert absence_wait_s(1, 2, 30, 0) == 1
    assert absence_wait_s(10_000, 60, 30, 1) == 60


def test_record_when_the_server_is_away_for_longer_than_the_bound_then_raises(settings: Settings) -> None:
    now = 0.0
    asked = settings.model_copy(update={"max_absence_s": 60.0})
    absence = ServerAbsence(asked, lambda *_, **__: None, clock=lambda: now)
    absence.record(GONE)
    now = 60.0
    absence.record(GONE)
    absence.end()
    now = 200.0
    absence.record(GONE)
    now = 261.0
    with pytest.raises(TrainerError, match=r"away for 61 s .*MAX_ABSENCE_S"):
        absence.record(GONE)


def test_record_when_the_server_names_a_wait_then_takes_it_within_the_bound(settings: Settings) -> None:
    asked = settings.model_copy(update={"absence_max_wait_s": 30.0})
    absence = ServerAbsence(asked, lambda *_, **__: None)
    assert absence.record(api_error(503, retry_after=7.0)) == 7.0
    assert absence.record(api_error(503, retry_after=7000.0)) == 30.0


def test_end_says_that_the_server_is_back_only_after_an_absence(settings: Settings) -> None:
    events: list[str] = []
    absence = ServerAbsence(settings, lambda event, **_: events.append(event))
    absence.end()
    absence.record(GONE)
    absence.end()
    absence.end()
    assert events == ["the server is away: waiting for it", "the server is back"]
