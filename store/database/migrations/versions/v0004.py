"""Checkpoints that are gone, groups of runs, causes of gaps, blocks, and values without curves."""

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
    op.add_column(
        "streams", sa.Column("reported", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.create_table(
        "blocks",
        sa.Column("series_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("level", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("sum", sa.Double(), nullable=True),
        sa.Column("step_min", sa.BigInteger(), nullable=False),
        sa.Column("step_max", sa.BigInteger(), nullable=False),
        sa.Column("time_min", sa.Double(), nullable=False),
        sa.Column("time_max", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("series_id", "level", "idx", name=op.f("pk_blocks")),
        sqlite_with_rowid=False,
    )
    fill_blocks(op.get_bind())
    op.create_table(
        "logged_values",
        sa.Column(
            "stream_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["stream_id"], ["streams.id"], name=op.f("fk_logged_values_stream_id")
        ),
        sa.PrimaryKeyConstraint("stream_id", "name", name=op.f("pk_logged_values")),
        sqlite_with_rowid=False,
    )


def fill_blocks(connection: sa.Connection) -> None:
    """Make the blocks of the recorded points: of 64 points, and of 8 blocks each."""
    insert = "INSERT INTO blocks SELECT series_id, {level}, idx / {size} * {size}"
    group = "GROUP BY series_id, idx / {size} HAVING count(*) = {parts}"
    # PostgreSQL refuses a sum beyond a double, so the parts are made smaller first.
    total = "CASE WHEN abs(sum({part})) < 1e306 THEN sum({part}) * {parts} END"
    of_points = (
        f"{insert}, count(value), {total.replace('{part}', 'coalesce(value, 0.0) / 64')},"
        f" min(step), max(step), min(time), max(time) FROM points {group}"
    )
    of_blocks = (
        f"{insert}, sum(n), CASE WHEN count(sum) = 8 THEN {total.replace('{part}', 'sum / 8')} END,"
        " min(step_min), max(step_max), min(time_min), max(time_max)"
        f" FROM blocks WHERE level = {{below}} {group}"
    )
    level, size = 1, 64
    statement = of_points.format(level=1, size=64, parts=64)
    while connection.exec_driver_sql(statement).rowcount > 0:
        level, size = level + 1, size * 8
        statement = of_blocks.format(level=level, size=size, parts=8, below=level - 1)
