"""Read Parquet files row by row, with values as the other formats have them: texts, numbers, times, lists, objects."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from mindprint.importers.rows import BadImport, missing

_ROWS = 1024
"""Rows that are held at a time."""


class Unreadable:
    """Stands for a value that Python cannot hold, such as a time in the year 10,000."""

    def __str__(self) -> str:
        return "a value that cannot be read"


def parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file.

    Raises:
        BadImport: The file cannot be read, or pyarrow is missing.
    """
    number = 0
    try:
        for batch in _open(file).iter_batches(batch_size=_ROWS):
            columns = [_values(column) for column in batch.columns]
            for values in zip(*columns, strict=True):
                number += 1
                yield dict(zip(batch.schema.names, values, strict=True))
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise BadImport(f"{file}: row {number + 1}: is no Parquet ({_line(error)})") from error


def parquet_columns(file: Path) -> list[str]:
    """Return the names of the columns of a Parquet file.

    Raises:
        BadImport: The file cannot be read, pyarrow is missing, or two columns have one name.
    """
    names: list[str] = list(_open(file).schema_arrow.names)
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise BadImport(f"{file}: has two columns {doubled!r}: rename one")
    return names


def _values(column: Any) -> list[Any]:
    """Return the values of a column. What Python cannot hold costs its row, not the file."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    try:
        return [_plain(value) for value in column.to_pylist()]
    except (ValueError, OverflowError):
        return [_value(cell) for cell in column]


def _value(cell: Any) -> Any:
    try:
        return _plain(cell.as_py())
    except (ValueError, OverflowError):
        return Unreadable()


def _plain(value: Any) -> Any:
    """Return a value in one of the forms that JSON has. Databases write whole numbers as decimals."""
    if missing(value):
        return None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, dict) else value


def _open(file: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise BadImport(f"{file}: Parquet needs pyarrow: run `pip install 'mindprint[tables]'`") from error
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (OSError, ValueError) as error:
        raise BadImport(f"{file}: is no Parquet ({_line(error)})") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
