"""Adapters: which of their versions answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mindprint.types.base import NO_COERCION, Flag, Reply, Request
from mindprint.types.versions import Version


class Adapter(Reply):
    """An adapter: its key, its versions, and which of them answer."""

    key: str
    live: int | None
    canary: int | None = None
    canary_share: float | None = None
    """Share of the adapter's requests that the canary answers."""
    versions: list[Version]


class Promote(Request):
    """Choose the version that an adapter's key resolves to.

    `null` takes the adapter off: the cohort's adapter answers, or the base model.
    """

    version: Annotated[int, Field(ge=1, lt=2**31), NO_COERCION] | None


class SetCanary(Request):
    """Let a version answer a share of its adapter's requests; `null` ends that."""

    version: Annotated[int, Field(ge=1, lt=2**31), NO_COERCION] | None
    share: Annotated[float, Field(gt=0, lt=1), NO_COERCION] = 0.1


class Pin(Request):
    """Pin or unpin a version. A pinned version keeps its files and, once loaded, its slot in the engine."""

    pinned: Flag
