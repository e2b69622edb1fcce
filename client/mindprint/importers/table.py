"""Read a table with a question and the user's answer in each row: CSV, TSV, Parquet or JSON Lines."""

from __future__ import annotations

from pathlib import Path

from mindprint.importers.columns import Columns, find_columns, with_user
from mindprint.importers.row_builder import Draft, RowBuilder
from mindprint.importers.rows import REPEATED, REPLACED, Rows, Skips, prose
from mindprint.importers.tables import TableRow, choices_of, column_names, table_rows


def read(
    file: Path, skips: Skips, columns: Columns, *, user: str | None = None, time_format: str | None = None
) -> Rows:
    """Yield the engagements of a table with the ids of their users.

    Args:
        file: The table.
        skips: Counts rows that are left out, by reason.
        columns: The names of its columns.
        user: The column of the users; else the user of rows without one, and the only one to import.
        time_format: How texts write times; None: in any of the known forms.

    Raises:
        BadImport: The table cannot be read, or lacks a column.
    """
    names = column_names(file)
    wanted, everyone = with_user(columns, names, user)
    needed = ("prompt", "response") if everyone else ("prompt", "response", "user")
    found = find_columns(file, wanted, names, needed if names else ())
    builder = RowBuilder(skips, only=everyone, time_format=time_format)
    last = _last_answers(file, found) if found.id else {}
    for row in table_rows(file, skips):
        draft = _draft(row, found)
        number, response = last.get((draft.user, draft.id), (draft.number, ""))
        if number != draft.number and draft.response:
            skips.leave_out(REPEATED if response == draft.response else REPLACED, draft.where)
        elif built := builder.build(draft):
            yield built


def _last_answers(file: Path, columns: Columns) -> dict[tuple[str | None, str], tuple[int, str]]:
    """Return the row and the answer of each user's last answer under an id: a later answer wins."""
    drafts = (_draft(row, columns) for row in table_rows(file, Skips()))
    return {(draft.user, draft.id): (draft.number, draft.response) for draft in drafts if draft.response}


def _draft(row: TableRow, columns: Columns) -> Draft:
    choices = choices_of(row.value(columns.choices))
    return Draft(
        where=row.where,
        number=row.number,
        user=row.text(columns.user) if columns.user else None,
        id=row.text(columns.id) or f"row-{row.number}",
        prompt=prose(row.text(columns.prompt)),
        response=prose(row.text(columns.response)),
        time=row.value(columns.time),
        reason=prose(row.text(columns.reason)),
        choices=None if choices is None else list(dict.fromkeys(map(prose, choices))),
    )
