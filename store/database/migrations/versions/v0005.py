"""Alerts, their acknowledgements and their mutes; values beyond the limit of names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "streams", sa.Column("left_out", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.create_table(
        "alerts",
        sa.Column("run_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("producer", sa.String(length=128), nullable=True),
        sa.Column("rule", sa.String(length=255), nullable=True),
        sa.Column("subject", sa.String(length=255), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=True),
        sa.Column("severity", sa.String(length=16), nullable=True),
        sa.Column("summary", sa.Text(), nullable=True),
        sa.Column("details", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("opened_at", sa.Double(), nullable=True),
        sa.Column("updated_at", sa.Double(), nullable=True),
        sa.Column("closed_at", sa.Double(), nullable=True),
        sa.Column("openings", sa.BigInteger(), nullable=True),
        sa.Column("acknowledged_at", sa.Double(), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("acknowledged_note", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_key"], ["runs.key"], name=op.f("fk_alerts_run_key")),
        sa.PrimaryKeyConstraint("run_key", "id", name=op.f("pk_alerts")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_alerts_state_opened_at_id"), "alerts", ["state", "opened_at", "id"])
    op.create_index(op.f("ix_alerts_opened_at_id"), "alerts", ["opened_at", "id"])
    op.create_index(op.f("ix_alerts_id"), "alerts", ["id"])
    op.create_table(
        "alert_mutes",
        sa.Column("run_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("muted_at", sa.Double(), nullable=True),
        sa.Column("rule", sa.String(length=255), nullable=True),
        sa.Column("until", sa.Double(), nullable=True),
        sa.Column("by", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("ended_by", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_key"], ["runs.key"], name=op.f("fk_alert_mutes_run_key")),
        sa.PrimaryKeyConstraint("run_key", "id", name=op.f("pk_alert_mutes")),
        sqlite_with_rowid=False,
    )
