"""Read times of other projects' files, and give times to rows that have none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone

from mindprint.importers.rows import missing
from mindprint.types import as_utc

START = datetime(2000, 1, 1, tzinfo=UTC)
"""First time of rows without times: only their order matters."""
TICK = timedelta(microseconds=1)
_UNIX = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
"""Numbers from the first figure on are nanoseconds, microseconds, milliseconds: as a larger unit they would lie after
the year 5138."""

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "jan january",
            "feb february",
            "mar march",
            "apr april",
            "may",
            "jun june",
            "jul july",
            "aug august",
            "sep sept september",
            "oct october",
            "nov november",
            "dec december",
        ),
        1,
    )
    for name in names.split()
}
_ZONES = {"z": 0, "utc": 0, "gmt": 0, "ut": 0, "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6}
_ZONES |= {"pst": -8, "pdt": -7, "cet": 1, "cest": 2}
_MONTH = rf"(?P<month>{'|'.join(sorted(_MONTHS, key=len, reverse=True))})\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?\s*(?P<half>[ap]\.?m\.?)?"
)
_ZONE = r"\s*(?P<zone>[a-z]{1,4})?\s*(?P<offset>[+-]\d{2}:?\d{2})?(?:\s*\([^()]*\))?"
_REST = rf"(?:(?:,|t|\s+at|\s+-)?\s*{_CLOCK}{_ZONE})?"
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"{_WEEKDAY}{_MONTH}\s+{_DAY}\s+{_CLOCK}{_ZONE}\s+(?P<year>\d{{4}})",  # Fri Jul 14 02:40:00 +0000 2017
        rf"{_WEEKDAY}{_DAY}[\s-]+{_MONTH},?[\s-]+(?P<year>\d{{4}}){_REST}",  # Fri, 14 Jul 2017 02:40:00 GMT
        rf"{_WEEKDAY}{_MONTH}\s+{_DAY},?\s+(?P<year>\d{{4}}){_REST}",  # July 14, 2017 2:40 AM
        rf"(?P<year>\d{{4}})[-/.](?P<month>\d{{1,2}})[-/.](?P<day>\d{{1,2}}){_REST}",  # 2017/07/14 02:40:00 UTC
        r"(?P<year>(?:19|20)\d{2})(?P<month>\d{2})(?P<day>\d{2})"
        r"(?P<hour>\d{2})(?P<minute>\d{2})(?P<second>\d{2})Z?",  # 20170714024000
        r"(?P<year>(?:19|20)\d{2})(?P<month>\d{2})(?P<day>\d{2})",  # 20170714
        rf"(?P<day>\d{{1,2}})\.\s?(?P<month>\d{{1,2}})\.\s?(?P<year>\d{{4}}){_REST}",  # 14.07.2017
        r"(?P<year>\d{4})-(?P<month>\d{2})",
    )
)
_EITHER = re.compile(rf"(?P<first>\d{{1,2}})[/-](?P<other>\d{{1,2}})[/-](?P<year>\d{{4}}){_REST}", re.IGNORECASE)
"""Day and month in either order: Americans write the month first."""


def moment(value: object, form: str | None = None) -> datetime | None:
    """Read a time as dumps write it; return None if there is no time.

    Read are Unix seconds (or milli-, micro-, nanoseconds), a year, ISO 8601, RFC 2822, dates with names of months, and
    dates of numbers whose order of day and month is clear. A time without a zone is UTC.

    Args:
        value: A number, text, date or time.
        form: How texts write it, in the codes of `datetime.strptime`, instead of these forms.

    Raises:
        ValueError: The value is no time.
    """
    if missing(value) or value == "":
        return None
    if isinstance(value, datetime):
        return as_utc(value)
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    if isinstance(value, str):
        return _from_text(value.strip(), form)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("no time")
    return _from_number(value)


def _from_text(value: str, form: str | None) -> datetime | None:
    if form is not None:
        return as_utc(datetime.strptime(value, form))
    if re.fullmatch(r"[0-9]{4}|-?[0-9]{9,13}(\.[0-9]+)?|[0-9]{14}|[0-9]{16}|[0-9]{19}", value):
        return _from_number(float(value) if "." in value else int(value))
    if re.fullmatch(r"[0-9]\.[0-9]+[eE]\+?[0-9]{1,2}", value):  # as spreadsheets write large numbers
        return _from_number(float(value))
    try:
        return as_utc(datetime.fromisoformat(value))
    except ValueError:
        for pattern in _FORMS:
            if found := pattern.fullmatch(value):
                return _from_parts(found.groupdict())
        if found := _EITHER.fullmatch(value):
            return _from_parts(found.groupdict() | _day_and_month(int(found["first"]), int(found["other"])))
        raise ValueError("no time") from None


def _from_number(value: float) -> datetime:
    if 1000 <= value <= 9999 and value == int(value):
        return datetime(int(value), 1, 1, tzinfo=UTC)
    if isinstance(value, int) and re.fullmatch(r"(19|20)[0-9]{6}([0-9]{6})?", str(value)):
        for pattern in _FORMS:
            if found := pattern.fullmatch(str(value)):
                return _from_parts(found.groupdict())
    unit = next((per_second for least, per_second in _UNITS if abs(value) >= least), 1)
    try:
        return _UNIX + timedelta(seconds=value / unit)
    except OverflowError as error:
        raise ValueError("no time") from error


def _day_and_month(first: int, other: int) -> dict[str, str]:
    if first <= 12 and other <= 12 and first != other:
        raise ValueError("day and month cannot be told apart")
    day, month = (first, other) if other <= 12 else (other, first)
    return {"day": str(day), "month": str(month)}


def _from_parts(parts: Mapping[str, str | None]) -> datetime:
    month = str(parts["month"]).lower()
    hour = int(parts.get("hour") or 0)
    if half := parts.get("half"):
        if not 1 <= hour <= 12:
            raise ValueError("no time")
        hour = hour % 12 + (12 if half.lower().startswith("p") else 0)
    when = datetime(
        int(str(parts["year"])),
        _MONTHS[month] if month in _MONTHS else int(month),
        int(str(parts["day"] if parts.get("day") else 1)),
        hour,
        int(parts.get("minute") or 0),
        int(parts.get("second") or 0),
        int((parts.get("fraction") or "0").ljust(6, "0")[:6]),
    )
    return as_utc(when.replace(tzinfo=_zone(parts.get("zone"), parts.get("offset"))))


def _zone(name: str | None, offset: str | None) -> timezone:
    if name and name.lower() not in _ZONES:
        raise ValueError(f"no time: zone {name!r} is not known")
    if not offset:
        return timezone(timedelta(hours=_ZONES[name.lower()] if name else 0))
    digits = offset[1:].replace(":", "")
    span = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-span if offset[0] == "-" else span)


class DistinctTimes:
    """Gives each row of a user another time, because a prompt shows only what happened before."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, datetime], datetime] = {}

    def after(self, user: str, when: datetime) -> datetime:
        """Return the first time from `when` on that no row of the user has."""
        wanted = when
        while (later := self._next.get((user, when))) is not None:
            when = later
        self._next[user, when] = self._next[user, wanted] = when + TICK
        return when


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
