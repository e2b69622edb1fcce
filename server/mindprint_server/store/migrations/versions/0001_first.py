"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

KEY = sa.String(length=160).with_variant(sa.String(length=160, collation="C"), "postgresql")
WORD = sa.String(length=32)
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", KEY, nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("idempotency_key", KEY, nullable=True),
        sa.Column("generated_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cached_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("busy_seconds", sa.Float(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("batches_pk")),
        sa.UniqueConstraint("idempotency_key", name=op.f("batches_idempotency_key_key")),
    )
    op.create_index("batches_by_state", "batches", ["state", "id"], unique=False)
    op.create_table(
        "leases",
        sa.Column("id", KEY, nullable=False),
        sa.Column("adapter", KEY, nullable=False),
        sa.Column("owner", KEY, nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("deadline", TIME, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("trace_ids", sa.JSON(), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("leases_pk")),
    )
    op.create_index("leases_by_deadline", "leases", ["state", "deadline"], unique=False)
    op.create_index(
        "leases_one_active",
        "leases",
        ["adapter"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_table(
        "users",
        sa.Column("id", KEY, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("users_pk")),
    )
    op.create_table(
        "version_numbers",
        sa.Column("engine_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("adapter", KEY, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("engine_id", name=op.f("version_numbers_pk")),
        sa.UniqueConstraint("adapter", "version", name=op.f("version_numbers_adapter_version_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "engagements",
        sa.Column("user_id", KEY, nullable=False),
        sa.Column("id", KEY, nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("occurred_at", TIME, nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("choices", sa.JSON(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("engagements_user_id_fk")),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("engagements_pk")),
    )
    op.create_index("engagements_by_time", "engagements", ["user_id", "occurred_at", "id"], unique=False)
    op.create_table(
        "profiles",
        sa.Column("user_id", KEY, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("covers", sa.Integer(), server_default="0", nullable=False),
        sa.Column("covers_until", TIME, nullable=False),
        sa.Column("prompt_version", KEY, nullable=False),
        sa.Column("base_digest", KEY, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("profiles_user_id_fk")),
        sa.PrimaryKeyConstraint("user_id", "version", name=op.f("profiles_pk")),
    )
    op.create_table(
        "versions",
        sa.Column("adapter", KEY, nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("lease_id", KEY, nullable=False),
        sa.Column("refused", sa.Boolean(), nullable=False),
        sa.Column("digest", KEY, nullable=False),
        sa.Column("base_digest", KEY, nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("traces", sa.Integer(), server_default="0", nullable=False),
        sa.Column("canary", sa.JSON(), nullable=True),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter", "version"],
            ["version_numbers.adapter", "version_numbers.version"],
            name=op.f("versions_adapter_version_fk"),
        ),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name=op.f("versions_lease_id_fk")),
        sa.PrimaryKeyConstraint("adapter", "version", name=op.f("versions_pk")),
        sa.UniqueConstraint("lease_id", name=op.f("versions_lease_id_key")),
    )
    op.create_table(
        "batch_items",
        sa.Column("batch_id", KEY, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("user_id", KEY, nullable=False),
        sa.Column("engagement_id", KEY, nullable=False),
        sa.Column("outcome", KEY, nullable=True),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("batch_items_batch_id_fk")),
        sa.ForeignKeyConstraint(
            ["user_id", "engagement_id"],
            ["engagements.user_id", "engagements.id"],
            name=op.f("batch_items_user_id_engagement_id_fk"),
        ),
        sa.PrimaryKeyConstraint("batch_id", "position", name=op.f("batch_items_pk")),
        sa.UniqueConstraint(
            "batch_id", "user_id", "engagement_id", name=op.f("batch_items_batch_id_user_id_engagement_id_key")
        ),
    )
    op.create_index("batch_items_by_outcome", "batch_items", ["batch_id", "outcome", "position"], unique=False)
    op.create_table(
        "live_versions",
        sa.Column("adapter", KEY, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter", "version"],
            ["versions.adapter", "versions.version"],
            name=op.f("live_versions_adapter_version_fk"),
        ),
        sa.PrimaryKeyConstraint("adapter", name=op.f("live_versions_pk")),
    )
    op.create_table(
        "traces",
        sa.Column("id", KEY, nullable=False),
        sa.Column("user_id", KEY, nullable=False),
        sa.Column("engagement_id", KEY, nullable=True),
        sa.Column("batch_id", KEY, nullable=True),
        sa.Column("adapter", KEY, nullable=False),
        sa.Column("mode", WORD, nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("thinking", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("choice_logprobs", sa.JSON(), nullable=True),
        sa.Column("verdict", WORD, nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("lease_id", KEY, nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cached_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("thinking_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("finish", KEY, nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.CheckConstraint("(state = 'trained') = (version IS NOT NULL)", name=op.f("traces_trained_in_one_version")),
        sa.CheckConstraint("state <> 'leased' OR lease_id IS NOT NULL", name=op.f("traces_leased_by_a_lease")),
        sa.CheckConstraint("state = 'kept' OR verdict = 'accepted'", name=op.f("traces_only_accepted_queue")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("traces_batch_id_fk")),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name=op.f("traces_lease_id_fk")),
        sa.ForeignKeyConstraint(
            ["user_id", "engagement_id"],
            ["engagements.user_id", "engagements.id"],
            name=op.f("traces_user_id_engagement_id_fk"),
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("traces_user_id_fk")),
        sa.PrimaryKeyConstraint("id", name=op.f("traces_pk")),
    )
    op.create_index(
        "traces_counts_of_batch",
        "traces",
        ["batch_id", "verdict", "reason", "state", "adapter", "version"],
        unique=False,
    )
    op.create_index(
        "traces_counts_of_user", "traces", ["user_id", "verdict", "reason", "state", "adapter", "version"], unique=False
    )
    op.create_index("traces_of_batch", "traces", ["batch_id", "id"], unique=False)
    op.create_index("traces_of_engagement", "traces", ["user_id", "engagement_id", "verdict", "id"], unique=False)
    op.create_index("traces_of_lease", "traces", ["lease_id", "id"], unique=False)
    op.create_index("traces_of_user", "traces", ["user_id", "id"], unique=False)
    op.create_index("traces_queue", "traces", ["state", "adapter", "id"], unique=False)
