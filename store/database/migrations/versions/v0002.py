"""How runs end: exceptions, commands that stop, and progress that stays away."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("stalls_at", sa.Double(), nullable=True))
    for column in (
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("progress_at", sa.Double(), nullable=True),
        sa.Column("stalls_at", sa.Double(), nullable=True),
        sa.Column("out_of_memory", sa.Boolean(), nullable=True),
    ):
        op.add_column("attempts", column)
    for column in (
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("stopped_by", sa.Text(), nullable=True),
        sa.Column("step_seconds", sa.Double(), nullable=True),
    ):
        op.add_column("streams", column)
    # Which rank's exception it was could be seen from the reason only.
    op.execute(
        """
        UPDATE attempts SET cause = (
            SELECT producer FROM streams
            WHERE streams.run_key = attempts.run_key AND streams.attempt = attempts.attempt
            AND streams.how = 'exception'
            AND attempts.reason IN (streams.error, streams.producer || ': ' || streams.error)
            ORDER BY producer LIMIT 1
        )
        """
    )
