"""Read pol.is: a folder with comments.csv and votes.csv.

Columns are comment-id and comment-body, and voter-id, comment-id, vote and timestamp.

Every voter's last vote on a comment is an engagement: agree, disagree or pass. Each conversation numbers its voters
from the start, so a voter's id begins with the name of the folder: `<folder>-<voter>`.

The database of pol.is keeps agree as -1, most exports write it as 1, and nothing in votes.csv says which. The columns
agrees and disagrees of comments.csv do: `vote_of_agree`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from mindprint.importers.delimited import records
from mindprint.importers.people import NOBODY, is_nobody
from mindprint.importers.rows import NO_TIME, REPEATED, REPLACED, BadImport, Rows, Skips, engagement, prose
from mindprint.importers.timestamps import START, TICK, DistinctTimes, moment

COMMENTS, VOTES = "comments.csv", "votes.csv"
CHOICES = ("agree", "disagree", "pass")
SAY_WHICH = "say which vote is agree with --agree-vote 1 or --agree-vote=-1"
MAX_MISMATCH = 0.1
"""Share of the counted votes by which a sign may miss the counts of comments.csv: some exports count cached votes."""
_COUNT = re.compile(r"([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.0+)?")
_WHOLE = re.compile(r"([0-9]+)\.0+")
Agree = Literal[1, -1]
"""The vote that means agree."""


@dataclass(frozen=True)
class CommentCounts:
    """What comments.csv says of one comment; None: it does not say."""

    agrees: int | None
    disagrees: int | None


@dataclass(frozen=True)
class _Vote:
    where: str
    place: int
    voter: str
    comment: str
    value: int
    stamp: str
    when: datetime


class _Undecided(ValueError):
    """The counts fit neither sign."""


def read(folder: Path, skips: Skips, agree: Agree | None = None) -> Rows:
    """Yield the votes of an export as engagements, with the ids of their users.

    The comments and the last vote of every voter on each of them are held in memory.

    Args:
        folder: Holds comments.csv and votes.csv.
        skips: Counts rows that are left out, by reason.
        agree: The vote that means agree; None: what the counts of comments.csv say, else 1.

    Raises:
        BadImport: A file is missing or cannot be used, or its votes fit neither sign.
    """
    for name in (COMMENTS, VOTES):
        if not (folder / name).is_file():
            raise BadImport(f"{folder}: has no {name}: a pol.is export is a folder with {COMMENTS} and {VOTES}")
    comments, counts = _comments(folder / COMMENTS, skips, needs_counts=agree is None)
    bad_before = skips.bad
    cast = Counter[tuple[str, int]]()
    last = _last_votes(_votes(folder / VOTES, cast, skips), skips)
    if agree is None:
        agree = _agree(folder, counts, cast, last, skips, skips.bad - bad_before)
    answers = {agree: "agree", -agree: "disagree", 0: "pass"}
    place = folder.resolve().name
    times = DistinctTimes()
    for vote in last:
        body = comments.get(vote.comment)
        if not body:
            skips.leave_out(f"comment is not in {COMMENTS}" if body is None else "comment is empty", vote.where)
            continue
        user = skips.users.of(f"{place}-{vote.voter}")
        row_engagement = engagement(
            skips,
            id=skips.engagements.of(f"{vote.comment}/{vote.stamp}" if vote.stamp else vote.comment),
            prompt=f"Do you agree with this statement?\n{body}",
            response=answers[vote.value],
            occurred_at=times.after(user, vote.when),  # pol.is has whole seconds
            choices=list(CHOICES),
            where=vote.where,
        )
        if row_engagement:
            yield user, row_engagement


def _comments(file: Path, skips: Skips, *, needs_counts: bool) -> tuple[dict[str, str], dict[str, CommentCounts]]:
    """Return the texts and the counts of the comments, by id.

    Raises:
        BadImport: An id has two texts, or counts are needed and none of those that are there can be read.
    """
    comments: dict[str, str] = {}
    counts: dict[str, CommentCounts] = {}
    unread = ""
    for row in records(file, skips, ("comment-id", "comment-body")):
        id, body = _id(row.cells["comment-id"]), prose(row.cells["comment-body"])
        if comments.setdefault(id, body) != body:
            # Its voters would be mixed, too: each conversation numbers both from the start.
            raise BadImport(
                f"{row.where}: comment {id!r} stands twice with different texts: give each conversation its own folder"
            )
        said = [row.cells.get(name, "") for name in ("agrees", "disagrees")]
        agrees, disagrees = map(_count, said)
        counts[id] = CommentCounts(agrees, disagrees)
        if any(said) and agrees is None and disagrees is None:
            unread = unread or f"{row.where}: agrees and disagrees cannot be read ({', '.join(map(repr, said))[:80]})"
    if unread and needs_counts and not _has_counts(counts):
        raise BadImport(f"{unread}: write whole numbers, or {SAY_WHICH}")
    return comments, counts


def _has_counts(counts: Mapping[str, CommentCounts]) -> bool:
    return any(count.agrees is not None or count.disagrees is not None for count in counts.values())


def vote_of_agree(
    counts: Mapping[str, CommentCounts], cast: Mapping[tuple[str, int], int], slack: int = 0
) -> Agree | None:
    """Return the vote that means agree: 1 or -1, whichever fits the counts of the comments; None if both do.

    Args:
        counts: What the export says of each comment, by id.
        cast: How many votes there are, by id of the comment and vote.
        slack: Votes that could not be read, by which the counts may also differ.

    Raises:
        ValueError: Neither fits.
    """
    total = miss = inverse_miss = 0
    for id, count in counts.items():
        plus, minus = cast.get((id, 1), 0), cast.get((id, -1), 0)
        for said, same, other in ((count.agrees, plus, minus), (count.disagrees, minus, plus)):
            if said is not None:
                total += said
                miss += abs(said - same)
                inverse_miss += abs(said - other)
    best, worst = sorted((miss, inverse_miss))
    is_clear = best == 0 or best == worst or 2 * best < worst
    if best > MAX_MISMATCH * total + slack or not is_clear:
        raise _Undecided(f"{miss} of {total} counted votes differ if 1 is agree, {inverse_miss} if -1 is")
    return None if miss == inverse_miss else 1 if miss < inverse_miss else -1


def _agree(
    folder: Path,
    counts: Mapping[str, CommentCounts],
    cast: Mapping[tuple[str, int], int],
    last: Iterable[_Vote],
    skips: Skips,
    unread: int,
) -> Agree:
    """Decide by all votes or by each voter's last ones: exports differ in which they count."""
    complaints = []
    for votes in (cast, Counter((vote.comment, vote.value) for vote in last)):
        try:
            agree = vote_of_agree(counts, votes, unread)
        except _Undecided as error:
            complaints.append(str(error))
            continue
        tie = f"the counts of {COMMENTS} fit both signs" if _has_counts(counts) else f"{COMMENTS} has no counts"
        why = f"by the counts of {COMMENTS}" if agree else f"as documented, since {tie}"
        skips.notes.append(f"vote {agree or 1} is agree, {why}")
        return agree or 1
    raise BadImport(
        f"{folder / VOTES}: its votes fit the agrees and disagrees of {COMMENTS} with neither sign: {complaints[0]}: "
        f"export the folder anew, or {SAY_WHICH}"
    )


def _votes(file: Path, cast: Counter[tuple[str, int]], skips: Skips) -> Iterator[_Vote]:
    """Yield the votes that can be used, and count all there are in `cast`."""
    for place, row in enumerate(records(file, skips, ("voter-id", "comment-id", "vote"))):
        voter, comment, stamp = _id(row.cells["voter-id"]), _id(row.cells["comment-id"]), row.cells.get("timestamp", "")
        value = _vote(row.cells["vote"])
        if value is not None:
            cast[comment, value] += 1
        if not voter:
            skips.reject("vote without a voter", row.where)
        elif is_nobody(voter):
            skips.leave_out(NOBODY, row.where)
        elif value is None:
            skips.reject("vote is not 1, 0 or -1", row.where)
        else:
            try:
                when = moment(stamp) or START + place * TICK
            except ValueError as error:
                skips.reject(NO_TIME, row.where, f"{NO_TIME}: {stamp[:40]!r} ({error})")
                continue
            yield _Vote(row.where, place, voter, comment, value, stamp, when)


def _last_votes(votes: Iterable[_Vote], skips: Skips) -> list[_Vote]:
    """Return each voter's last vote on each comment, in the order of the file."""
    last: dict[tuple[str, str], _Vote] = {}
    for vote in votes:
        key = (vote.voter, vote.comment)
        if (other := last.get(key)) is None:
            last[key] = vote
            continue
        older, newer = (other, vote) if (other.when, other.place) <= (vote.when, vote.place) else (vote, other)
        is_same = (older.value, older.stamp) == (newer.value, newer.stamp)
        skips.leave_out(REPEATED if is_same else REPLACED, older.where)
        last[key] = newer
    return sorted(last.values(), key=lambda vote: vote.place)


def _vote(value: str) -> int | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if number in (1, 0, -1) else None


def _count(value: str | None) -> int | None:
    """Read a count. Programs without missing whole numbers write 12 as `12.0`, and spreadsheets 1200 as `1,200`."""
    found = _COUNT.fullmatch(value or "")
    return int(found[1].replace(",", "")) if found else None


def _id(value: str) -> str:
    """Return an id of a comment or a voter, of which the same programs write 7 as `7.0`."""
    found = _WHOLE.fullmatch(value)
    return found[1] if found else value
