"""A user's history, read once: a batch recalls from it question after question without asking the store again."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from mindprint.types import Engagement, Profile


@dataclass(frozen=True)
class HistoryPrefix:
    """`Past` on the beginning of a timeline, of which only what is asked for is copied: it may be very long."""

    engagements: Sequence[Engagement]
    end: int
    without: str | None
    """An engagement among these that is left out."""

    async def length(self) -> int:
        return self.end - (self.without is not None)

    async def newest(self, limit: int) -> Sequence[Engagement]:
        one_more = self.engagements[max(0, self.end - limit - 1) : self.end]
        return [engagement for engagement in one_more if engagement.id != self.without][-limit:] if limit else []


@dataclass(frozen=True)
class UserHistory:
    engagements: Sequence[Engagement]
    """By time, then id."""
    profiles: Sequence[Profile]
    """By version."""

    @cached_property
    def by_id(self) -> dict[str, Engagement]:
        return {engagement.id: engagement for engagement in self.engagements}

    def before(self, time: datetime, not_id: str | None) -> HistoryPrefix:
        """What happened strictly before `time`, but for `not_id`."""
        end = bisect_left(self.engagements, time, key=lambda engagement: engagement.occurred_at)
        among = not_id is not None and (known := self.by_id.get(not_id)) is not None and known.occurred_at < time
        return HistoryPrefix(self.engagements, end, not_id if among else None)

    def profile(self, before: datetime) -> Profile | None:
        """The newest version that covers only times before `before`."""
        return next((profile for profile in reversed(self.profiles) if profile.covers_until < before), None)
