"""Turn ids of other projects' files into valid ids.

A valid id is kept. In other ids each run of forbidden characters becomes a `-`, and a `-` with eight digits of the
original's SHA-256 is added. So `a b` and `a/b` get different ids, and an id does not depend on other rows or imports.
"""

from __future__ import annotations

import re
from hashlib import sha256

from mindprint.types import NAME

USER_LENGTH = 64
ENGAGEMENT_LENGTH = 128
_DIGITS = 8
_ENGAGEMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")


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
