from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mindprint.exceptions import ApiError, BadReply, ConnectionFailed
from mindprint.retry import Retries, decide, parse_retry_after

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def refused(status: int, retry_after: float | None = None) -> ApiError:
    return ApiError("no", status=status, code="c", retry_after=retry_after)


@pytest.mark.parametrize(
    ("error", "safe", "unsafe"),
    [
        pytest.param(ConnectionFailed("x", sent=False), True, True, id="never sent"),
        pytest.param(ConnectionFailed("x", sent=True), True, False, id="perhaps acted on"),
        pytest.param(refused(429), True, True, id="429"),
        pytest.param(refused(503), True, False, id="503 of unknown origin"),
        pytest.param(refused(500), False, False, id="500"),
        pytest.param(refused(409), False, False, id="409"),
        pytest.param(refused(500, retry_after=1), False, False, id="500 with Retry-After"),
        pytest.param(BadReply("x"), False, False, id="bad reply"),
        pytest.param(ValueError("x"), False, False, id="a bug"),
    ],
)
def test_what_is_tried_again(error: Exception, safe: bool, unsafe: bool) -> None:
    assert decide(error, repeatable=True, retries=Retries()) is safe
    assert decide(error, repeatable=False, retries=Retries()) is unsafe


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("repeatable", [True, False])
def test_retry_after_is_waited_for_and_never_undercut(status: int, repeatable: bool) -> None:
    retries = Retries(jitter_s=0.5)
    waits = {decide(refused(status, 7.0), repeatable=repeatable, retries=retries) for _ in range(50)}
    assert all(7.0 <= wait <= 7.5 for wait in waits)
    assert len(waits) > 1, "all who were told the same time would come back at once"


def test_retry_after_above_the_bound_is_not_waited_for() -> None:
    retries = Retries(retry_after_max_s=10)
    assert decide(refused(429, 10.0), repeatable=True, retries=retries)
    assert decide(refused(429, 10.1), repeatable=True, retries=retries) is False


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("2", 2.0),
        (" 15 ", 15.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("1.5", None),
    ],
)
def test_the_retry_after_header(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, now=NOW) == seconds
