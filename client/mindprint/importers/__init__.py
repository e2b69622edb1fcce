"""Read engagements from files of other projects and from Mindprint's own, without holding a large file in memory.

The same files give the same ids and times every time, so sending them again changes nothing.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path
from typing import Literal

from mindprint.importers import cmv, lamp, ndjson, polis
from mindprint.importers.json_stream import entries
from mindprint.importers.rows import BadImport, Rows, Skips
from mindprint.types import Engagement

__all__ = ["BadImport", "Format", "Known", "Rows", "Skips", "detect", "read"]

Known = Literal["ndjson", "lamp", "cmv", "polis"]
Format = Literal["auto", Known]

OTHERS = "of another user than the one asked for"
_OWN_KEYS = {"user_id", *Engagement.model_fields}


def read(path: Path, kind: Known, skips: Skips, *, outputs: Path | None = None, user: str | None = None) -> Rows:
    """Yield the engagements of a file or folder with the ids of their users.

    Args:
        path: The file or folder.
        kind: Its format.
        skips: Counts the rows that cannot be used, by reason.
        outputs: LaMP's file of answers.
        user: Of the own format, the user of rows without a `user_id`. Of other formats, yield only this user's rows,
            under the id that `mindprint.importers.ids` makes.

    Raises:
        BadImport: The file as a whole cannot be used.
    """
    if kind == "ndjson":
        return ndjson.read(path, user)
    rows = {
        "lamp": lambda: lamp.read(path, skips, outputs),
        "cmv": lambda: cmv.read(path, skips),
        "polis": lambda: polis.read(path, skips),
    }[kind]()
    return rows if user is None else _only(rows, user, skips)


def detect(path: Path) -> Known:
    """Detect the format by the names in a folder, by the name of a file, or by the beginning of a file.

    Raises:
        BadImport: The format is none of the known ones.
    """
    if path.is_dir():
        return _folder(path)
    if path.suffix in (".ndjson", ".jsonl"):
        return "ndjson"
    if path.name in (cmv.HISTORY, cmv.EVALUATION):
        return "cmv"
    try:
        key, value = next(entries(path), (None, None))
    except BadImport:
        if _begins_a_list(path):
            raise
        return "ndjson"  # whose reader says what is wrong with the first line
    if key == "golds" or (key == "task" and isinstance(value, str)):
        raise BadImport(f"{path}: holds LaMP's answers: name the questions, and this file with --outputs")
    if isinstance(key, int):
        return "lamp" if isinstance(value, dict) and {"input", "profile"} <= value.keys() else "cmv"
    return "cmv" if key not in _OWN_KEYS and isinstance(value, list | dict) else "ndjson"


def _folder(path: Path) -> Known:
    if (path / polis.VOTES).is_file():
        return "polis"
    if (path / cmv.HISTORY).is_file() or (path / cmv.EVALUATION).is_file():
        return "cmv"
    raise BadImport(
        f"{path}: is a folder without {polis.VOTES} (pol.is) or {cmv.HISTORY} (CMV): name the file to import"
    )


def _begins_a_list(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(64).removeprefix(BOM_UTF8).lstrip().startswith(b"[")


def _only(rows: Rows, user: str, skips: Skips) -> Rows:
    for name, row in rows:
        if name == user:
            yield name, row
        else:
            skips[OTHERS] += 1
