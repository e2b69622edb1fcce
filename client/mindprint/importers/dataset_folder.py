"""Read the folder that `demo --data` and `eval --data` read: users.jsonl, train.jsonl and eval.jsonl.

The rows of train.jsonl are engagements. Those of eval.jsonl are later questions for scoring: they are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mindprint.datasets import dataset_keys
from mindprint.importers import ndjson
from mindprint.importers.json_rows import JsonRow, json_rows
from mindprint.importers.rows import BadImport, Rows, Skips, text

USERS, TRAIN, EVAL = "users.jsonl", "train.jsonl", "eval.jsonl"
LATER = f"later question of {EVAL}, which is for scoring"

_Reasons = dict[tuple[str, int], tuple[str, str]]
"""Prompt and reason by user and place in the history."""


def read(folder: Path, skips: Skips) -> Rows:
    """Yield the rows of train.jsonl as engagements, with the ids of their users and the reasons in users.jsonl.

    Args:
        folder: Holds train.jsonl, and if there are users.jsonl and eval.jsonl.
        skips: Counts rows that are left out, by reason.

    Raises:
        BadImport: There is no train.jsonl.
    """
    if not (folder / TRAIN).is_file():
        raise BadImport(f"{folder}: has no {TRAIN}: a dataset folder has {USERS}, {TRAIN} and {EVAL}")
    reasons = _read_reasons(folder / USERS) if (folder / USERS).is_file() else {}
    yield from ndjson.engagements(_with_reasons(json_rows(folder / TRAIN, skips), reasons), skips)
    if (folder / EVAL).is_file():
        for row in json_rows(folder / EVAL, skips):
            skips.leave_out(LATER, row.where)


def _read_reasons(file: Path) -> _Reasons:
    found: _Reasons = {}
    for row in json_rows(file, Skips()):
        history = row.data.get("history")
        for place, entry in enumerate(history if isinstance(history, list) else []):
            if isinstance(entry, dict) and (reason := text(entry.get("reason"))):
                found[text(row.data.get("user_id")), place] = str(entry.get("prompt")), reason
    return found


def _with_reasons(rows: Iterator[JsonRow], reasons: _Reasons) -> Iterator[JsonRow]:
    """Add the reason of the history's entry at `history_upto`, which the row repeats."""
    for found in rows:
        row = replace(found, data=dataset_keys(found.data))
        place = row.data.get("history_upto")
        known = reasons.get((text(row.data.get("user_id")), place)) if isinstance(place, int) else None
        if known and known[0] == row.data.get("query") and not text(row.data.get("reason")):
            row = replace(row, data={**row.data, "reason": known[1]})
        yield row
