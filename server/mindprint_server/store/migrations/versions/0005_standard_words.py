"""Standard words in the data: states, columns, and keys inside JSON. No row is added or removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

PAGE = 1000
"""Rows whose JSON is read and written at once."""

STATES = {"kept": "stored", "dead": "dead_letter"}
OUTCOMES = {"little_precedent": "rare_answer", "out_of_reach": "prior_too_low"}
"""Why an item of a batch was left out."""
COLUMNS = [
    ("versions", "canary", "parity"),
    ("live_versions", "candidate", "canary"),
    ("live_versions", "share", "canary_share"),
]
CONSTRAINTS = [
    ("live_versions", "live_versions_candidate_has_share", "live_versions_canary_has_share"),
    ("live_versions", "live_versions_adapter_candidate_fk", "live_versions_adapter_canary_fk"),
]
SAMPLING = {"opening": "thinking_prefix", "answer_lead": "answer_prefix"}
PROVENANCE = {"route": "mode_reason"}
MANIFEST = {"canary": "parity_items"}
REQUEST = {"draw": "candidates_per_round", "blind": "unhinted", "thorough": "exhaustive"}
WRITERS = {"given": "imported"}
"""What stands for the model, or for the thinking, of a trace that was not written here."""


def upgrade() -> None:
    _rename(forwards=True)


def downgrade() -> None:
    _rename(forwards=False)


def _rename(*, forwards: bool) -> None:
    def turned(words: Mapping[str, str]) -> dict[str, str]:
        return dict(words) if forwards else {new: old for old, new in words.items()}

    states = turned(STATES)
    _drop_check_on_states()
    for old, new in states.items():
        op.execute(sa.text("UPDATE traces SET state = :new WHERE state = :old").bindparams(old=old, new=new))
    _check_states("stored" if forwards else "kept")
    for old, new in turned(OUTCOMES).items():
        op.execute(sa.text("UPDATE batch_items SET outcome = :new WHERE outcome = :old").bindparams(old=old, new=new))
    for table, old, new in COLUMNS:
        old, new = (old, new) if forwards else (new, old)
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")
    for table, old, new in CONSTRAINTS:
        _rename_constraint(table, *((old, new) if forwards else (new, old)))
    sampling, provenance, writers = turned(SAMPLING), turned(PROVENANCE), turned(WRITERS)

    def of_trace(value: dict[str, Any]) -> dict[str, Any]:
        changed = _keys(value, provenance)
        if isinstance(inner := changed.get("sampling"), dict):
            inner = _keys(inner, sampling)
            if "thinking" in inner:
                inner["thinking"] = writers.get(inner["thinking"], inner["thinking"])
            changed["sampling"] = inner
        if "model" in changed:
            changed["model"] = writers.get(changed["model"], changed["model"])
        return changed

    _rewrite("traces", ("id",), "provenance", of_trace)
    _rewrite("versions", ("adapter", "version"), "manifest", lambda value: _keys(value, turned(MANIFEST)))
    _rewrite("batches", ("id",), "request", lambda value: _keys(value, turned(REQUEST)))


def _keys(value: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): item for key, item in value.items()}


def _rewrite(name: str, keys: tuple[str, ...], column: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change a JSON object in every row of a table, a page of rows at a time, by primary key."""
    table = sa.table(name, *(sa.column(key) for key in keys), sa.column(column, sa.JSON()))
    for page in _pages(table, keys, column):
        for row in page:
            value = getattr(row, column)
            if isinstance(value, str):
                value = json.loads(value)
            if (changed := change(value)) != value:
                same = [table.c[key] == getattr(row, key) for key in keys]
                op.get_bind().execute(sa.update(table).where(*same).values({column: changed}))


def _pages(table: sa.TableClause, keys: tuple[str, ...], column: str) -> Iterator[list[Any]]:
    key = sa.tuple_(*(table.c[name] for name in keys))
    last: tuple[Any, ...] | None = None
    while True:
        query = sa.select(*(table.c[name] for name in keys), table.c[column]).order_by(
            *(table.c[name] for name in keys)
        )
        if last is not None:
            query = query.where(key > sa.tuple_(*(sa.literal(value) for value in last)))
        page = list(op.get_bind().execute(query.limit(PAGE)))
        if not page:
            return
        yield page
        last = tuple(getattr(page[-1], name) for name in keys)


def _drop_check_on_states() -> None:
    if _on("postgresql"):
        op.drop_constraint(op.f("traces_only_accepted_queue"), "traces", type_="check")
    else:
        # Both words pass while rows are changed; `_check_states` leaves one.
        _edit_sqlite_schema("traces", lambda sql: _checked(sql, "state IN ('kept', 'stored') OR verdict = 'accepted'"))


def _check_states(word: str) -> None:
    condition = f"state = '{word}' OR verdict = 'accepted'"
    if _on("postgresql"):
        op.create_check_constraint(op.f("traces_only_accepted_queue"), "traces", condition)
    else:
        _edit_sqlite_schema("traces", lambda sql: _checked(sql, condition))


def _checked(sql: str, condition: str) -> str:
    """Return the table's SQL with another condition of the constraint `traces_only_accepted_queue`."""
    begin = sql.index("CHECK", sql.index("traces_only_accepted_queue"))
    depth, end = 0, sql.index("(", begin)
    while True:
        depth += {"(": 1, ")": -1}.get(sql[end], 0)
        end += 1
        if depth == 0:
            return f"{sql[:begin]}CHECK ({condition}){sql[end:]}"


def _rename_constraint(table: str, old: str, new: str) -> None:
    if _on("postgresql"):
        op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}")
    else:
        _edit_sqlite_schema(table, lambda sql: sql.replace(old, new))


def _edit_sqlite_schema(table: str, change: Callable[[str], str]) -> None:
    """Change the SQL that SQLite keeps of a table, for constraints alone.

    SQLite cannot alter a constraint, and a table that others refer to cannot be made anew inside a transaction. Its
    documentation names this way for changes that leave the rows on disk as they are.
    """
    db = op.get_bind()
    query = sa.text("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = :name")
    sql = str(db.execute(query, {"name": table}).scalar_one())
    number = int(db.exec_driver_sql("PRAGMA schema_version").scalar_one())
    db.exec_driver_sql("PRAGMA writable_schema = ON")
    update = sa.text("UPDATE sqlite_schema SET sql = :sql WHERE type = 'table' AND name = :name")
    db.execute(update, {"sql": change(sql), "name": table})
    db.exec_driver_sql(f"PRAGMA schema_version = {number + 1}")
    db.exec_driver_sql("PRAGMA writable_schema = RESET")


def _on(dialect: str) -> bool:
    return op.get_context().dialect.name == dialect
