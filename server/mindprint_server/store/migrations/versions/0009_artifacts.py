"""Digests that address the files of versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

KEY = sa.String(length=160).with_variant(sa.String(length=160, collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("versions", sa.Column("artifact", KEY, nullable=True))


def downgrade() -> None:
    op.drop_column("versions", "artifact")
