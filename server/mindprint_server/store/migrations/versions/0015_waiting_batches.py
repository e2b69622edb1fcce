"""Batches say which key started them, and why they wait."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

KEY = sa.String(length=160).with_variant(sa.String(length=160, collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("batches", sa.Column("api_key", KEY))
    op.add_column("batches", sa.Column("waiting_for", sa.Text()))


def downgrade() -> None:
    op.drop_column("batches", "waiting_for")
    op.drop_column("batches", "api_key")
