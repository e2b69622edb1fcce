"""All rows of all tables, for backups: read in one snapshot, written in one transaction.

Rows are of plain JSON, so a backup of one kind of database can be restored into another. The statements are text: they
see every row, whoever's it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Table, TextClause, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint_server.store import migrations
from mindprint_server.store.column_types import Utc
from mindprint_server.store.database import Database
from mindprint_server.store.exceptions import StoreError
from mindprint_server.store.tables import metadata

Row = dict[str, Any]
"""One row as JSON: times are text."""
ROWS_AT_ONCE = 500
SEEDED = frozenset({"cohorts", "tenants"})
"""Tables into which the migrations insert a row."""


@dataclass(frozen=True)
class Snapshot:
    """What was read.

    Attributes:
        revision: The newest migration of the database.
        rows: Number of rows of each table, in the order in which they can be inserted.
        sequences: Last number that each counting column gave out, by table.
    """

    revision: str
    rows: dict[str, int]
    sequences: dict[str, int]


def table_names() -> list[str]:
    """Return the names of the tables that a backup has, in the order in which rows can be inserted."""
    return [table.name for table in _tables()]


class DumpRepository:
    """Reads and writes whole databases."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_all(self, take: Callable[[str, list[Row]], Awaitable[None]]) -> Snapshot:
        """Read all tables as of one moment. Others may go on writing.

        Args:
            take: Gets the name of a table and its next rows, ordered by primary key. It is called at least once for
                each table.

        Raises:
            StoreError: The tables are not of this release.
        """
        return await self._database.read(_read_all, take)

    async def count_rows(self) -> dict[str, int]:
        """Return the number of rows of each table, without those that the migrations insert."""
        return await self._database.read(_count_rows)

    async def write_all(
        self, rows_of: Callable[[str], AsyncIterator[list[Row]]], sequences: Mapping[str, int]
    ) -> dict[str, int]:
        """Fill an empty database in one transaction, and return the number of rows of each table.

        Args:
            rows_of: Returns the rows of a table.
            sequences: From the snapshot: no number is given out a second time.

        Raises:
            StoreError: The database has rows already.
        """
        return await self._database.write(_write_all, rows_of, sequences)


async def _read_all(db: AsyncConnection, take: Callable[[str, list[Row]], Awaitable[None]]) -> Snapshot:
    revision = await db.run_sync(migrations.current)
    if revision != (head := migrations.head()):
        found = "no tables" if revision is None else f"the tables of revision {revision}"
        raise StoreError(f"the database has {found}, this release has {head}: use the release of the server")
    counts = {}
    for table in _tables():
        counts[table.name] = 0
        await take(table.name, [])
        async with db.stream(_select(db, table)) as result:
            async for part in result.mappings().partitions(ROWS_AT_ONCE):
                await take(table.name, [_to_json(dict(row)) for row in part])
                counts[table.name] += len(part)
    return Snapshot(revision, counts, {table.name: await _last_number(db, table) for table in _counting_tables()})


async def _count_rows(db: AsyncConnection) -> dict[str, int]:
    counts = {}
    for table in _tables():
        found = int(await db.scalar(text(f"SELECT count(*) FROM {_quoted(db, table.name)}")))
        counts[table.name] = max(0, found - 1) if table.name in SEEDED else found
    return counts


async def _write_all(
    db: AsyncConnection, rows_of: Callable[[str], AsyncIterator[list[Row]]], sequences: Mapping[str, int]
) -> dict[str, int]:
    if filled := [name for name, count in (await _count_rows(db)).items() if count]:
        raise StoreError(f"the database is not empty ({', '.join(filled)}): restore into a new one")
    for name in SEEDED:
        await db.execute(text(f"DELETE FROM {_quoted(db, name)}"))
    counts = {}
    for table in _tables():
        counts[table.name] = 0
        async for rows in rows_of(table.name):
            if rows:
                await db.execute(insert(table), [_from_json(table, row) for row in rows])
                counts[table.name] += len(rows)
    for table in _counting_tables():
        await _set_last_number(db, table, sequences.get(table.name, 0))
    return counts


def _tables() -> list[Table]:
    """List all tables but those that the database fills itself."""
    return [table for table in metadata.sorted_tables if not table.info.get("derived")]


def _select(db: AsyncConnection, table: Table) -> Any:
    names = ", ".join(_quoted(db, column.name) for column in table.c)
    order = ", ".join(_quoted(db, column.name) for column in table.primary_key)
    return text(f"SELECT {names} FROM {_quoted(db, table.name)} ORDER BY {order}").columns(*table.c)


def _quoted(db: AsyncConnection, name: str) -> str:
    return db.dialect.identifier_preparer.quote(name)


def _to_json(row: Row) -> Row:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}


def _from_json(table: Table, row: Row) -> Row:
    if unknown := row.keys() ^ table.c.keys():
        raise StoreError(f"a row of {table.name} has other columns than the table: {', '.join(sorted(unknown))}")
    times = {column.name for column in table.c if isinstance(column.type, Utc)}
    return {
        name: datetime.fromisoformat(value) if name in times and value is not None else value
        for name, value in row.items()
    }


# --- columns that count: a number that was given out is never given out again, also if its row is gone ---


def _counting_tables() -> list[Table]:
    return [table for table in metadata.sorted_tables if table.dialect_options["sqlite"]["autoincrement"]]


def _counting_column(table: Table) -> str:
    (column,) = table.primary_key
    return column.name


async def _last_number(db: AsyncConnection, table: Table) -> int:
    if db.dialect.name == "sqlite":
        asked: TextClause = text("SELECT seq FROM sqlite_sequence WHERE name = :name").bindparams(name=table.name)
        return int(await db.scalar(asked) or 0)
    sequence = await _sequence(db, table)
    row = (await db.execute(text(f"SELECT last_value, is_called FROM {sequence}"))).one()
    return int(row.last_value) if row.is_called else 0


async def _set_last_number(db: AsyncConnection, table: Table, last: int) -> None:
    newest = await db.scalar(text(f"SELECT max({_counting_column(table)}) FROM {_quoted(db, table.name)}"))
    last = max(last, int(newest or 0))
    if last == 0:
        return
    if db.dialect.name == "sqlite":
        await db.execute(text("DELETE FROM sqlite_sequence WHERE name = :name").bindparams(name=table.name))
        added = text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)")
        await db.execute(added.bindparams(name=table.name, last=last))
    else:
        await db.execute(text("SELECT setval(CAST(:name AS regclass), :last)").bindparams(
            name=await _sequence(db, table), last=last
        ))  # fmt: skip


async def _sequence(db: AsyncConnection, table: Table) -> str:
    asked = text("SELECT pg_get_serial_sequence(:table, :column)")
    return str(await db.scalar(asked.bindparams(table=table.name, column=_counting_column(table))))
