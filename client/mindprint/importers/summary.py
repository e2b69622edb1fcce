"""Summarize what an import would bring, without keeping its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from pydantic import BaseModel

from mindprint.importers.rows import Rows, Skips
from mindprint.types import Engagement

MAX_EXAMPLES = 5
MAX_CHOICE_SETS = 1000
"""Different lists of choices that are counted apart; further ones count together."""


class ChoiceSet(BaseModel):
    """A list of choices, and how many rows have it."""

    choices: list[str]
    rows: int


class Example(BaseModel):
    """A row as it would be stored."""

    user_id: str
    engagement: Engagement


class SkippedRows(BaseModel):
    """How many rows are left out for one reason."""

    reason: str
    rows: int


class SkippedPlace(BaseModel):
    """One row that is left out: file and line, and why."""

    where: str
    reason: str
    bad: bool


class ChangedId(BaseModel):
    """A user's id that is not as in the file."""

    user_id: str
    original: str


class ChangedEngagementId(BaseModel):
    """An engagement's id that is not as in the file."""

    engagement_id: str
    original: str


class LeftOut(BaseModel):
    """What of a file is left out or changed."""

    left_out: list[SkippedRows]
    bad_rows: int
    places: list[SkippedPlace]
    changed_ids: list[ChangedId]
    changed_engagement_ids: int
    """How many ids of engagements are not as in the file. `--id-map` writes them."""
    notes: list[str]

    @classmethod
    def of(cls, skips: Skips) -> LeftOut:
        """Return what `skips` has counted."""
        return cls(
            left_out=[SkippedRows(reason=reason, rows=rows) for reason, rows in skips.most_common()],
            bad_rows=skips.bad,
            places=[SkippedPlace(where=row.where, reason=row.reason, bad=row.bad) for row in skips.places],
            changed_ids=[ChangedId(user_id=made, original=_valid(raw)) for made, raw in skips.users.changed.items()],
            changed_engagement_ids=len(skips.engagements.changed),
            notes=skips.notes,
        )


def changed_engagement_ids(skips: Skips) -> Iterator[ChangedEngagementId]:
    """Yield the ids of engagements that are not as in the file."""
    for made, raw in skips.engagements.changed.items():
        yield ChangedEngagementId(engagement_id=made, original=_valid(raw))


def _valid(raw: str) -> str:
    """Return an id without halves of characters, which JSON files may hold and UTF-8 cannot."""
    return raw.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


class ImportSummary(BaseModel):
    """What would come in from a file."""

    format: str
    people: int
    rows: int
    first: datetime | None
    last: datetime | None
    closed_rows: int
    """Rows with choices; the others are open."""
    choice_sets: list[ChoiceSet]
    """The commonest lists of choices first."""
    other_choice_sets: int
    """Rows whose choices are beyond those lists."""
    examples: list[Example]
    skipped: LeftOut


def summarize(rows: Rows, kind: str, skips: Skips) -> ImportSummary:
    """Read all rows and return their summary.

    Args:
        rows: The rows of a file.
        kind: Its format.
        skips: What `rows` counts as left out.
    """
    survey = Survey()
    for user_id, row in rows:
        survey.add(user_id, row)
    return survey.summary(kind, skips)


class Survey:
    """Counts rows one by one."""

    def __init__(self) -> None:
        self.rows = 0
        self.people: set[str] = set()
        self._first: datetime | None = None
        self._last: datetime | None = None
        self._choices: Counter[tuple[str, ...]] = Counter()
        self._closed = self._others = 0
        self._firsts: list[Example] = []
        self._seconds: list[Example] = []

    def add(self, user_id: str, row: Engagement) -> None:
        """Count one row."""
        self.rows += 1
        examples = self._seconds if user_id in self.people else self._firsts
        if len(examples) < MAX_EXAMPLES:
            examples.append(Example(user_id=user_id, engagement=row))
        self.people.add(user_id)
        self._first = row.occurred_at if self._first is None else min(self._first, row.occurred_at)
        self._last = row.occurred_at if self._last is None else max(self._last, row.occurred_at)
        if row.choices is None:
            return
        self._closed += 1
        choices = tuple(row.choices)
        if choices in self._choices or len(self._choices) < MAX_CHOICE_SETS:
            self._choices[choices] += 1
        else:
            self._others += 1

    def summary(self, kind: str, skips: Skips) -> ImportSummary:
        """Return the summary of the rows so far. The examples are of different people, as far as there are any.

        Args:
            kind: The format of the file.
            skips: What was left out.
        """
        common = self._choices.most_common(MAX_EXAMPLES)
        return ImportSummary(
            format=kind,
            people=len(self.people),
            rows=self.rows,
            first=self._first,
            last=self._last,
            closed_rows=self._closed,
            choice_sets=[ChoiceSet(choices=list(choices), rows=rows) for choices, rows in common],
            other_choice_sets=self._closed - sum(rows for _, rows in common),
            examples=(self._firsts + self._seconds)[:MAX_EXAMPLES],
            skipped=LeftOut.of(skips),
        )
