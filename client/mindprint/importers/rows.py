"""Shared parts of the importers: a row that cannot be used is counted, and a file that cannot be used is an error."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from mindprint.exceptions import MindprintError
from mindprint.importers.texts import decode_entities, is_gone
from mindprint.types import Engagement
from mindprint.valid_ids import EngagementIds, UserIds

Rows = Iterator[tuple[str, Engagement]]
"""Pairs (user id, engagement). The rows of a user keep the order of the file."""
MAX_PLACES = 3
"""Places of skipped rows that are kept for the screen, of each reason; the counts are of all."""
EXACT = 2.0**53
"""From here on a float is not one whole number only."""

NO_TIME = "time cannot be read"
NO_USER = "has no user"
OTHERS = "of another user than the one asked for"
REPEATED = "id is repeated"
REPLACED = "a later one of the same user replaces it"
NO_ANSWER_TEXT = "answer is empty, deleted or removed"
NO_QUESTION_TEXT = "question is empty, deleted or removed"
REJECTED = "answer was rejected: its label is false"
_FAULTS = {
    "missing": "is missing",
    "string_too_short": "is empty",
    "string_too_long": "is too long",
    "string_pattern_mismatch": "holds a NUL character",
    "string_unicode": "is no valid Unicode",
    "too_short": "are too few",
    "too_long": "are too many",
    "extra_forbidden": "is not known",
}


class BadImport(MindprintError):
    """A file that cannot be used. The message is one line: file, line or entry, what is wrong."""


@dataclass(frozen=True)
class SkippedRow:
    """A row that was left out: its file and line, and why."""

    where: str
    reason: str
    bad: bool
    """Whether the row itself is faulty. Other rows are left out by a rule, such as those of deleted authors."""


class Skips(Counter[str]):
    """Rows that were left out, counted by reason, and the ids that were changed.

    Args:
        max_places: How many places of rows are kept of each reason; None keeps all.
    """

    def __init__(self, *, max_places: int | None = MAX_PLACES) -> None:
        super().__init__()
        self.bad = 0
        """How many of the rows are faulty themselves."""
        self.places: list[SkippedRow] = []
        self.notes: list[str] = []
        """What else a reader decided, for people."""
        self.users = UserIds()
        self.engagements = EngagementIds()
        self._max_places = max_places

    def leave_out(self, reason: str, where: str = "") -> None:
        """Count a row that is left out by a rule, although nothing is wrong with it."""
        self._skip(reason, SkippedRow(where, reason, bad=False))

    def reject(self, reason: str, where: str = "", detail: str = "") -> None:
        """Count a faulty row.

        Args:
            reason: Why, in words that many rows share.
            where: File and line.
            detail: Why, in words about this row.
        """
        self.bad += 1
        self._skip(reason, SkippedRow(where, detail or reason, bad=True))

    def _skip(self, reason: str, row: SkippedRow) -> None:
        self[reason] += 1
        if self._max_places is None or self[reason] <= self._max_places:
            self.places.append(row)


def check_bad_share(skips: Skips, usable: int, max_bad_share: float) -> None:
    """Refuse an import of which too many rows are faulty.

    Args:
        skips: The rows that were left out.
        usable: How many rows can be used.
        max_bad_share: Share of faulty rows up to which the others are imported, from 0 to 1.

    Raises:
        BadImport: The share of faulty rows is higher. The message names the first one.
    """
    read = usable + skips.total()
    if not skips.bad or skips.bad <= max_bad_share * read:
        return
    first = next((row for row in skips.places if row.bad), None)
    begin = f"{first.where}: {first.reason}; " if first else ""
    raise BadImport(
        f"{begin}{skips.bad} of {read} rows ({skips.bad / read:.1%}) cannot be used, and --max-bad-share allows "
        f"{max_bad_share:.1%}: mend them, or raise it"
    )


def engagement(
    skips: Skips,
    *,
    id: str,
    prompt: str,
    response: str,
    occurred_at: datetime,
    reason: str | None = None,
    choices: list[str] | None = None,
    where: str = "",
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
        where: File and line of the row.
    """
    if choices is not None and response not in choices:
        skips.reject("answer is not among the choices", where, f"answer {response[:80]!r} is not among the choices")
        return None
    try:
        return Engagement(
            id=id, prompt=prompt, response=response, occurred_at=occurred_at, reason=reason, choices=choices
        )
    except ValidationError as error:
        skips.reject(fault_of(error), where)
        return None


def fault_of(error: ValidationError) -> str:
    """Return the first complaint about a row in words that many rows share: `prompt is too long`."""
    complaint = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = str(complaint["loc"][0]) if complaint["loc"] else "row"
    if field == "id" and complaint["type"] == "string_pattern_mismatch":
        return "id holds characters that are not allowed"
    return f"{field} {_FAULTS.get(complaint['type'], 'does not fit')}"


def missing(value: object) -> bool:
    """Return whether a value is None, or NaN, which pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text(value: object) -> str:
    """Return a text or a number as stripped text (4.0 is "4"); empty for anything else."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or missing(value) or not isinstance(value, int | float):
        return ""
    return _digits(value) if isinstance(value, float) else str(value)


def _digits(value: float) -> str:
    """Write a float so that no two of them are the same text: ids of people may be floats."""
    if value.is_integer() and abs(value) < EXACT:
        return str(int(value))
    short = f"{value:.15g}"
    return short if float(short) == value else repr(value)


def fault_of_user(value: object) -> str:
    """Return why a value cannot be the name of a person; empty for a text, a number or none."""
    if isinstance(value, float) and math.isfinite(value) and abs(value) >= EXACT:
        # Ids of several people may have become this one.
        return "user is a float from 2**53 on, which is not exact: write ids as texts or whole numbers"
    return fault_of_text("user", value)


def fault_of_text(what: str, value: object) -> str:
    """Return why a value is no text; empty for a text, a number or none.

    Args:
        what: What the value should be, for the message.
        value: The value.
    """
    if isinstance(value, bool) or not (missing(value) or isinstance(value, str | int | float)):
        return f"{what} is of type {type(value).__name__}, no text"
    return ""


def prose(value: object) -> str:
    """Return what a person wrote, as `text`: HTML entities decoded, and empty if it was deleted or removed."""
    written = decode_entities(text(value)).strip()
    return "" if is_gone(written) else written


def first_text(row: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Return the text under the first of these keys that holds one."""
    return next((found for key in keys if (found := text(row.get(key)))), "")


def first_prose(row: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Return what a person wrote under the first of these keys that holds something."""
    return next((found for key in keys if (found := prose(row.get(key)))), "")


def keys_of(row: object) -> str:
    """Describe what a row holds, for an error message."""
    if not isinstance(row, Mapping):
        return f"a {type(row).__name__}"
    shown = [repr(key)[1:-1] for key in list(row)[:12]]
    return f"the keys {', '.join(shown)}{', ...' if len(row) > 12 else ''}" if shown else "no keys"
