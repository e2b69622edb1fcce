"""Shared parts of the importers: a row that cannot be used is counted, and a file that cannot be used is an error."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from mindprint.exceptions import MindprintError
from mindprint.types import Engagement

Rows = Iterator[tuple[str, Engagement]]
"""Pairs (user id, engagement). The rows of a user keep the order of the file."""
Skips = Counter[str]
"""Rows that were left out, by reason."""

NO_TIME = "time cannot be read"
REPEATED = "id is repeated"
_FAULTS = {
    "string_too_short": "is empty",
    "string_too_long": "is too long",
    "string_pattern_mismatch": "holds a NUL character",
    "string_unicode": "is no valid Unicode",
    "too_short": "are too few",
    "too_long": "are too many",
}


class BadImport(MindprintError):
    """A file that cannot be used. The message is one line: file, line or entry, what is wrong."""


def engagement(
    skips: Skips,
    *,
    id: str,
    prompt: str,
    response: str,
    occurred_at: datetime,
    reason: str | None = None,
    choices: list[str] | None = None,
) -> Engagement | None:
    """Build an engagement; return None and count the reason in `skips` if the values are not valid.

    Args:
        skips: Counts rows that are left out, by reason.
        id: See `mindprint.types.Engagement`, as for the following ones.
        prompt: The question.
        response: What the user answered.
        occurred_at: When.
        reason: Why the user answered so.
        choices: The answers that there were to choose from.
    """
    if choices is not None and response not in choices:
        skips["answer is not among the choices"] += 1
        return None
    try:
        return Engagement(
            id=id, prompt=prompt, response=response, occurred_at=occurred_at, reason=reason, choices=choices
        )
    except ValidationError as error:
        complaint = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = str(complaint["loc"][0]) if complaint["loc"] else "row"
        skips[f"{field} {_FAULTS.get(complaint['type'], 'does not fit')}"] += 1
        return None


def missing(value: object) -> bool:
    """Return whether a value is None, or NaN, which pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text(value: object) -> str:
    """Return a text or a number as stripped text (4.0 is "4"); empty for anything else."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or missing(value) or not isinstance(value, int | float):
        return ""
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def first_text(row: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Return the text under the first of these keys that holds one."""
    return next((found for key in keys if (found := text(row.get(key)))), "")


def keys_of(row: object) -> str:
    """Describe what a row holds, for an error message."""
    if not isinstance(row, Mapping):
        return f"a {type(row).__name__}"
    shown = [repr(key)[1:-1] for key in list(row)[:12]]
    return f"the keys {', '.join(shown)}{', ...' if len(row) > 12 else ''}" if shown else "no keys"
