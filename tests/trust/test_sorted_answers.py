"""The callers of the kills take only answers that the service promises."""

from __future__ import annotations

import httpx
import pytest

from kills.answers import is_undone, is_unknown

LOST_MESSAGE = "the database may have stored the change or not (the connection was lost)"
LOST = {"error": {"code": "store_busy", "message": LOST_MESSAGE}}
BUSY = {"error": {"code": "store_busy", "message": "the database cannot answer now (locked): retry in a moment"}}


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        pytest.param(503, {"retry-after": "2"}, BUSY, (True, False), id="busy"),
        pytest.param(429, {"retry-after": "2"}, {}, (True, False), id="too-many"),
        pytest.param(503, {}, LOST, (False, True), id="lost-commit"),
        pytest.param(503, {}, BUSY, (False, False), id="busy-without-a-time"),
        pytest.param(503, {"x-should-retry": "true"}, LOST, (False, False), id="lost-commit-to-be-sent-again"),
        pytest.param(500, {}, LOST, (False, False), id="failure"),
    ],
)
def test_503_must_say_when_to_come_again_or_that_the_write_may_be_stored(
    status: int, headers: dict[str, str], body: dict[str, object], expected: tuple[bool, bool]
) -> None:
    response = httpx.Response(status, headers=headers, json=body)
    assert (is_undone(response), is_unknown(response)) == expected
