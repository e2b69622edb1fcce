"""Pages: the replies of routes that list something."""

from __future__ import annotations

from mindprint.types.adapters import Adapter
from mindprint.types.base import Reply
from mindprint.types.batches import Batch
from mindprint.types.cohorts import Cohort
from mindprint.types.traces import Trace
from mindprint.types.users import Engagement, User


class UserPage(Reply):
    """Users ordered by id."""

    users: list[User]
    next: str | None = None
    """The `after` of the following page; None on the last one."""


class EngagementPage(Reply):
    """A user's engagements, oldest first."""

    engagements: list[Engagement]
    next: str | None = None
    """The `after` of the following page; None on the last one."""


class TracePage(Reply):
    """Traces in the order in which they were written."""

    traces: list[Trace]
    next: str | None = None
    """The `after` of the following page; None on the last one."""


class BatchPage(Reply):
    """Batches, newest first."""

    batches: list[Batch]
    next: str | None = None
    """The `after` of the following page; None on the last one."""


class AdapterPage(Reply):
    """Adapters with their versions, ordered by key."""

    adapters: list[Adapter]
    next: str | None = None
    """The `after` of the following page; None on the last one."""


class CohortPage(Reply):
    """Cohorts ordered by name."""

    cohorts: list[Cohort]
    next: str | None = None
    """The `after` of the following page; None on the last one."""
