"""An engagement's trace for the queue is found by the index alone; batches count cut memories and hinted traces."""

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
    op.drop_index("traces_of_engagement", "traces")
    op.create_index("traces_of_engagement", "traces", ["user_id", "engagement_id", "verdict", "id", "state"])


def downgrade() -> None:
    op.drop_index("traces_of_engagement", "traces")
    op.create_index("traces_of_engagement", "traces", ["user_id", "engagement_id", "verdict", "id"])
    for name in ("hinted", "truncated"):
        op.drop_column("batches", name)
