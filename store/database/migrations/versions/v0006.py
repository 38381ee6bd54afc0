"""Checkpoints in the archive, and the numbers at a checkpoint's step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("metrics", sa.Text(), nullable=True))
    op.create_table(
        "checkpoint_states",
        sa.Column("run_key", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.String(length=128), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("held_at", sa.Double(), nullable=True),
        sa.Column("hold", sa.Text(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=True),
        sa.Column("state_at", sa.Double(), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("retry_at", sa.Double(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("files", sa.BigInteger(), nullable=True),
        sa.Column("sent", sa.BigInteger(), nullable=True),
        sa.Column("done", sa.BigInteger(), nullable=True),
        sa.Column("stored", sa.BigInteger(), nullable=True),
        sa.Column("archive", sa.Text(), nullable=True),
        sa.Column("metrics", sa.Text(), nullable=True),
        sa.Column("pinned", sa.Boolean(), nullable=True),
        sa.Column("best", sa.Boolean(), nullable=True),
        sa.Column("keep", sa.Text(), nullable=True),
        sa.Column("requested", sa.String(length=16), nullable=True),
        sa.Column("requested_id", sa.Text(), nullable=True),
        sa.Column("requested_at", sa.Double(), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=True),
        sa.Column("refused", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_key"], ["runs.key"], name=op.f("fk_checkpoint_states_run_key")
        ),
        sa.PrimaryKeyConstraint("run_key", "id", name=op.f("pk_checkpoint_states")),
        sqlite_with_rowid=False,
    )
    fill_metrics(op.get_bind())


def fill_metrics(connection: sa.Connection) -> None:
    """Give each checkpoint the numbers of the evaluation at its step."""
    saved: dict[tuple[int, int, int], list[int]] = {}
    for run_key, stream_id, step, n in connection.exec_driver_sql(
        "SELECT run_key, stream_id, step, n FROM checkpoints WHERE metrics IS NULL"
    ):
        saved.setdefault((run_key, stream_id, step), []).append(n)
    # A join would read all events of a run for each of its checkpoints.
    evaluations = connection.exec_driver_sql(
        "SELECT run_key, stream_id, step, data FROM events WHERE kind = 'evaluate'"
        " ORDER BY run_key, n"
    )
    metrics: dict[tuple[int, int], str] = {}
    for run_key, stream_id, step, data in evaluations:
        found = saved.get((run_key, stream_id, step), ())
        numbers = dict(_numbers((json.loads(data) if found and data else {}).get("metrics"), ""))
        if numbers:
            metrics |= dict.fromkeys(((run_key, n) for n in found), json.dumps(numbers))
    table = sa.table("checkpoints", sa.column("run_key"), sa.column("n"), sa.column("metrics"))
    for (run_key, n), text in metrics.items():
        of_row = (table.c.run_key == run_key) & (table.c.n == n)
        connection.execute(sa.update(table).where(of_row).values(metrics=text))


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(inner, f"{path}/{name}" if path else str(name))
    elif isinstance(value, (int, float)) and path:
        yield path, value
