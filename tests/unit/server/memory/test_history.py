from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from mindprint.types import Engagement
from mindprint_server.memory import UserHistory

START = datetime(2026, 1, 1, tzinfo=UTC)


def history(days: list[int]) -> UserHistory:
    """Some share a day."""
    made = [
        Engagement(id=f"e{n}", prompt="Tea?", response="yes", occurred_at=START + timedelta(days=day))
        for n, day in enumerate(days)
    ]
    return UserHistory(sorted(made, key=lambda one: (one.occurred_at, one.id)), [])


@given(
    days=st.lists(st.integers(0, 6), max_size=12),
    asked=st.integers(0, 7),
    without=st.none() | st.integers(0, 13),
    limit=st.integers(0, 14),
)
async def test_the_past_is_what_came_strictly_before_but_for_one(
    days: list[int], asked: int, without: int | None, limit: int
) -> None:
    timeline, time = history(days), START + timedelta(days=asked)
    not_id = None if without is None else f"e{without}"
    expected = [one for one in timeline.engagements if one.occurred_at < time and one.id != not_id]
    past = timeline.before(time, not_id)
    assert await past.length() == len(expected)
    assert list(await past.newest(limit)) == (expected[-limit:] if limit else [])
