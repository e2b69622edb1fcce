"""Read pol.is: a folder with comments.csv and votes.csv.

Columns are comment-id and comment-body, and voter-id, comment-id, vote and timestamp.

Every vote is an engagement: 1 agree, -1 disagree, 0 pass. Each conversation numbers its voters from the start, so a
voter's id begins with the name of the folder: `<folder>-<voter>`. Two votes of a voter on one comment, at two times,
are two engagements.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from mindprint.importers.ids import engagement_id, user_name
from mindprint.importers.rows import NO_TIME, REPEATED, BadImport, Rows, Skips, engagement
from mindprint.importers.timestamps import START, TICK, moment

COMMENTS, VOTES = "comments.csv", "votes.csv"
CHOICES = ("agree", "disagree", "pass")
_VOTES = {1.0: "agree", -1.0: "disagree", 0.0: "pass"}
_FIELD = 1 << 20
"""Characters of one field; the csv module's own bound is 128 Ki."""


def read(folder: Path, skips: Skips) -> Rows:
    """Yield the votes of an export as engagements, with the ids of their users.

    The comments and the key of every vote are held in memory.

    Raises:
        BadImport: A file is missing or cannot be used.
    """
    for name in (COMMENTS, VOTES):
        if not (folder / name).is_file():
            raise BadImport(f"{folder}: has no {name}: a pol.is export is a folder with {COMMENTS} and {VOTES}")
    comments = {
        row["comment-id"]: row["comment-body"] for row in _table(folder / COMMENTS, "comment-id", "comment-body")
    }
    place = folder.resolve().name
    seen: set[tuple[str, str]] = set()
    taken: set[tuple[str, datetime]] = set()
    for number, row in enumerate(_table(folder / VOTES, "voter-id", "comment-id", "vote")):
        voter, comment, stamp = row["voter-id"], row["comment-id"], row.get("timestamp", "")
        answer, body = _vote(row["vote"]), comments.get(comment)
        if problem := _problem(voter, answer, body):
            skips[problem] += 1
            continue
        try:
            when = moment(stamp) or START + number * TICK
        except ValueError:
            skips[NO_TIME] += 1
            continue
        user, id = user_name(f"{place}-{voter}"), engagement_id(f"{comment}/{stamp}" if stamp else comment)
        if (user, id) in seen:
            skips[REPEATED] += 1
            continue
        seen.add((user, id))
        while (user, when) in taken:  # pol.is has whole seconds, but a history needs different times
            when += TICK
        taken.add((user, when))
        row_engagement = engagement(
            skips,
            id=id,
            prompt=f"Do you agree with this statement?\n{body}",
            response=answer,
            occurred_at=when,
            choices=list(CHOICES),
        )
        if row_engagement:
            yield user, row_engagement


def _problem(voter: str, answer: str, body: str | None) -> str:
    if not voter:
        return "vote without a voter"
    if not answer:
        return "vote is not 1, 0 or -1"
    if body is None:
        return f"comment is not in {COMMENTS}"
    return "" if body else "comment is empty"


def _vote(value: str) -> str:
    try:
        return _VOTES.get(float(value), "")
    except ValueError:
        return ""


def _table(file: Path, *needed: str) -> Iterator[dict[str, str]]:
    """Yield rows by the names of the columns, stripped. Missing fields of a row are empty."""
    bound = csv.field_size_limit(_FIELD)
    try:
        with file.open("rb") as stream:
            table = csv.reader(_decoded(file, stream), strict=True)
            columns = [name.strip().lower() for name in next(table, [])]
            if lacking := [name for name in needed if name not in columns]:
                named = ", ".join(repr(name)[1:-1] for name in columns[:12]) or "nothing"
                raise BadImport(f"{file}:1: lacks the column {lacking[0]}; found {named}")
            for row in table:
                if row:
                    cells = [cell.strip() for cell in row] + [""] * (len(columns) - len(row))
                    yield dict(zip(columns, cells, strict=False))
    except csv.Error as error:
        raise BadImport(f"{file}:{table.line_num}: is no CSV ({error})") from error
    finally:
        csv.field_size_limit(bound)


def _decoded(file: Path, lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise BadImport(f"{file}:{number}: is no UTF-8 text") from error
