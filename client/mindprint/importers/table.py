"""Read a table with a question and the user's answer in each row: CSV, TSV, Parquet or JSON Lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mindprint.importers.columns import Columns, find_columns
from mindprint.importers.messages import messages_of, transcript
from mindprint.importers.row_builder import Draft, LastAnswers, RowBuilder
from mindprint.importers.rows import (
    REJECTED,
    Rows,
    Skips,
    fault_of_text,
    fault_of_user,
    missing,
    prose,
)
from mindprint.importers.tables import TableRow, choices_of, column_names, parsed, table_rows

NO_CHOICES = "choices are no list of two or more: write them as a|b, or as a JSON list"


def read(
    file: Path, skips: Skips, columns: Columns, *, user: str | None = None, time_format: str | None = None
) -> Rows:
    """Yield the engagements of a table with the ids of their users.

    Args:
        file: The table.
        skips: Counts rows that are left out, by reason.
        columns: The names of its columns.
        user: The user of rows without one, and the only one to import.
        time_format: How texts write times; None: in any of the known forms.

    Raises:
        BadImport: The table cannot be read, or lacks a column.
    """
    names = column_names(file)
    needed = ("prompt", "response") if user else ("prompt", "response", "user")
    found = find_columns(file, columns, names, needed if names else ())
    needs_choices = columns.choices is not None
    builder = RowBuilder(skips, only=user, time_format=time_format)
    last = _last_answers(file, found, time_format)
    for row in table_rows(file, skips):
        if _is_rejected(row, found):
            skips.leave_out(REJECTED, row.where)
            continue
        draft = _draft(row, found)
        given = row.value(found.choices)
        if needs_choices and draft.choices is None and not (missing(given) or given in ("", [])):
            # As an open question it would be scored otherwise than the caller means.
            draft = replace(draft, fault=draft.fault or NO_CHOICES)
        if _is_answer(draft) and (why := last.why_left_out(draft)):
            skips.leave_out(why, draft.where)
        elif built := builder.build(draft):
            yield built


def _last_answers(file: Path, columns: Columns, time_format: str | None) -> LastAnswers:
    """Return each user's last answers. Rows without ids are answers of their own."""
    last = LastAnswers(time_format)
    for row in table_rows(file, Skips()) if columns.id else ():
        draft = _draft(row, columns)
        if _is_answer(draft) and not _is_rejected(row, columns):
            last.add(draft)
    return last


def _is_answer(draft: Draft) -> bool:
    return bool(draft.response) and not draft.fault


def _is_rejected(row: TableRow, columns: Columns) -> bool:
    """Return whether a row of TRL's unpaired preferences holds an answer that the user did not want."""
    return (columns.response or "").lower() == "completion" and row.text("label").lower() in ("false", "0")


def _draft(row: TableRow, columns: Columns) -> Draft:
    choices = choices_of(row.value(columns.choices))
    return Draft(
        where=row.where,
        number=row.number,
        user=row.text(columns.user) if columns.user else None,
        id=row.text(columns.id) or f"row-{row.number}",
        prompt=_said(row, columns.prompt),
        response=_said(row, columns.response),
        time=row.value(columns.time),
        reason=prose(row.text(columns.reason)),
        choices=None if choices is None else list(dict.fromkeys(map(prose, choices))),
        fault=_fault(row, columns),
    )


def _said(row: TableRow, column: str | None) -> str:
    """Return the text of a cell; TRL's rows have messages there."""
    messages = messages_of(parsed(row.value(column)))
    return transcript(messages) if messages else prose(row.text(column))


def _fault(row: TableRow, columns: Columns) -> str:
    """Return why a row is faulty: a text is something else, such as a list."""
    if why := fault_of_user(row.value(columns.user)):
        return why
    for what, column in (("question", columns.prompt), ("answer", columns.response)):
        value = parsed(row.value(column))
        if not isinstance(value, bool) and not messages_of(value) and (why := fault_of_text(what, value)):
            return why
    return ""
