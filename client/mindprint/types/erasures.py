"""Erasures: durable jobs that delete a person's data, and the receipts that they end with."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mindprint.types.base import Reply, Time

ErasureKind = Literal["user", "engagement", "range", "retention"]
"""`user`: all of a user. `engagement`: one engagement. `range`: the engagements of a span of time. `retention`: rows
that are older than the server keeps them."""
ErasureState = Literal["open", "done"]


class Receipt(Reply):
    """What an erasure removed: ids and counts, never a text.

    `digest` and `signature` are over the other fields as canonical JSON: sorted keys, no spaces, UTF-8.
    """

    id: str
    tenant: str
    kind: ErasureKind
    user_id: str
    engagement_id: str | None = None
    after: Time | None = None
    before: Time | None = None
    traces_before: Time | None = None
    requested_at: Time
    finished_at: Time
    counts: dict[str, int]
    """Number removed by kind: `engagements`, `profiles`, `traces`, `batch_items`, `versions`, `artifacts`."""
    removed: dict[str, list[str]]
    """Ids by kind. A profile is named by its version, a batch item by batch and engagement, an artifact by digest."""
    withdrawn: list[str]
    """Versions that learned from the rows, or started from one that did, such as `cohort/everyone@3`. Their files are
    removed and they never answer again."""
    revoked_leases: list[str]
    retraining: list[str]
    """Adapters whose traces wait for a training that starts from a clean version."""
    digest: str = ""
    """`sha256:` and 64 hex digits."""
    signature: str = ""
    """`hmac-sha256:`, the id of the server's key, `:` and 64 hex digits."""


class Erasure(Reply):
    """A job that erases a user's data."""

    id: str
    kind: ErasureKind
    user_id: str
    engagement_id: str | None = None
    after: Time | None = None
    """Only engagements at or after this time; None: from the first."""
    before: Time | None = None
    """Only engagements before this time; None: to the last."""
    traces_before: Time | None = None
    """Only of a retention: traces that were written before this time go too."""
    state: ErasureState
    created_at: Time
    finished_at: Time | None = None
    receipt: Receipt | None = None
    """Set when the job is done. It is kept after the user is gone."""


class ErasurePage(Reply):
    """Erasures in the order in which they were requested."""

    erasures: list[Erasure] = Field(default_factory=list)
    next: str | None = None
    """The `after` of the following page; None on the last one."""
