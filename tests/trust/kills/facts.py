"""What the service acknowledged. Each of these facts must still hold after every kill."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mindprint.types import BatchRequest, Engagement, Trace

VersionKey = tuple[str, int]
"""Adapter key and number."""


@dataclass
class Register:
    """A value that one writer sets again and again, such as the description of a cohort.

    Attributes:
        acknowledged: The value whose write was answered with 2xx last; None before the first one.
        possible: All values that may be stored: that one, and those that were sent after it without an answer.
    """

    acknowledged: str | None = None
    possible: set[str] = field(default_factory=set)

    def ask(self, value: str) -> None:
        """A write of `value` is being sent."""
        self.possible.add(value)

    def acknowledge(self, value: str) -> None:
        """The write of `value` was answered with 2xx."""
        self.acknowledged, self.possible = value, {value}


@dataclass(frozen=True)
class Claimed:
    """A lease that a trainer got."""

    adapter: str
    trace_ids: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """A version whose upload was answered with 2xx."""

    digest: str
    trace_ids: tuple[str, ...]


@dataclass
class Facts:
    """All acknowledged writes of a run, and what was answered otherwise.

    Attributes:
        engagements: By user and id.
        sent_together: User and ids of engagements that were sent in one request, acknowledged or not.
        imported: User and engagement by the text of an imported thinking.
        traces: Single traces as they were returned.
        batches: Requests by the batch's id.
        cancelled: Batches whose cancelling was acknowledged.
        leases: What trainers claimed, by lease id.
        versions: What trainers published.
        pins: Whether a version is pinned: `true` or `false`.
        cohorts: Descriptions by name.
        keys: `valid` or `revoked`, by the id of an API key.
        answers: Number of answers by status; `lost` counts requests without one, `unknown` those whose write may have
            been stored.
        unexpected: Answers that no caller should get.
    """

    engagements: dict[tuple[str, str], Engagement] = field(default_factory=dict)
    sent_together: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)
    batches: dict[str, BatchRequest] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    leases: dict[str, Claimed] = field(default_factory=dict)
    versions: dict[VersionKey, Published] = field(default_factory=dict)
    pins: dict[VersionKey, Register] = field(default_factory=dict)
    cohorts: dict[str, Register] = field(default_factory=dict)
    keys: dict[str, Register] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return the number of acknowledged facts by kind."""
        registers: dict[str, list[Register]] = {
            "pins": list(self.pins.values()),
            "cohorts": list(self.cohorts.values()),
            "keys": list(self.keys.values()),
        }
        kinds = ("engagements", "imported", "traces", "batches", "cancelled", "leases", "versions")
        return {kind: len(getattr(self, kind)) for kind in kinds} | {
            kind: sum(register.acknowledged is not None for register in known) for kind, known in registers.items()
        }
