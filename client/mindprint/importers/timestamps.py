"""Read times of other projects' files, and give times to rows that have none."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from mindprint.importers.rows import missing
from mindprint.types import as_utc

START = datetime(2000, 1, 1, tzinfo=UTC)
"""First time of rows without times: only their order matters."""
TICK = timedelta(microseconds=1)
_UNIX = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS = 1e11
"""Numbers from here on are milliseconds: as seconds they would lie after the year 5138."""


def moment(value: object) -> datetime | None:
    """Read Unix seconds or milliseconds, a year, or ISO 8601; return None if there is no time.

    Raises:
        ValueError: The value is no time.
    """
    if missing(value) or value == "":
        return None
    try:
        if isinstance(value, str):
            value = value.strip()
            if not re.fullmatch(r"[0-9]{4}|-?[0-9]{9,}(\.[0-9]+)?", value):
                return as_utc(datetime.fromisoformat(value))
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError("no time")
        if 1000 <= value <= 9999 and value == int(value):
            return datetime(int(value), 1, 1, tzinfo=UTC)
        return _UNIX + timedelta(seconds=value / 1000 if abs(value) >= _MILLISECONDS else value)
    except OverflowError as error:
        raise ValueError("no time") from error


def in_order(found: Sequence[datetime | None], start: datetime = START) -> list[datetime]:
    """Return a time for each row, no two the same.

    A row without a time comes right after the row before it in the file. Rows before the first known time get that
    time, or `start` if none is known. Rows of the same time keep the order of the file.
    """
    known = next((when for when in found if when is not None), start)
    filled: list[datetime] = []
    for when in found:
        known = when or known
        filled.append(known)
    times = list(filled)
    clock: datetime | None = None
    for place in sorted(range(len(filled)), key=filled.__getitem__):
        clock = filled[place] if clock is None else max(clock + TICK, filled[place])
        times[place] = clock
    return times
