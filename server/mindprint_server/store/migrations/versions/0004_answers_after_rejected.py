"""Which rejected traces a version learned only the answers after."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("leases", sa.Column("rejected", sa.JSON(), server_default="{}", nullable=False))


def downgrade() -> None:
    op.drop_column("leases", "rejected")
