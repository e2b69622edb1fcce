"""Publications: uploaded versions as durable jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

KEY = sa.String(length=160).with_variant(sa.String(length=160, collation="C"), "postgresql")
WORD = sa.String(length=32)
TIME = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table(
        "publications",
        sa.Column("tenant", KEY, nullable=False),
        sa.Column("id", KEY, nullable=False),
        sa.Column("lease_id", KEY, nullable=False),
        sa.Column("adapter", KEY, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("engine_id", sa.Integer(), nullable=False),
        sa.Column("digest", KEY, nullable=False),
        sa.Column("artifact", KEY),
        sa.Column("manifest", JSON),
        sa.Column("state", WORD, nullable=False),
        sa.Column("steps", JSON, nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("code", KEY),
        sa.Column("message", sa.Text()),
        sa.Column("owner", KEY),
        sa.Column("deadline", TIME),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.PrimaryKeyConstraint("tenant", "id", name=op.f("publications_pk")),
        sa.ForeignKeyConstraint(
            ["tenant", "lease_id"], ["leases.tenant", "leases.id"], name=op.f("publications_tenant_lease_id_fk")
        ),
        sa.UniqueConstraint("tenant", "lease_id", name=op.f("publications_tenant_lease_id_key")),
    )
    op.create_index("publications_by_state", "publications", ["tenant", "state", "id"])


def downgrade() -> None:
    op.drop_index("publications_by_state", "publications")
    op.drop_table("publications")
