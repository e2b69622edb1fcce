"""Tell compressed files, spreadsheets and databases from texts by their first bytes."""

from __future__ import annotations

from pathlib import Path

from mindprint.importers.rows import BadImport

_UNPACK = "unpack it, and name the file or the folder in it"
_SAVE = "save its rows as CSV, and name that file"
_SIGNATURES = (
    (b"\x1f\x8b", "compressed (gzip)", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", _UNPACK),
    (b"BZh", "compressed (bzip2)", _UNPACK),
    (b"\xfd7zXZ", "compressed (xz)", _UNPACK),
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet", _SAVE),
    (b"SQLite format 3", "a database", _SAVE),
)
_SPREADSHEETS = (".xlsx", ".xlsm", ".ods")
"""Suffixes of spreadsheets that are zip archives."""


def refuse_packed(path: Path) -> None:
    """Refuse a file that holds no text.

    Raises:
        BadImport: It is compressed, an archive, a spreadsheet or a database. The message says what to do.
    """
    if not path.is_file():
        return
    with path.open("rb") as stream:
        begin = stream.read(16)
    for signature, what, advice in _SIGNATURES:
        if begin.startswith(signature):
            if path.suffix.lower() in _SPREADSHEETS:
                what, advice = "a spreadsheet", _SAVE
            raise BadImport(f"{path}: is {what}: {advice}")
