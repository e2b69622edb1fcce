"""Write rows to a file or folder that appears only when it is complete: JSON Lines, Parquet, or a `datasets` folder.

Rows hold users' texts, so that only their owner may read what is written.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from mindprint.exceptions import MindprintError
from mindprint.private_files import private_umask

FileFormat = Literal["jsonl", "parquet", "datasets"]
"""`datasets`: a folder for `datasets.load_from_disk`."""
EXTRA = "tables"
_ROWS = 500
"""Rows that are held before they are written."""


class RowFileError(MindprintError):
    """The rows cannot be written. The message says what to do."""


def write_rows(rows: Iterable[BaseModel], kind: type[BaseModel], file: Path, form: FileFormat) -> int:
    """Write rows and return how many there were.

    Args:
        rows: The rows.
        kind: Their type, which decides the columns.
        file: The new file, or for `datasets` the new folder.
        form: How they are written.

    Raises:
        RowFileError: A package is missing, the folder exists, or it would be empty.
    """
    if form == "datasets" and file.exists():
        raise RowFileError(f"{file} exists: name a new folder")
    # Beside the file, so that it can be moved to its place at once.
    folder = Path(tempfile.mkdtemp(prefix=f".{file.name}-", dir=file.parent))
    try:
        part = folder / "part"
        with private_umask():
            count = _write_json_lines(rows, part) if form == "jsonl" else _write_parquet(rows, kind, part)
            if form == "datasets":
                if not count:  # datasets 5.2 can neither read such a file nor load such a folder
                    raise RowFileError("there are no rows, and a datasets folder cannot be empty: nothing was written")
                part = _as_dataset(part, folder)
        part.replace(file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return count


def _write_json_lines(rows: Iterable[BaseModel], file: Path) -> int:
    count = 0
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            count += 1
            out.write(f"{row.model_dump_json()}\n")
    return count


def _write_parquet(rows: Iterable[BaseModel], kind: type[BaseModel], file: Path) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise _missing("Parquet", error) from error
    schema = pa.schema([(name, _arrow_type(pa, field.annotation)) for name, field in kind.model_fields.items()])
    count = 0
    with pq.ParquetWriter(file, schema) as writer:
        for part in _parts(iter(rows)):
            count += len(part)
            writer.write_table(pa.Table.from_pylist([_values(row) for row in part], schema=schema))
    return count


def _as_dataset(parquet: Path, folder: Path) -> Path:
    try:
        import datasets
    except ImportError as error:
        raise _missing("a datasets folder", error) from error
    made = folder / "dataset"
    progress = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        found = datasets.Dataset.from_parquet(str(parquet), cache_dir=str(folder / "cache"))
        found.save_to_disk(str(made))
    finally:
        if progress:
            datasets.enable_progress_bars()
    return made


def _missing(what: str, error: ImportError) -> RowFileError:
    return RowFileError(f"{what} needs {error.name or error}: run `pip install 'mindprint[{EXTRA}]'`")


def _parts(rows: Iterator[BaseModel]) -> Iterator[list[BaseModel]]:
    while part := list(islice(rows, _ROWS)):
        yield part


def _values(row: BaseModel) -> dict[str, Any]:
    """Return the values of a row. Objects without fixed keys become JSON texts."""
    values = row.model_dump()
    texts = [name for name, field in type(row).model_fields.items() if _is_object(field.annotation)]
    dumped = row.model_dump(mode="json", include=set(texts))
    return {**values, **{name: _json_or_none(dumped[name]) for name in texts}}


def _json_or_none(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _plain(annotation: Any) -> Any:
    """Return a type without None and without its constraints."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return _plain(next(part for part in get_args(annotation) if part is not NoneType))
    return annotation


def _is_object(annotation: Any) -> bool:
    plain = _plain(annotation)
    return get_origin(plain) is dict or (isinstance(plain, type) and issubclass(plain, BaseModel))


def _arrow_type(pa: Any, annotation: Any) -> Any:
    plain = _plain(annotation)
    if get_origin(plain) is list:
        inner = _plain(get_args(plain)[0])
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            return pa.list_(
                pa.struct([(name, _arrow_type(pa, field.annotation)) for name, field in inner.model_fields.items()])
            )
        return pa.list_(_arrow_type(pa, inner))
    known = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), datetime: pa.timestamp("us", tz="UTC")}
    return known.get(plain, pa.string())
