"""Clean texts of web dumps: decode HTML entities, and tell the marks of deleted texts from texts."""

from __future__ import annotations

import html
import re

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_MAX_DECODINGS = 2
"""Reddit's dumps and some exports escape texts that were escaped before."""
_GONE = re.compile(
    r"[\[(<{]\s*(?:comment |message |post |text |content |answer )?"
    r"(?:deleted|removed|redacted|unavailable)(?:\s+(?:by|on|for|due)\b[^\]\[)(<>{}]*)?\s*[\])>}]\.?",
    re.IGNORECASE,
)


def decode_entities(text: str) -> str:
    """Decode HTML entities that end with a semicolon, up to twice: `&amp;gt;` becomes `>`.

    Entities without a semicolon stay: `?a=1&copy=2` is an address.
    """
    for _ in range(_MAX_DECODINGS):
        decoded = _ENTITY.sub(lambda match: html.unescape(match.group()), text)
        if decoded == text:
            break
        text = decoded
    return text


def is_gone(text: str) -> bool:
    """Return whether a text is only the mark of a deleted one, such as `[removed]` or `[deleted by user]`."""
    return _GONE.fullmatch(text.strip()) is not None
