"""A user's history, read once: a batch recalls from it question after question without asking the store again."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from mindprint.types import Engagement, Profile


@dataclass(frozen=True)
class Earlier:
    """`Past` on a part of a timeline."""

    engagements: Sequence[Engagement]

    async def length(self) -> int:
        return len(self.engagements)

    async def newest(self, limit: int) -> Sequence[Engagement]:
        return self.engagements[-limit:] if limit else []


@dataclass(frozen=True)
class Timeline:
    engagements: Sequence[Engagement]
    """By time, then id."""
    profiles: Sequence[Profile]
    """By version."""

    @cached_property
    def by_id(self) -> dict[str, Engagement]:
        return {engagement.id: engagement for engagement in self.engagements}

    def before(self, time: datetime, not_id: str | None) -> Earlier:
        """What happened strictly before `time`, but for `not_id`."""
        end = bisect_left(self.engagements, time, key=lambda engagement: engagement.occurred_at)
        return Earlier([engagement for engagement in self.engagements[:end] if engagement.id != not_id])

    def profile(self, before: datetime) -> Profile | None:
        """The newest version that covers only times before `before`."""
        return next((profile for profile in reversed(self.profiles) if profile.covers_until < before), None)
