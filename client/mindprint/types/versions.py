"""Versions of adapters: their checks, and what they were trained on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mindprint.types.base import Reply, Time
from mindprint.types.manifests import Manifest, ParityResult

VersionState = Literal["live", "canary", "standby", "refused"]
"""`live`: answers. `canary`: answers a share of the requests. `standby`: accepted, but answers no request. `refused`:
failed a check or was withdrawn."""


class Check(Reply):
    """One check of a version. `passed` is None if it was not judged; `detail` says why."""

    name: str
    value: float | None = None
    bound: float | None = None
    passed: bool | None = None
    detail: str = ""
    items: int | None = None
    """Number of measurements whose mean is `value`; only checks that `mode: auto` uses have it."""
    deviation: float | None = None
    """Standard deviation of these measurements; None for a single one."""


class Version(Reply):
    """One immutable version of an adapter."""

    adapter: str
    version: int
    state: VersionState
    digest: str
    base_digest: str
    parent: int | None = None
    """The version of the same adapter that was live when training began."""
    start: str | None = None
    """The version whose weights training started from, such as `cohort/everyone@3`."""
    traces: int
    parity: ParityResult | None = None
    checks: list[Check] = Field(default_factory=list)
    """The checks before publication, and the check that took the version out of service, if one did."""
    pinned: bool = False
    files: bool = True
    """Whether the version has files. Without them (retention removed them) it cannot answer."""
    manifest: Manifest
    created_at: Time


class LearnedFrom(Reply):
    """A trace that a version was trained on."""

    trace_id: str
    user_id: str
    engagement_id: str
    saw_answer: bool
    scores: dict[str, float]


class Lineage(Reply):
    """What a version was trained and evaluated on, and the versions before it."""

    version: Version
    traces: list[LearnedFrom]
    fast: dict[str, list[str]]
    """Engagements by user whose answers were also trained without thinking."""
    rejected: dict[str, list[str]] = Field(default_factory=dict)
    """Rejected traces by user, of which only the real answer after the thinking was trained."""
    held_out: dict[str, list[str]]
    """Engagements by user that the gate evaluated it on."""
    ancestors: list[str]
    """The versions that its training started from: its start, the start of that one, and so on."""
    imported: bool = False
    """Whether it was trained outside of this server, which then does not know what it learned from."""
