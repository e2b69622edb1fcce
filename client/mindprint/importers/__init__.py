"""Read engagements from files of other projects and from Mindprint's own, without holding a large file in memory.

The same files give the same ids and times every time, so sending them again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mindprint.importers import (
    chat,
    chat_tree,
    cmv,
    convokit,
    dataset_folder,
    lamp,
    ndjson,
    pairs,
    polis,
    table,
    tables,
)
from mindprint.importers.columns import Columns, are_known
from mindprint.importers.json_rows import begins_with, first_row
from mindprint.importers.json_stream import entries
from mindprint.importers.packed import refuse_packed
from mindprint.importers.rows import OTHERS, BadImport, Rows, Skips, check_bad_share, keys_of
from mindprint.types import Engagement
from mindprint.valid_ids import SameId, user_name

__all__ = [
    "BadImport",
    "Columns",
    "Format",
    "Known",
    "ReadOptions",
    "Rows",
    "SameId",
    "Skips",
    "check_bad_share",
    "detect",
    "read",
]

Known = Literal["ndjson", "dataset", "table", "pairs", "chat", "convokit", "polis", "cmv", "lamp"]
Format = Literal["auto", Known]

_OWN_KEYS = {"user_id", *Engagement.model_fields, *ndjson.DATASET_KEYS}
_ROW_KEYS = {
    *chat.MESSAGES,
    chat_tree.MAPPING,
    "chosen",
    "rejected",
    "preferred_output",
    pairs.HISTORY,
    pairs.COMPLETIONS,
    "if_chosen",
    "reply-to",
    "reply_to",
}
"""Keys that tell rows of chats, pairs and utterances from authors of CMV."""
_WRAPPERS = (
    *("data", "rows", "items", "records", "examples", "entries", "samples", "results", "engagements", "users"),
    *("train", "test", "validation"),
)
"""Keys under which files have their rows. No author is called so."""


@dataclass(frozen=True)
class ReadOptions:
    """How the rows of some formats are read.

    Attributes:
        agree_vote: Of pol.is, the vote that means agree; None: what the counts of the export say.
        columns: Of tables and pairs, the names of the columns.
        time_format: Of tables, pairs, chats and corpora, how texts write times, in the codes of `datetime.strptime`;
            None: in any of the known forms.
        assistant_answers: Of chats, whether the assistant's answers are responses that the user wrote or approved.
    """

    agree_vote: polis.Agree | None = None
    columns: Columns = field(default_factory=Columns)
    time_format: str | None = None
    assistant_answers: bool = False


def read(
    path: Path,
    kind: Known,
    skips: Skips,
    *,
    outputs: Path | None = None,
    user: str | None = None,
    options: ReadOptions = ReadOptions(),
) -> Rows:
    """Yield the engagements of a file or folder with the ids of their users.

    Args:
        path: The file or folder.
        kind: Its format.
        skips: Counts the rows that cannot be used, by reason.
        outputs: LaMP's file of answers.
        user: The user of rows that name none. Rows of others are left out, or of the own format refused.
        options: How the rows of some formats are read.

    Raises:
        BadImport: The file as a whole cannot be used.
        SameId: Two of its users become the same id.
    """
    refuse_packed(path)
    if kind == "ndjson":
        return ndjson.read(path, skips, user)
    form = options.time_format
    if kind in ("table", "pairs"):
        reader = table.read if kind == "table" else pairs.read
        return reader(path, skips, options.columns, user=user, time_format=form)
    if kind == "chat":
        answers = options.assistant_answers
        return chat.read(path, skips, user=user, time_format=form, assistant_answers=answers)
    rows = {
        "convokit": lambda: convokit.read(path, skips, time_format=form),
        "dataset": lambda: dataset_folder.read(path, skips),
        "lamp": lambda: lamp.read(path, skips, outputs),
        "cmv": lambda: cmv.read(path, skips),
        "polis": lambda: polis.read(path, skips, options.agree_vote),
    }[kind]()
    return rows if user is None else _only(path, rows, user_name(user), skips)


def detect(path: Path, columns: Columns = Columns()) -> Known:
    """Detect the format by the names in a folder, by the name of a file, or by the beginning of a file.

    Args:
        path: The file or folder.
        columns: Columns that the caller names, which make any file a table.

    Raises:
        BadImport: The format is none of the known ones.
    """
    if path.is_dir():
        return _folder(path)
    refuse_packed(path)
    if columns.are_named:
        return "pairs" if columns.chosen or columns.rejected else "table"
    if path.name in (polis.VOTES, polis.COMMENTS) and (path.parent / polis.VOTES).is_file():
        raise BadImport(f"{path}: is a part of a pol.is export: name its folder")
    if path.suffix.lower() in (*tables.PARQUET, *tables.DELIMITED):
        return _by_keys(path, dict.fromkeys(tables.column_names(path), ""))
    has_lines = path.suffix in (".ndjson", ".jsonl")
    if has_lines and not begins_with(path, b"["):
        return _by_keys(path, first_row(path) or {})
    if path.name in (cmv.HISTORY, cmv.EVALUATION):
        return "cmv"
    try:
        key, value = next(entries(path), (None, None))
    except BadImport:
        if begins_with(path, b"[") and not has_lines:
            raise
        return _by_keys(path, first_row(path) or {})  # whose reader says what is wrong with the first line
    if key == "golds" or (key == "task" and isinstance(value, str)):
        raise BadImport(f"{path}: holds LaMP's answers: name the questions, and this file with --outputs")
    if isinstance(key, int):
        return _by_entry(path, value)
    if isinstance(value, list | dict) and key not in _OWN_KEYS and key not in _ROW_KEYS:
        if key in _WRAPPERS:  # as the name of an author it would make one person of all
            raise BadImport(f"{path}: holds its rows under {key!r}: save that list alone, as JSON or JSON Lines")
        return "cmv"
    if key is not None and first_row(path) is None:
        raise BadImport(
            f"{path}: holds one JSON object over several lines: write each row in one line, or a JSON array"
        )
    return _by_keys(path, first_row(path) or {})


def _by_entry(path: Path, entry: object) -> Known:
    """Tell what an array holds by its first entry."""
    if not isinstance(entry, dict):
        return "cmv"
    if {"input", "profile"} <= entry.keys():
        return "lamp"
    has_posts = any(isinstance(entry.get(key), list) for key in cmv.LISTS)
    return "cmv" if has_posts and not entry.keys() & _ROW_KEYS else _by_keys(path, entry)


def _by_keys(path: Path, row: Mapping[str, object]) -> Known:
    """Tell what rows hold by the keys of the first one, or by the columns of a table."""
    if _is_chat(row) and not row.keys() >= {"chosen", "rejected"}:
        return "chat"
    if row.keys() >= {"chosen", "rejected"} or "preferred_output" in row or pairs.HISTORY in row:
        return "pairs"
    if row.keys() >= {"model_response", "if_chosen"} or pairs.COMPLETIONS in row:
        return "pairs"
    if "text" in row and row.keys() & {*convokit.REPLY_TO} and row.keys() & {*convokit.SPEAKER}:
        raise BadImport(f"{path}: holds utterances of ConvoKit: name the folder of the corpus")
    if "history" in row and "prompt" not in row and isinstance(row["history"], list):
        raise BadImport(f"{path}: holds histories of a dataset folder: name the folder, or its {dataset_folder.TRAIN}")
    if path.suffix.lower() in (*tables.PARQUET, *tables.DELIMITED):
        return "table"
    if row.keys() >= {"prompt", "response"} or row.keys() >= ndjson.DATASET_KEYS:
        return "ndjson"
    if are_known(row):
        return "table"
    if row.keys() <= _OWN_KEYS or row.keys() & {"prompt", "response", "occurred_at", *ndjson.DATASET_KEYS}:
        return "ndjson"  # whose reader says what is missing
    raise BadImport(
        f"{path}: no known format has rows with {keys_of(row)}: name the columns with --prompt and --response, or with "
        "--chosen and --rejected"
    )


def _is_chat(row: Mapping[str, object]) -> bool:
    """Return whether rows hold messages. Of a table only the names of the columns are known."""
    return chat.MESSAGES[0] in row or chat.messages_in(row) is not None or (_is_named_chat(row) and not are_known(row))


def _is_named_chat(row: Mapping[str, object]) -> bool:
    return any(row.get(key) == "" for key in chat.MESSAGES)


def _folder(path: Path) -> Known:
    if (path / polis.VOTES).is_file():
        return "polis"
    if (path / cmv.HISTORY).is_file() or (path / cmv.EVALUATION).is_file():
        return "cmv"
    if convokit.is_corpus(path):
        return "convokit"
    if (path / dataset_folder.TRAIN).is_file():
        return "dataset"
    raise BadImport(
        f"{path}: is a folder without {polis.VOTES} (pol.is), {cmv.HISTORY} (CMV), {convokit.UTTERANCES[0]} (ConvoKit) "
        f"or {dataset_folder.TRAIN} (dataset): name the file to import"
    )


def _only(path: Path, rows: Rows, user: str, skips: Skips) -> Rows:
    for name, row in rows:
        if name == user:
            yield name, row
        else:
            skips.leave_out(OTHERS, f"{path}: {name}, id {row.id}")
