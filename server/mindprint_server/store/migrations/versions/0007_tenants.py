"""Tenants: a column in every table of users' data, first in its keys. The rows of before are those of `default`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

KEY = sa.String(length=160).with_variant(sa.String(length=160, collation="C"), "postgresql")
DEFAULT = "default"
ACTIVE = sa.text("state = 'active'")

Names = Sequence[str]


class Change(NamedTuple):
    """The keys of a table that a tenant is added to. Columns are named without it."""

    primary: Names | None = None
    unique: Names | None = None
    foreign: Sequence[tuple[Names, str, Names]] = ()
    """Columns, the table that they refer to, and its columns."""


OF_USER = (["user_id"], "users", ["id"])
OF_ENGAGEMENT = (["user_id", "engagement_id"], "engagements", ["user_id", "id"])
OF_BATCH = (["batch_id"], "batches", ["id"])
OF_LEASE = (["lease_id"], "leases", ["id"])
VERSION = ["adapter", "version"]
# A table comes after those that it refers to.
TABLES = {
    "cohorts": Change(primary=["name"]),
    "users": Change(primary=["id"], foreign=[(["cohort"], "cohorts", ["name"])]),
    "engagements": Change(primary=["user_id", "id"], foreign=[OF_USER]),
    "profiles": Change(primary=["user_id", "version"], foreign=[OF_USER]),
    "batches": Change(primary=["id"], unique=["idempotency_key"]),
    "batch_items": Change(
        primary=["batch_id", "position"],
        unique=["batch_id", "user_id", "engagement_id"],
        foreign=[OF_BATCH, OF_ENGAGEMENT],
    ),
    "leases": Change(primary=["id"]),
    "traces": Change(primary=["id"], foreign=[OF_USER, OF_ENGAGEMENT, OF_BATCH, OF_LEASE]),
    "version_numbers": Change(unique=VERSION),
    "versions": Change(primary=VERSION, unique=["lease_id"], foreign=[(VERSION, "version_numbers", VERSION), OF_LEASE]),
    "trace_versions": Change(
        primary=["trace_id", "adapter", "version"],
        foreign=[(VERSION, "versions", VERSION), (["trace_id"], "traces", ["id"])],
    ),
    "live_versions": Change(
        primary=["adapter"],
        foreign=[(VERSION, "versions", VERSION), (["adapter", "canary"], "versions", VERSION)],
    ),
}
INDEXES = {
    "users_by_cohort": ("users", ["cohort", "id"]),
    "engagements_by_time": ("engagements", ["user_id", "occurred_at", "id"]),
    "batches_by_state": ("batches", ["state", "id"]),
    "batch_items_by_outcome": ("batch_items", ["batch_id", "outcome", "position"]),
    "leases_by_deadline": ("leases", ["state", "deadline"]),
    "leases_one_active": ("leases", ["adapter"]),
    "traces_queue": ("traces", ["state", "adapter", "id"]),
    "traces_of_lease": ("traces", ["lease_id", "id"]),
    "traces_of_engagement": ("traces", ["user_id", "engagement_id", "verdict", "id", "state"]),
    "traces_of_user": ("traces", ["user_id", "id"]),
    "traces_of_batch": ("traces", ["batch_id", "id"]),
    "traces_counts_of_user": ("traces", ["user_id", "verdict", "reason", "state", "adapter", "version"]),
    "traces_counts_of_batch": ("traces", ["batch_id", "verdict", "reason", "state", "adapter", "version"]),
    "trace_versions_by_version": ("trace_versions", ["adapter", "version"]),
}


def upgrade() -> None:
    tenants = op.create_table(
        "tenants",
        sa.Column("id", KEY, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("tenants_pk")),
    )
    op.bulk_insert(tenants, [{"id": DEFAULT, "created_at": datetime.now(UTC)}])
    with op.batch_alter_table("api_keys") as keys:
        keys.add_column(sa.Column("tenant", KEY, nullable=False, server_default=DEFAULT))
    with op.batch_alter_table("api_keys") as keys:
        keys.alter_column("tenant", existing_type=KEY, existing_nullable=False, server_default=None)
        keys.create_foreign_key(op.f("api_keys_tenant_fk"), "tenants", ["tenant"], ["id"])
    _change(forwards=True)


def downgrade() -> None:
    others = sa.text("SELECT count(*) FROM tenants WHERE id <> :default").bindparams(default=DEFAULT)
    if op.get_bind().execute(others).scalar_one():
        raise RuntimeError("there are tenants beside `default`: an older release cannot keep them apart")
    _change(forwards=False)
    with op.batch_alter_table("api_keys") as keys:
        keys.drop_constraint(op.f("api_keys_tenant_fk"), type_="foreignkey")
        keys.drop_column("tenant")
    op.drop_table("tenants")


def _change(*, forwards: bool) -> None:
    if op.get_context().dialect.name == "postgresql":
        _alter(forwards=forwards)
    else:
        _make_anew(forwards=forwards)
    for name, (table, columns) in INDEXES.items():
        active: dict[str, Any] = {}
        if name == "leases_one_active":
            active = {"sqlite_where": ACTIVE, "postgresql_where": ACTIVE, "unique": True}
        op.create_index(name, table, _named(columns, forwards), **active)


def _alter(*, forwards: bool) -> None:
    """Change the tables of PostgreSQL in place."""
    for name, (table, _) in INDEXES.items():
        op.drop_index(name, table)
    if forwards:
        for table in TABLES:
            op.add_column(table, sa.Column("tenant", KEY, nullable=False, server_default=DEFAULT))
            op.alter_column(table, "tenant", server_default=None)
    for table, name, _, _, _ in _foreign_keys(not forwards):
        op.drop_constraint(name, table, type_="foreignkey")
    for table, change in TABLES.items():
        if change.primary:
            op.drop_constraint(op.f(f"{table}_pk"), table, type_="primary")
            op.create_primary_key(op.f(f"{table}_pk"), table, _named(change.primary, forwards))
        if change.unique:
            op.drop_constraint(op.f(_key(table, change.unique, not forwards, "key")), table, type_="unique")
            name = op.f(_key(table, change.unique, forwards, "key"))
            op.create_unique_constraint(name, table, _named(change.unique, forwards))
    if not forwards:
        for table in TABLES:
            op.drop_column(table, "tenant")
    for table, name, columns, referred, theirs in _foreign_keys(forwards):
        op.create_foreign_key(name, table, referred, columns, theirs)


def _make_anew(*, forwards: bool) -> None:
    """Make the tables of SQLite anew: it cannot alter their keys.

    Tables go before those that they refer to, and come back after them, so no row ever refers to nothing.
    """
    bind = op.get_bind()
    old = sa.MetaData()
    old.reflect(bind, only=list(TABLES))
    new = sa.MetaData()
    for name in TABLES:
        _new_table(old.tables[name], new, forwards)
        op.execute(f"CREATE TABLE {name}_old AS SELECT * FROM {name}")
    for name in reversed(TABLES):
        op.drop_table(name)
    for name in TABLES:
        new.tables[name].create(bind)
        kept = ", ".join(column.name for column in old.tables[name].columns if column.name != "tenant")
        tenant, value = ("tenant, ", f"'{DEFAULT}', ") if forwards else ("", "")
        op.execute(f"INSERT INTO {name} ({tenant}{kept}) SELECT {value}{kept} FROM {name}_old")
        op.execute(f"DROP TABLE {name}_old")


def _new_table(old: sa.Table, metadata: sa.MetaData, forwards: bool) -> sa.Table:
    change = TABLES[old.name]
    columns: list[Any] = [
        sa.Column(
            column.name,
            column.type,
            nullable=column.nullable,
            server_default=column.server_default,
            autoincrement="auto" if old.name == "version_numbers" else False,
        )
        for column in old.columns
        if column.name != "tenant"
    ]
    if forwards:
        columns.insert(0, sa.Column("tenant", KEY, nullable=False))
    primary = _named(change.primary, forwards) if change.primary else list(old.primary_key.columns.keys())
    keys: list[Any] = [sa.PrimaryKeyConstraint(*primary, name=op.f(f"{old.name}_pk"))]
    if change.unique:
        keys.append(
            sa.UniqueConstraint(
                *_named(change.unique, forwards), name=op.f(_key(old.name, change.unique, forwards, "key"))
            )
        )
    # By their columns: SQLite does not tell the names of all keys.
    changed = [mine for table, _, mine, *_ in _foreign_keys(not forwards) if table == old.name]
    changed += [_named(change.unique, not forwards)] if change.unique else []
    for constraint in old.constraints:
        if isinstance(constraint, sa.PrimaryKeyConstraint):
            continue
        if list(getattr(constraint, "columns", {}).keys()) in changed:
            continue
        if isinstance(constraint, sa.ForeignKeyConstraint):
            theirs = [element.target_fullname for element in constraint.elements]
            keys.append(sa.ForeignKeyConstraint(constraint.column_keys, theirs, name=op.f(str(constraint.name))))
        elif isinstance(constraint, sa.CheckConstraint):
            keys.append(sa.CheckConstraint(constraint.sqltext, name=op.f(str(constraint.name))))
        elif isinstance(constraint, sa.UniqueConstraint):
            keys.append(sa.UniqueConstraint(*constraint.columns.keys(), name=op.f(str(constraint.name))))
    for table, name, mine, referred, referred_columns in _foreign_keys(forwards):
        if table == old.name:
            theirs = [f"{referred}.{column}" for column in referred_columns]
            keys.append(sa.ForeignKeyConstraint(mine, theirs, name=op.f(name)))
    return sa.Table(old.name, metadata, *columns, *keys, sqlite_autoincrement=old.name == "version_numbers")


def _foreign_keys(with_tenant: bool) -> Iterator[tuple[str, str, list[str], str, list[str]]]:
    """Yield each foreign key that changes: table, name, columns, the table referred to, its columns."""
    for table, change in TABLES.items():
        for columns, referred, theirs in change.foreign:
            name = _key(table, columns, with_tenant, "fk")
            yield table, name, _named(columns, with_tenant), referred, _named(theirs, with_tenant)


def _named(columns: Names, with_tenant: bool) -> list[str]:
    return ["tenant", *columns] if with_tenant else list(columns)


def _key(table: str, columns: Names, with_tenant: bool, kind: str) -> str:
    return "_".join([table, *_named(columns, with_tenant), kind])
