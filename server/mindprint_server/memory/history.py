"""A user's history in memory. A batch reads it once and recalls from it for every question."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from mindprint.types import Engagement, Profile


@dataclass(frozen=True)
class HistoryPrefix:
    """The beginning of a history, as a `HistoryView`. It copies only what is asked for, as a history may be long."""

    engagements: Sequence[Engagement]
    end: int
    """Engagements from this position on are not part of it."""
    exclude_id: str | None
    """An engagement before `end` that is left out."""

    async def length(self) -> int:
        """Return how many engagements there are."""
        return self.end - (self.exclude_id is not None)

    async def newest(self, limit: int) -> Sequence[Engagement]:
        """Return the newest engagements, at most `limit`, oldest first."""
        one_more = self.engagements[max(0, self.end - limit - 1) : self.end]
        return [engagement for engagement in one_more if engagement.id != self.exclude_id][-limit:] if limit else []


@dataclass(frozen=True)
class UserHistory:
    """All engagements and profiles of a user at the moment of reading."""

    engagements: Sequence[Engagement]
    """Ordered by time, then id."""
    profiles: Sequence[Profile]
    """Ordered by version."""

    @cached_property
    def by_id(self) -> dict[str, Engagement]:
        """The engagements by their id."""
        return {engagement.id: engagement for engagement in self.engagements}

    def before(self, time: datetime, not_id: str | None) -> HistoryPrefix:
        """Return the engagements strictly before `time`, without the engagement `not_id`."""
        end = bisect_left(self.engagements, time, key=lambda engagement: engagement.occurred_at)
        is_part = not_id is not None and (known := self.by_id.get(not_id)) is not None and known.occurred_at < time
        return HistoryPrefix(self.engagements, end, not_id if is_part else None)

    def profile(self, before: datetime) -> Profile | None:
        """Return the newest profile that covers only times before `before`; None if there is none."""
        return next((profile for profile in reversed(self.profiles) if profile.covers_until < before), None)
