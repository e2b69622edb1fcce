"""Versions of adapters: what the gate found of them, and what they learned from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mindprint.types.base import Reply, Time
from mindprint.types.manifests import Manifest, ParityResult

VersionState = Literal["live", "canary", "standby", "refused"]
"""`canary`: answers a share of the requests before it is live."""


class Check(Reply):
    """One thing that the gate looked at. `passed` is None where it could not be looked at; `detail` says why."""

    name: str
    value: float | None = None
    bound: float | None = None
    passed: bool | None = None
    detail: str = ""
    items: int | None = None
    """How many figures `value` is the mean of, where `mode: auto` goes by it."""
    deviation: float | None = None
    """Their standard deviation; None of a single one."""


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
    """The version whose weights training began with, such as `cohort/everyone@3`."""
    traces: int
    parity: ParityResult | None = None
    checks: list[Check] = Field(default_factory=list)
    """What the gate found, and later what took the version out of service."""
    pinned: bool = False
    files: bool = True
    """False once retention has removed the files: such a version can no longer answer."""
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
    """Why a version is as it is."""

    version: Version
    traces: list[LearnedFrom]
    fast: dict[str, list[str]]
    """Engagements by user that it also learned to answer directly."""
    rejected: dict[str, list[str]] = Field(default_factory=dict)
    """Rejected traces by user of which it learned only the real answer after the thinking."""
    held_out: dict[str, list[str]]
    """Engagements by user that the gate examined it on."""
    ancestors: list[str]
    """The versions it began with, nearest first."""
