"""Read a dataset folder: users.jsonl (histories), train.jsonl and eval.jsonl (questions to users, in time order).

Rows may also have the keys of engagements: prompt, response and occurred_at. Unknown keys are ignored. NaN is accepted
in JSON, because files written with Python contain it. Ids that the server refuses, such as `ann@example.com`, become
valid ones, the same as in an import.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from mindprint.types import Engagement, as_utc
from mindprint.valid_ids import SameId, UserIds, engagement_id, user_name

QuestionKind = Literal["closed", "rating", "open", "ranking"]
"""`closed`: a question with choices. `rating`: its choices are numbers. `ranking`: the rank of the real answer counts.
`open`: a question without choices."""
FILE_NAMES = ("users.jsonl", "train.jsonl", "eval.jsonl")
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Time of the first row where rows have no times: only their order matters."""
_TICK = timedelta(microseconds=1)
_OF_ENGAGEMENT = {"prompt": "query", "response": "target", "occurred_at": "timestamp"}


class DatasetError(Exception):
    """The dataset folder cannot be used. The message names file, line number and fault."""


@dataclass(frozen=True)
class HeldOutQuestion:
    """A later question to a user, which the service does not see before it is scored."""

    id: str
    query: str
    choices: list[str] | None
    """None for an open question."""
    target: str
    asked_at: datetime
    seen: bool | None = None
    """Whether the user was asked the same question before; None if the dataset does not say."""
    best: str | None = None
    """Answer that the hidden rule of a synthetic user gives without noise; None for real users."""
    kind: QuestionKind = "closed"
    """Kind of the question. It decides which metrics apply."""


@dataclass(frozen=True)
class UserDataset:
    """A user with engagements and later held-out questions. Both are in time order, and all times differ."""

    user_id: str
    engagements: list[Engagement]
    held_out: list[HeldOutQuestion]


@dataclass(frozen=True)
class _Row:
    where: str
    data: dict[str, Any]


def load_users(
    folder: Path,
    *,
    users: int = 4,
    engagements: int = 24,
    held_out: int = 16,
    seed: int = 0,
    ids: Sequence[str] = (),
    fewer: bool = False,
    open_too: bool = False,
) -> list[UserDataset]:
    """Load users with their newest engagements and a sample of held-out questions.

    Args:
        folder: Holds users.jsonl, train.jsonl and eval.jsonl.
        users: Number of users, from the first one that has enough rows.
        engagements: Newest rows of train.jsonl for each user.
        held_out: Sampled rows of eval.jsonl for each user.
        seed: Seeds the sample.
        ids: These users instead of the first ones.
        fewer: Also take users with fewer rows, as long as they have one engagement.
        open_too: Also take questions without choices.

    Raises:
        DatasetError: A file is missing or wrong, or there are too few users.
    """
    missing = [name for name in FILE_NAMES if not (folder / name).is_file()]
    if missing:
        raise DatasetError(f"{folder} has no {' and no '.join(missing)}: name a folder with {', '.join(FILE_NAMES)}")
    people = _people(folder)
    train, later = _by_user(folder / "train.jsonl"), _by_user(folder / "eval.jsonl")
    least = (1, 0) if fewer else (engagements, held_out)
    chosen = _choose(folder, people, train, later, users, *least, [user_name(id) for id in ids])
    return [
        _records(
            name,
            people[name],
            train[name][-engagements:],
            _sample(later[name], held_out, f"{seed}/{name}"),
            open_too,
        )
        for name in chosen
    ]


def dataset_keys(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row under the keys of a dataset: `query` for `prompt`, `target` for `response`, ..."""
    renamed = {name: key for name, key in _OF_ENGAGEMENT.items() if key not in row}
    return {renamed.get(name, name): value for name, value in row.items()}


def list_user_ids(folder: Path) -> list[str]:
    """Return the ids of all users, in file order.

    Raises:
        DatasetError: users.jsonl is missing or wrong.
    """
    if not (folder / "users.jsonl").is_file():
        raise DatasetError(f"{folder} has no users.jsonl: name a folder with {', '.join(FILE_NAMES)}")
    return list(_people(folder))


def _people(folder: Path) -> dict[str, _Row]:
    """Return the rows of users.jsonl by valid user id, in file order."""
    file, valid = folder / "users.jsonl", UserIds()
    try:
        return {valid.of(_text(row, "user_id")): row for row in _lines(file)}
    except SameId as error:
        raise DatasetError(f"{file}: {error}") from None


def _choose(
    folder: Path,
    people: dict[str, _Row],
    train: dict[str, list[_Row]],
    later: dict[str, list[_Row]],
    users: int,
    engagements: int,
    held_out: int,
    ids: Sequence[str],
) -> list[str]:
    if unknown := [name for name in ids if name not in people]:
        raise DatasetError(
            f"{folder / 'users.jsonl'} has no user {unknown[0]!r}: it has {', '.join(list(people)[:8])} ..."
        )
    fit = [n for n in ids or people if len(train[n]) >= engagements and len(later[n]) >= held_out]
    wanted = len(ids) or users
    if len(fit) < wanted:
        raise DatasetError(
            f"{folder} has {len(fit)} of {wanted} users with {engagements} rows in train.jsonl "
            f"and {held_out} in eval.jsonl: ask for fewer"
        )
    return fit[:wanted]


def _records(user_id: str, person: _Row, train: Sequence[_Row], later: Sequence[_Row], open_too: bool) -> UserDataset:
    history = person.data.get("history")
    if not isinstance(history, list):
        raise DatasetError(f"{person.where}: history is no list")
    clock: datetime | None = None
    past: list[Engagement] = []
    for row in train:
        clock = _after(clock, _time(row))
        past.append(_engagement(row, history, clock))
    if len({engagement.id for engagement in past}) != len(past):
        raise DatasetError(f"{train[0].where.rpartition(':')[0]}: user {user_id!r} has two rows of the same id")
    rows: list[HeldOutQuestion] = []
    for row in later:
        clock = _after(clock, _time(row))
        rows.append(_held_out(row, clock, open_too))
    return UserDataset(user_id, past, rows)


def _engagement(row: _Row, history: list[Any], when: datetime) -> Engagement:
    query = _text(row, "query")
    reason = row.data.get("reason") or _reason(history, row.data.get("history_upto"), query)
    try:
        return Engagement(
            id=engagement_id(_text(row, "id")),
            prompt=query,
            response=_text(row, "target"),
            occurred_at=when,
            reason=reason if isinstance(reason, str) else None,
            choices=row.data.get("choices"),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise DatasetError(f"{row.where}: {'.'.join(map(str, first['loc'])) or 'row'}: {first['msg']}") from None


def _reason(history: list[Any], place: object, query: str) -> str | None:
    """Return the reason in the history's entry at `history_upto`, which the train row repeats."""
    if not isinstance(place, int) or not 0 <= place < len(history):
        return None
    entry = history[place]
    reason = entry.get("reason") if isinstance(entry, dict) and entry.get("prompt") == query else None
    return reason if isinstance(reason, str) and reason else None


def _held_out(row: _Row, when: datetime, open_too: bool) -> HeldOutQuestion:
    choices, target, best = row.data.get("choices"), _text(row, "target"), row.data.get("best")
    if choices is not None or not open_too:
        if (
            not isinstance(choices, list)
            or len(choices) < 2
            or not all(isinstance(choice, str) and choice for choice in choices)
        ):
            raise DatasetError(f"{row.where}: choices is no list of two or more texts")
        if target not in choices:
            raise DatasetError(f"{row.where}: target {target!r} is not among the choices {choices}")
    kind = row.data.get("kind", "open" if choices is None else "closed")
    if kind not in get_args(QuestionKind) or (choices is None) != (kind == "open"):
        raise DatasetError(
            f"{row.where}: kind {kind!r} is none of {', '.join(get_args(QuestionKind))}, or does not fit the choices"
        )
    seen = next((row.data[key] for key in ("seen", "seen_title", "seen_topic") if key in row.data), None)
    return HeldOutQuestion(
        id=_text(row, "id"),
        query=_text(row, "query"),
        choices=choices,
        target=target,
        asked_at=when,
        seen=seen if isinstance(seen, bool) else None,
        best=best if isinstance(best, str) else None,
        kind=kind,
    )


def _sample(rows: Sequence[_Row], count: int, seed: str) -> list[_Row]:
    """Sample rows by seed, in the order of the file."""
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), min(count, len(rows))))]


def _after(clock: datetime | None, when: datetime | None) -> datetime:
    """Return `when`, or just after `clock` where times are missing, repeat, or are only dates."""
    if clock is None:
        return when or _EPOCH
    return max(clock + _TICK, when or clock)


def _time(row: _Row) -> datetime | None:
    stamp = row.data.get("timestamp")
    if stamp is None or (isinstance(stamp, float) and math.isnan(stamp)):
        return None
    try:
        return as_utc(datetime.fromisoformat(stamp))
    except (TypeError, ValueError):
        raise DatasetError(f"{row.where}: timestamp {stamp!r} is no ISO time") from None


def _text(row: _Row, key: str) -> str:
    value = row.data.get(key)
    if not isinstance(value, str) or not value:
        raise DatasetError(f"{row.where}: {key} is missing or no text")
    return value


def _by_user(file: Path) -> dict[str, list[_Row]]:
    rows: dict[str, list[_Row]] = defaultdict(list)
    for row in _lines(file):
        rows[user_name(_text(row, "user_id"))].append(replace(row, data=dataset_keys(row.data)))
    return rows


def _lines(file: Path) -> Iterator[_Row]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                data = json.loads(line)
            except ValueError as error:
                raise DatasetError(f"{file}:{number}: no JSON ({error})") from None
            if not isinstance(data, dict):
                raise DatasetError(f"{file}:{number}: a JSON object is needed")
            yield _Row(f"{file}:{number}", data)
