"""Cohorts, which versions a trace is in, hold-outs and starts of leases, what the gate found, candidates, replays."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.String(length=160).with_variant(sa.String(length=160, collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _cohorts()
    op.add_column("leases", sa.Column("held_out", sa.JSON(), server_default="{}", nullable=False))
    op.add_column("leases", sa.Column("fast", sa.JSON(), server_default="{}", nullable=False))
    op.add_column("leases", sa.Column("start", sa.JSON(), nullable=True))
    op.add_column("versions", sa.Column("checks", sa.JSON(), server_default="[]", nullable=False))
    op.add_column("versions", sa.Column("pinned", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("versions", sa.Column("files", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.add_column("versions", sa.Column("start", KEY, nullable=True))
    with op.batch_alter_table("live_versions") as live:
        live.alter_column("version", existing_type=sa.Integer(), nullable=True)
        live.add_column(sa.Column("candidate", sa.Integer(), nullable=True))
        live.add_column(sa.Column("share", sa.Float(), nullable=True))
        live.create_foreign_key(
            op.f("live_versions_adapter_candidate_fk"), "versions", ["adapter", "candidate"], ["adapter", "version"]
        )
        live.create_check_constraint(op.f("live_versions_candidate_has_share"), "(candidate IS NULL) = (share IS NULL)")
    _trace_versions()
    op.create_table(
        "replays",
        sa.Column("base_digest", KEY, nullable=False),
        sa.Column("prompt_version", KEY, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("thinking", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("base_digest", "prompt_version", "position", name=op.f("replays_pk")),
    )


def _cohorts() -> None:
    cohorts = op.create_table(
        "cohorts",
        sa.Column("name", KEY, nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("cohorts_pk")),
    )
    everyone = {
        "name": "everyone",
        "description": "All users who are in no other cohort.",
        "created_at": datetime.now(UTC),
    }
    op.bulk_insert(cohorts, [everyone])
    # By hand: alembic would copy `users` on SQLite, which foreign keys that point at it forbid.
    type = 'VARCHAR(160) COLLATE "C"' if _on("postgresql") else "VARCHAR(160)"
    op.execute(f"ALTER TABLE users ADD COLUMN cohort {type} CONSTRAINT users_cohort_fk REFERENCES cohorts (name)")
    op.create_index("users_by_cohort", "users", ["cohort", "id"])


def _trace_versions() -> None:
    op.create_table(
        "trace_versions",
        sa.Column("trace_id", KEY, nullable=False),
        sa.Column("adapter", KEY, nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["trace_id"], ["traces.id"], name=op.f("trace_versions_trace_id_fk")),
        sa.ForeignKeyConstraint(
            ["adapter", "version"],
            ["versions.adapter", "versions.version"],
            name=op.f("trace_versions_adapter_version_fk"),
        ),
        sa.PrimaryKeyConstraint("trace_id", "adapter", "version", name=op.f("trace_versions_pk")),
    )
    op.create_index("trace_versions_by_version", "trace_versions", ["adapter", "version"])
    # What a lease listed is what its version was trained on, whether that passed or not.
    listed = "json_array_elements_text(leases.trace_ids) AS listed (value)"
    if not _on("postgresql"):
        listed = "json_each(leases.trace_ids) AS listed"
    op.execute(
        "INSERT INTO trace_versions (trace_id, adapter, version)"
        " SELECT traces.id, versions.adapter, versions.version"
        f" FROM versions JOIN leases ON leases.id = versions.lease_id CROSS JOIN {listed}"
        " JOIN traces ON traces.id = listed.value"
    )


def downgrade() -> None:
    op.drop_table("replays")
    op.drop_table("trace_versions")
    op.execute("DELETE FROM live_versions WHERE version IS NULL")
    with op.batch_alter_table("live_versions") as live:
        live.drop_constraint(op.f("live_versions_candidate_has_share"), type_="check")
        live.drop_constraint(op.f("live_versions_adapter_candidate_fk"), type_="foreignkey")
        live.drop_column("share")
        live.drop_column("candidate")
        live.alter_column("version", existing_type=sa.Integer(), nullable=False)
    for name in ("start", "files", "pinned", "checks"):
        op.drop_column("versions", name)
    for name in ("start", "fast", "held_out"):
        op.drop_column("leases", name)
    op.drop_index("users_by_cohort", "users")
    if _on("postgresql"):
        op.drop_column("users", "cohort")
    else:
        _users_without_cohort()
    op.drop_table("cohorts")


def _users_without_cohort() -> None:
    """SQLite drops no column that a foreign key is on: the table is made anew, and its rows put back into it.

    Only rows that come back under the same table name settle what the drop leaves open with the tables that refer to
    them, so the copy is the one that goes.
    """
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute("CREATE TABLE users_kept AS SELECT id, created_at FROM users")
    op.drop_table("users")
    op.create_table(
        "users",
        sa.Column("id", KEY, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("users_pk")),
    )
    op.execute("INSERT INTO users SELECT id, created_at FROM users_kept")
    op.execute("DROP TABLE users_kept")


def _on(dialect: str) -> bool:
    return op.get_context().dialect.name == dialect
