"""Read Mindprint's own rows: one engagement in JSON per line, with a `user_id` unless the caller names the user.

Rows of a dataset folder are read as well: `query`, `target` and `timestamp` take the places of `prompt`, `response` and
`occurred_at`, and other keys are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mindprint.importers.json_rows import JsonRow, json_rows
from mindprint.importers.people import NOBODY, is_nobody
from mindprint.importers.rows import (
    NO_ANSWER_TEXT,
    NO_TIME,
    NO_USER,
    Rows,
    Skips,
    engagement,
    fault_of,
    fault_of_user,
    missing,
    text,
)
from mindprint.importers.texts import is_gone
from mindprint.importers.timestamps import START, TICK, moment
from mindprint.streaming import first
from mindprint.types import Engagement
from mindprint.valid_ids import user_name

DATASET_KEYS = frozenset({"query", "target"})
"""A row with these keys is one of a dataset folder: see `mindprint.datasets`."""


def read(file: Path, skips: Skips, user: str | None = None) -> Rows:
    """Yield the engagements of a file with the ids of their users.

    Args:
        file: The file.
        skips: Counts rows that are left out, by reason.
        user: The user of rows without a `user_id`.

    Raises:
        BadImport: The file is one JSON array that breaks off.
    """
    return engagements(json_rows(file, skips), skips, user)


def engagements(rows: Iterator[JsonRow], skips: Skips, user: str | None = None) -> Rows:
    """Yield the engagements of rows with the ids of their users.

    Args:
        rows: The rows.
        skips: Counts rows that are left out, by reason.
        user: The user of rows without a `user_id`.
    """
    clocks: dict[str, datetime] = {}
    for row in rows:
        data = {key: value for key, value in row.data.items() if not missing(value)}
        fault = fault_of_user(data.get("user_id"))
        named = text(data.pop("user_id", None))
        is_named = bool(named) or "user_id" in row.data
        if fault:
            skips.reject(fault, row.where)
        elif user is not None and named and user not in (named, user_name(named)):
            detail = f"is of user {named!r}, not {user!r}: leave out --one-user to import all"
            skips.reject("row is of another user than --one-user", row.where, detail)
        elif user is None and not is_named:
            skips.reject(NO_USER, row.where, "has no user_id: add it, or name the user with --one-user")
        elif user is None and is_nobody(named):
            skips.leave_out(NOBODY, row.where)
        elif is_gone(text(data.get("response", data.get("target")))):
            skips.leave_out(NO_ANSWER_TEXT, row.where)
        else:
            user_id = skips.users.of(user or named)
            is_of_dataset = data.keys() >= DATASET_KEYS and "prompt" not in data
            found = _of_dataset(data, user_id, clocks, row.where, skips) if is_of_dataset else _own(data, row, skips)
            if found:
                yield user_id, found


def _own(data: Mapping[str, Any], row: JsonRow, skips: Skips) -> Engagement | None:
    given = text(data.get("id"))
    try:
        return Engagement.model_validate({**data, "id": skips.engagements.of(given)} if given else data)
    except ValidationError as error:
        skips.reject(fault_of(error), row.where, first(error))
        return None


def _of_dataset(
    data: Mapping[str, Any], user_id: str, clocks: dict[str, datetime], where: str, skips: Skips
) -> Engagement | None:
    """Build an engagement as `mindprint.datasets` does: rows of one time come one tick after the other."""
    try:
        when = moment(data.get("timestamp"))
    except ValueError as error:
        skips.reject(NO_TIME, where, f"{NO_TIME}: {data.get('timestamp')!r} ({error})")
        return None
    clock = clocks.get(user_id)
    clocks[user_id] = when or START if clock is None else max(clock + TICK, when or clock)
    choices, reason = data.get("choices"), text(data.get("reason"))
    return engagement(
        skips,
        id=skips.engagements.of(given) if (given := text(data.get("id"))) else "",
        prompt=_as_written(data["query"]),
        response=_as_written(data["target"]),
        occurred_at=clocks[user_id],
        reason=reason or None,
        choices=choices if isinstance(choices, list) else None,
        where=where,
    )


def _as_written(value: object) -> str:
    return value if isinstance(value, str) else text(value)
