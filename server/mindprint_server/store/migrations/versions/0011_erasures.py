"""Erasures: jobs with receipts, the users that each version learned from, revoked leases, withdrawn versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

KEY = sa.String(length=160).with_variant(sa.String(length=160, collation="C"), "postgresql")
WORD = sa.String(length=32)
TIME = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.add_column("tenants", sa.Column("erasure_epoch", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("leases", sa.Column("revoked_by", KEY))
    op.add_column("versions", sa.Column("erasure_id", KEY))
    op.create_table(
        "erasures",
        sa.Column("tenant", KEY, nullable=False),
        sa.Column("id", KEY, nullable=False),
        sa.Column("kind", WORD, nullable=False),
        sa.Column("user_id", KEY, nullable=False),
        sa.Column("engagement_id", KEY),
        sa.Column("after", TIME),
        sa.Column("before", TIME),
        sa.Column("traces_before", TIME),
        sa.Column("state", WORD, nullable=False),
        sa.Column("plan", JSON),
        sa.Column("epoch", sa.Integer()),
        sa.Column("receipt", JSON),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.PrimaryKeyConstraint("tenant", "id", name=op.f("erasures_pk")),
    )
    op.create_index("erasures_by_state", "erasures", ["tenant", "state", "id"])
    op.create_index("erasures_of_user", "erasures", ["tenant", "user_id", "id"])
    op.create_index("erasures_by_epoch", "erasures", ["tenant", "epoch"])
    op.create_table(
        "version_users",
        sa.Column("tenant", KEY, nullable=False),
        sa.Column("user_id", KEY, nullable=False),
        sa.Column("adapter", KEY, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("tenant", "user_id", "adapter", "version", name=op.f("version_users_pk")),
        sa.ForeignKeyConstraint(
            ["tenant", "adapter", "version"],
            ["versions.tenant", "versions.adapter", "versions.version"],
            name=op.f("version_users_tenant_adapter_version_fk"),
        ),
    )
    op.create_index("version_users_by_version", "version_users", ["tenant", "adapter", "version"])
    op.create_index("batch_items_of_engagement", "batch_items", ["tenant", "user_id", "engagement_id"])
    op.execute(
        "INSERT INTO version_users (tenant, user_id, adapter, version) "
        "SELECT DISTINCT traces.tenant, traces.user_id, trace_versions.adapter, trace_versions.version "
        "FROM trace_versions JOIN traces "
        "ON traces.tenant = trace_versions.tenant AND traces.id = trace_versions.trace_id"
    )


def downgrade() -> None:
    op.drop_index("batch_items_of_engagement", "batch_items")
    op.drop_index("version_users_by_version", "version_users")
    op.drop_table("version_users")
    op.drop_index("erasures_by_epoch", "erasures")
    op.drop_index("erasures_of_user", "erasures")
    op.drop_index("erasures_by_state", "erasures")
    op.drop_table("erasures")
    op.drop_column("versions", "erasure_id")
    op.drop_column("leases", "revoked_by")
    op.drop_column("tenants", "erasure_epoch")
