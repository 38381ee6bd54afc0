"""The tables of checkpoints: what was saved, and what the archiver reports about it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, ForeignKey, String, Table, Text

from lineside.store.database.metadata import metadata

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("run_key", ForeignKey("runs.key"), primary_key=True),
    Column("n", BigInteger, primary_key=True, autoincrement=False),
    Column("stream_id", ForeignKey("streams.id"), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("epoch", Double),
    Column("time", Double, nullable=False),
    Column("path", Text, nullable=False),
    Column("deleted_at", Double),
    Column("metrics", Text),
    sqlite_with_rowid=False,
)
"""Checkpoints of ``save`` events; ``n`` is the number of the event.

``deleted_at`` is the time of the event that first reported that it is gone or overwritten.
``metrics`` are the numbers at its step, as JSON.
"""

checkpoint_states = Table(
    "checkpoint_states",
    metadata,
    Column("run_key", ForeignKey("runs.key"), primary_key=True),
    Column("id", String(32), primary_key=True),
    Column("attempt", String(128), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("held_at", Double),
    Column("hold", Text),
    # The newest state; NULL until the archiver has reported one about the newest save.
    Column("state", String(16)),
    Column("state_at", Double),
    Column("why", Text),
    Column("retry_at", Double),
    Column("bytes", BigInteger),
    Column("files", BigInteger),
    Column("sent", BigInteger),
    Column("done", BigInteger),
    Column("stored", BigInteger),
    Column("archive", Text),
    Column("metrics", Text),
    Column("pinned", Boolean),
    Column("best", Boolean),
    Column("keep", Text),
    # The newest request of a person; NULL once it is answered. ``refused`` is of the answer.
    Column("requested", String(16)),
    Column("requested_id", Text),
    Column("requested_at", Double),
    Column("requested_by", Text),
    Column("refused", Text),
    sqlite_with_rowid=False,
)
"""Checkpoints in the archive and on their way (``store.recording.checkpoint_handlers``).

``id`` is made of the attempt, the step and the path (``bus.protocol.checkpoints.checkpoint_id``):
an event of the archiver may be recorded before the ``save``, or without one.
"""
