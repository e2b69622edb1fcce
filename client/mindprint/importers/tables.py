"""Read rows of tables with named columns: CSV, TSV, Parquet and JSON Lines."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindprint.importers.delimited import header, records
from mindprint.importers.json_rows import json_rows
from mindprint.importers.parquet import parquet_columns, parquet_rows
from mindprint.importers.rows import Skips, text

PARQUET = (".parquet", ".pq")
DELIMITED = (".csv", ".tsv", ".tab")


@dataclass(frozen=True)
class TableRow:
    """A row: where it stands, its number from 1, and its values by column."""

    where: str
    number: int
    data: Mapping[str, Any]

    def value(self, column: str | None) -> Any:
        """Return the value of a column; `a.b` is field `b` of column `a`. None if there is no such value."""
        if column is None or column in self.data:
            return None if column is None else self.data[column]
        found: Any = self.data
        for part in column.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def text(self, column: str | None) -> str:
        """Return the value of a column as text: true and false for truth values, empty for none."""
        value = self.value(column)
        return str(value).lower() if isinstance(value, bool) else text(value)


def table_rows(file: Path, skips: Skips) -> Iterator[TableRow]:
    """Yield the rows of a table.

    Args:
        file: Parquet or delimited text by its suffix, else JSON Lines or a JSON array.
        skips: Counts the rows that cannot be read.

    Raises:
        BadImport: The file cannot be read, or pyarrow is missing for Parquet.
    """
    if file.suffix.lower() in PARQUET:
        for number, data in enumerate(parquet_rows(file), 1):
            yield TableRow(f"{file}: row {number}", number, data)
    elif file.suffix.lower() in DELIMITED:
        for number, record in enumerate(records(file, skips), 1):
            yield TableRow(record.where, number, record.cells)
    else:
        for row in json_rows(file, skips):
            yield TableRow(row.where, row.number, row.data)


def column_names(file: Path) -> list[str]:
    """Return the names of a table's columns; of JSON rows, the keys of the first one.

    Raises:
        BadImport: The file cannot be read, or pyarrow is missing for Parquet.
    """
    if file.suffix.lower() in PARQUET:
        return parquet_columns(file)
    if file.suffix.lower() in DELIMITED:
        return header(file)
    first = next(table_rows(file, Skips()), None)
    return list(first.data) if first else []


def choices_of(value: object) -> list[str] | None:
    """Read a list of choices: a list, or a text that holds one as JSON, as Python writes it, or with bars between."""
    if isinstance(value, str):
        value = value.strip()
        parsed = _parsed_list(value) if value.startswith("[") else None
        value = parsed if parsed is not None else value.split("|") if "|" in value else []
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return None
    choices = [choice for each in value if (choice := text(each))]
    return choices or None


def _parsed_list(value: str) -> list[Any] | None:
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, list):
            return found
    return None


def parsed(value: object) -> Any:
    """Return a list of objects that a cell of delimited text holds as JSON; other values as they are."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        return _parsed_list(value.strip()) or value
    return value
