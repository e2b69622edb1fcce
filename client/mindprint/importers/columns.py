"""Find the columns of a table by name: those that the caller names, else the first known name that the table has."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from mindprint.importers.rows import BadImport

_KNOWN = {
    "prompt": ("prompt", "question", "query", "instruction", "input", "user_prompt"),
    "response": ("response", "answer", "target", "output", "completion"),
    "user": (
        *("user_id", "user", "author", "annotator_id", "annotator", "worker_id", "participant_id", "respondent_id"),
        *("rater_id", "speaker", "username"),
    ),
    "time": (
        *("occurred_at", "timestamp", "created_at", "created_utc", "created", "datetime", "date", "time"),
        *("generated_datetime", "submitted_at"),
    ),
    "id": ("id", "row_id", "prompt_id"),
    "choices": ("choices", "options"),
    "reason": ("reason", "explanation", "rationale"),
    "chosen": ("chosen", "preferred", "chosen_response", "preferred_output"),
    "rejected": ("rejected", "rejected_response", "non_preferred_output"),
}


@dataclass(frozen=True)
class Columns:
    """Names of columns. None: the first known name that the table has, if it has one."""

    prompt: str | None = None
    response: str | None = None
    user: str | None = None
    time: str | None = None
    id: str | None = None
    choices: str | None = None
    reason: str | None = None
    chosen: str | None = None
    rejected: str | None = None

    @property
    def are_named(self) -> bool:
        """Whether the caller names a column of questions or answers, so that the file is a table."""
        return any((self.prompt, self.response, self.chosen, self.rejected))


def are_known(names: Iterable[str]) -> bool:
    """Return whether a table has columns with usual names for the question and the answer."""
    lower = {name.lower() for name in names}
    return not lower.isdisjoint(_KNOWN["prompt"]) and not lower.isdisjoint(_KNOWN["response"])


def find_columns(file: Path, wanted: Columns, names: Sequence[str], needed: Sequence[str]) -> Columns:
    """Return the columns of a table.

    Args:
        file: The table, for messages.
        wanted: The names that the caller gave.
        names: The columns of the table.
        needed: Fields of `Columns` without which the table cannot be used.

    Raises:
        BadImport: A column that the caller names, or a needed one, is not in the table.
    """
    shown = ", ".join(repr(name)[1:-1] for name in names[:16]) or "nothing"
    found = {}
    for field in fields(Columns):
        named = getattr(wanted, field.name)
        if named is not None:
            if named.partition(".")[0] not in names and named not in names:
                hint = f" (one user for all rows: --one-user {shlex.quote(named)})" if field.name == "user" else ""
                raise BadImport(f"{file}: lacks the column {named!r}; found {shown}{hint}")
            found[field.name] = named
        else:
            found[field.name] = _known(file, field.name, names)
    if lacking := next((field for field in needed if found[field] is None), None):
        hint = ", or one user for all rows with --one-user" if lacking == "user" else ""
        raise BadImport(f"{file}: name the column of the {lacking} with --{lacking}{hint}; found {shown}")
    return replace(wanted, **found)


def _known(file: Path, field: str, names: Sequence[str]) -> str | None:
    """Return the first known name that a table has, in any case.

    Raises:
        BadImport: Two columns have it.
    """
    for known in _KNOWN[field]:
        same = [name for name in names if name.lower() == known]
        if len(same) > 1:
            raise BadImport(f"{file}: has the columns {', '.join(map(repr, same))}: name one with --{field}")
        if same:
            return same[0]
    return None
