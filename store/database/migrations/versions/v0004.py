"""Checkpoints that are gone, and groups of runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("deleted_at", sa.Double(), nullable=True))
    op.add_column("runs", sa.Column("group", sa.Text(), nullable=True))
