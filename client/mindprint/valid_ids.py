"""Turn ids of users and rows, as files have them, into valid ids, and keep a map back.

A valid id is kept. In other ids each run of forbidden characters becomes a `-`, and a `-` with 16 digits of the
original's SHA-256 is added. So `a b` and `a/b` get different ids, and an id does not depend on other rows or imports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256

from mindprint.exceptions import MindprintError
from mindprint.types import NAME

USER_LENGTH = 64
ENGAGEMENT_LENGTH = 128
_DIGITS = 16
"""Hexadecimal digits of the digest: 64 bits, so that two of a million ids meet with a probability of 3e-8."""
_ENGAGEMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")


class SameId(MindprintError):
    """Two ids of a file become the same valid id."""

    def __init__(self, kind: str, one: str, other: str, made: str) -> None:
        super().__init__(f"{kind} {one!r} and {other!r} both become {made!r}: rename one of them")


class UserIds:
    """Valid ids of the users of an import, with the map back to the ids in the file."""

    def __init__(self) -> None:
        self._raw: dict[str, str] = {}

    def of(self, raw: str) -> str:
        """Return the valid id of a user, and remember the original.

        Raises:
            SameId: Another user of the file has the same valid id.
        """
        made = user_name(raw)
        if self._raw.setdefault(made, raw) != raw:
            raise SameId("users", self._raw[made], raw, made)
        return made

    @property
    def changed(self) -> Mapping[str, str]:
        """The ids that are not as in the file: original by valid id."""
        return {made: raw for made, raw in self._raw.items() if made != raw}


class EngagementIds:
    """Valid ids of the engagements of an import, with the map back to the ids in the file.

    Only ids that change are kept: a file may have many millions.

    Attributes:
        changed: The ids that are not as in the file: original by valid id.
    """

    def __init__(self) -> None:
        self.changed: dict[str, str] = {}

    def of(self, raw: str) -> str:
        """Return the valid id of an engagement, and remember the original if it is another one.

        Raises:
            SameId: An earlier id of the file became the same valid id.
        """
        made = engagement_id(raw)
        known = self.changed.get(made, raw) if made == raw else self.changed.setdefault(made, raw)
        if known != raw:
            raise SameId("ids of rows", known, raw, made)
        return made


def user_name(raw: str) -> str:
    """Return a valid user id, `mindprint.types.Name`."""
    if len(raw) <= USER_LENGTH and re.fullmatch(NAME, raw):
        return raw
    return _made(raw, r"[^A-Za-z0-9_-]+", USER_LENGTH, "user")


def engagement_id(raw: str) -> str:
    """Return a valid engagement id, `mindprint.types.EngagementId`."""
    if len(raw) <= ENGAGEMENT_LENGTH and _ENGAGEMENT.fullmatch(raw):
        return raw
    return _made(raw, r"[^A-Za-z0-9._:/-]+", ENGAGEMENT_LENGTH, "row")


def _made(raw: str, others: str, length: int, otherwise: str) -> str:
    digest = sha256(raw.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    plain = re.sub(others, "-", raw).lstrip("._:/-")
    return f"{plain[: length - _DIGITS - 1].rstrip('-') or otherwise}-{digest}"
