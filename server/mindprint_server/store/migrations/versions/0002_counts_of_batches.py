"""Batches count engagements whose memory was cut, and accepted traces whose writer saw the answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("truncated", "hinted"):
        op.add_column("batches", sa.Column(name, sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    for name in ("hinted", "truncated"):
        op.drop_column("batches", name)
