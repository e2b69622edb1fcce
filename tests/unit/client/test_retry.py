from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mindprint.exceptions import UNKNOWN_CODE, ApiError, BadReply, ConnectionFailed
from mindprint.retry import Retries, decide, is_absent, parse_retry_after, parse_should_retry

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def refused(
    status: int, retry_after: float | None = None, should_retry: bool | None = None, code: str = "c"
) -> ApiError:
    return ApiError("no", status=status, code=code, retry_after=retry_after, should_retry=should_retry)


@pytest.mark.parametrize(
    ("error", "safe", "unsafe"),
    [
        pytest.param(ConnectionFailed("x", sent=False), True, True, id="never sent"),
        pytest.param(ConnectionFailed("x", sent=True), True, False, id="perhaps acted on"),
        pytest.param(refused(429), True, True, id="429"),
        pytest.param(refused(503), True, False, id="503 of unknown origin"),
        pytest.param(refused(503, code="store_busy"), True, False, id="503 of a commit that was lost"),
        pytest.param(refused(507), True, False, id="507 of unknown origin"),
        pytest.param(refused(408), True, False, id="408"),
        pytest.param(refused(502), True, False, id="502"),
        pytest.param(refused(504), True, False, id="504"),
        pytest.param(refused(522, code=UNKNOWN_CODE), True, False, id="522 of Cloudflare"),
        pytest.param(refused(500), False, False, id="500"),
        pytest.param(refused(500, should_retry=True), True, True, id="500 that says so"),
        pytest.param(refused(409, should_retry=True), True, True, id="409 that says so"),
        pytest.param(refused(429, should_retry=False), False, False, id="429 that says no"),
        pytest.param(refused(503, 1.0, should_retry=False), False, False, id="503 that says no"),
        pytest.param(refused(409), False, False, id="409"),
        pytest.param(refused(500, retry_after=1), False, False, id="500 with Retry-After"),
        pytest.param(BadReply("x"), False, False, id="bad reply"),
        pytest.param(ValueError("x"), False, False, id="a bug"),
    ],
)
def test_what_is_tried_again(error: Exception, safe: bool, unsafe: bool) -> None:
    assert decide(error, repeatable=True, retries=Retries()) is safe
    assert decide(error, repeatable=False, retries=Retries()) is unsafe


def test_a_page_of_a_proxy_says_nothing_about_what_was_done() -> None:
    """nginx may show a page with 503 and Retry-After in place of the 502 or 504 of a server that was at work."""
    page = refused(503, 2.0, code=UNKNOWN_CODE)
    assert decide(page, repeatable=False, retries=Retries()) is False
    assert decide(page, repeatable=True, retries=Retries(jitter_s=0)) == 2.0


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


@pytest.mark.parametrize("status", [408, 502, 504])
def test_retry_after_of_a_proxy_is_waited_for(status: int) -> None:
    wait = decide(refused(status, 7.0), repeatable=True, retries=Retries(jitter_s=0.5))
    assert 7.0 <= wait <= 7.5


@pytest.mark.parametrize(
    ("header", "said"), [(None, None), ("", None), ("true", True), (" False ", False), ("1", None)]
)
def test_the_should_retry_header(header: str | None, said: bool | None) -> None:
    assert parse_should_retry(header) is said


def unanswered(status: int, code: str = UNKNOWN_CODE, should_retry: bool | None = None) -> ApiError:
    return ApiError("no", status=status, code=code, should_retry=should_retry)


@pytest.mark.parametrize(
    ("error", "absent"),
    [
        pytest.param(ConnectionFailed("no server answers", sent=False), True, id="refused connection"),
        pytest.param(ConnectionFailed("reset", sent=True), True, id="lost connection"),
        pytest.param(unanswered(503, "engine_dead"), True, id="503 of the server"),
        pytest.param(unanswered(502), True, id="502 of a proxy"),
        pytest.param(unanswered(521), True, id="521 of a proxy"),
        pytest.param(unanswered(504), True, id="504 of a proxy"),
        pytest.param(unanswered(429, "rate_limited"), True, id="429"),
        pytest.param(unanswered(404), True, id="404 of a proxy"),
        pytest.param(unanswered(404, "lease_not_found"), False, id="404 of the server"),
        pytest.param(unanswered(500, "internal_error"), False, id="500"),
        pytest.param(unanswered(500, "internal_error", should_retry=True), True, id="500 that says retry"),
        pytest.param(unanswered(503, "engine_dead", should_retry=False), False, id="503 that says no"),
        pytest.param(unanswered(401), False, id="401 of a proxy"),
        pytest.param(BadReply("odd"), False, id="a reply that cannot be read"),
        pytest.param(OSError("full"), False, id="an error of this machine"),
    ],
)
def test_which_errors_say_that_the_server_is_away(error: Exception, absent: bool) -> None:
    assert is_absent(error) is absent
