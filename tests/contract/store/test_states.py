from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mindprint.types import LeaseState
from mindprint_server.store.states import after_bad_end, held_out_count, version_state, why_lost

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER, EARLIER = NOW + timedelta(seconds=1), NOW - timedelta(seconds=1)


def test_an_active_lease_holds_until_its_deadline() -> None:
    assert why_lost("active", LATER, NOW) is None
    assert "ran out" in (why_lost("active", NOW, NOW) or "")
    assert "ran out" in (why_lost("active", EARLIER, NOW) or "")


@pytest.mark.parametrize("state", ["released", "completed", "expired"])
def test_a_lease_that_ended_holds_nothing(state: LeaseState) -> None:
    assert state in (why_lost(state, LATER, NOW) or "")


def test_the_last_attempt_ends_in_the_dead_letters() -> None:
    assert [after_bad_end(n, 3) for n in range(3)] == [("waiting", 1), ("waiting", 2), ("dead_letter", 3)]
    assert after_bad_end(0, 1) == ("dead_letter", 1)
    assert after_bad_end(7, 3) == ("dead_letter", 8)


def test_the_pointer_says_what_is_live() -> None:
    assert version_state(2, 2, False) == "live"
    assert version_state(1, 2, False) == "standby"
    assert version_state(1, None, True) == "refused"
    assert version_state(1, 1, True) == "live"
    assert version_state(3, 2, False, 3) == "canary"
    assert version_state(3, None, False, 3) == "canary"
    assert version_state(1, 2, True, 3) == "refused"


def test_hold_out_is_a_share_within_bounds() -> None:
    assert [held_out_count(n, 0.2, 5, 3) for n in (0, 4, 5, 9, 10, 15, 19, 20, 1000)] == [0, 0, 1, 1, 2, 3, 3, 3, 3]
    assert held_out_count(1000, 0.0, 1, 100) == 0
    assert held_out_count(3, 0.3, 1, 100) == 0
