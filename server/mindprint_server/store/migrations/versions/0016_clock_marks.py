"""What the clock of deadlines showed last, on SQLite."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

KEY = sa.String(length=160).with_variant(sa.String(length=160, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "clock_marks",
        sa.Column("name", KEY, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("boot_id", KEY),
        sa.Column("boot_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("clock_marks_pk")),
    )


def downgrade() -> None:
    op.drop_table("clock_marks")
