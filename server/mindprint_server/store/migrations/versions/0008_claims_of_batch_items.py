"""Items of batches are claimed by one server each, until a deadline."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

KEY = sa.String(length=160).with_variant(sa.String(length=160, collation="C"), "postgresql")
CLAIMED = sa.text("owner IS NOT NULL")


def upgrade() -> None:
    op.add_column("batch_items", sa.Column("owner", KEY))
    op.add_column("batch_items", sa.Column("deadline", sa.DateTime(timezone=True)))
    op.create_index(
        "batch_items_claimed",
        "batch_items",
        ["tenant", "batch_id", "user_id"],
        sqlite_where=CLAIMED,
        postgresql_where=CLAIMED,
    )


def downgrade() -> None:
    op.drop_index("batch_items_claimed", "batch_items")
    op.drop_column("batch_items", "deadline")
    op.drop_column("batch_items", "owner")
