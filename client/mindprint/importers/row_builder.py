"""Build engagements from values of tables and logs, with the same rules for each of these formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mindprint.importers.people import NOBODY, is_nobody
from mindprint.importers.rows import (
    NO_ANSWER_TEXT,
    NO_QUESTION_TEXT,
    NO_TIME,
    NO_USER,
    OTHERS,
    REPEATED,
    REPLACED,
    Skips,
    engagement,
)
from mindprint.importers.texts import is_gone
from mindprint.importers.timestamps import START, TICK, DistinctTimes, moment
from mindprint.types import Engagement
from mindprint.valid_ids import user_name


@dataclass(frozen=True)
class Draft:
    """The values of a row, as they stand in the file."""

    where: str
    number: int
    """Number of the row in the file; a row without a time comes in this order."""
    user: str | None
    """None: the row names no user. An empty name is one of nobody."""
    id: str
    prompt: str
    response: str
    time: object = None
    reason: str = ""
    choices: Sequence[str] | None = None
    fault: str = ""
    """Why the row is faulty, if its reader knows."""


class LastAnswers:
    """Knows each user's last answer under each id: by time, or by the place in the file where one has no time.

    It keeps no texts: a file may hold many millions.

    Args:
        time_format: How texts write times, as for `RowBuilder`.
    """

    def __init__(self, time_format: str | None) -> None:
        self._time_format = time_format
        self._last: dict[tuple[str | None, str], _Place] = {}

    def add(self, draft: Draft) -> None:
        """Count an answer."""
        key, place = (draft.user, draft.id), self._place(draft)
        known = self._last.setdefault(key, place)
        if place.is_later_than(known):
            self._last[key] = place

    def why_left_out(self, draft: Draft) -> str:
        """Return why an answer is left out because of another one; empty if it is the last one, or was not counted."""
        last = self._last.get((draft.user, draft.id))
        if last is None or last.number == draft.number:
            return ""
        return REPEATED if last.said == _said(draft) else REPLACED

    def _place(self, draft: Draft) -> _Place:
        try:
            when = moment(draft.time, self._time_format)
        except ValueError:
            when = None
        return _Place(draft.number, when, _said(draft))


@dataclass(frozen=True, slots=True)
class _Place:
    number: int
    when: datetime | None
    said: int

    def is_later_than(self, other: _Place) -> bool:
        if self.when is None or other.when is None or self.when == other.when:
            return self.number > other.number
        return self.when > other.when


def _said(draft: Draft) -> int:
    return hash((draft.prompt, draft.response))


class RowBuilder:
    """Turns drafts into engagements, and counts those that cannot be used.

    Args:
        skips: Counts rows that are left out, by reason.
        only: The user of rows that name none, and the only user to import; None: all.
        time_format: How texts write times, in the codes of `datetime.strptime`; None: in any of the known forms.
    """

    def __init__(self, skips: Skips, *, only: str | None = None, time_format: str | None = None) -> None:
        self._skips = skips
        self._only = None if only is None else user_name(only)
        self._named = only
        self._time_format = time_format
        self._times = DistinctTimes()
        self._ids: set[tuple[str, str]] = set()

    def build(self, draft: Draft) -> tuple[str, Engagement] | None:
        """Return the user and the engagement of a draft; None if it was counted as left out."""
        user = self._named if draft.user is None else draft.user
        if draft.fault:
            self._skips.reject(draft.fault, draft.where)
        elif user is None:
            self._skips.reject(NO_USER, draft.where, f"{NO_USER}: name a column with --user, or one with --one-user")
        elif self._only not in (None, user_name(user)):
            self._skips.leave_out(OTHERS, draft.where)
        elif is_nobody(user) and user != self._named:
            self._skips.leave_out(NOBODY, draft.where)
        elif not draft.response or is_gone(draft.response):
            self._skips.leave_out(NO_ANSWER_TEXT, draft.where)
        elif not draft.prompt or is_gone(draft.prompt):
            self._skips.leave_out(NO_QUESTION_TEXT, draft.where)
        else:
            return self._built(draft, self._skips.users.of(user))
        return None

    def _built(self, draft: Draft, user: str) -> tuple[str, Engagement] | None:
        id = self._skips.engagements.of(draft.id)
        if (user, id) in self._ids:
            self._skips.leave_out(REPEATED, draft.where)
            return None
        try:
            when = moment(draft.time, self._time_format) or START + draft.number * TICK
        except ValueError as error:
            self._skips.reject(NO_TIME, draft.where, f"{NO_TIME}: {str(draft.time)[:40]!r} ({error})")
            return None
        row = engagement(
            self._skips,
            id=id,
            prompt=draft.prompt,
            response=draft.response,
            occurred_at=self._times.after(user, when),
            reason=draft.reason or None,
            choices=None if draft.choices is None else list(draft.choices),
            where=draft.where,
        )
        if row is None:
            return None
        self._ids.add((user, id))
        return user, row
