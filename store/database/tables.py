"""The tables of the run history in SQLAlchemy Core. Migrations make them; a test compares both.

Times are seconds since the epoch (UTC) as doubles. JSON text is ASCII, which escapes NUL and lone
surrogates: PostgreSQL refuses them in text. A float that is not finite is NULL beside a flag
(``store.database.values``), because SQLite has no NaN. The tables that grow without limit
have no foreign keys: checking one for each row would cost more than the row.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from lineside.bus.protocol.fields import NAME_LENGTH
from lineside.store.database.checkpoint_tables import checkpoint_states as checkpoint_states
from lineside.store.database.checkpoint_tables import checkpoints as checkpoints
from lineside.store.database.metadata import metadata as metadata

METRIC, TIMING = "metric", "timing"
"""The kinds of curves."""

# SQLite numbers rows only for a column declared INTEGER.
_Key = BigInteger().with_variant(Integer, "sqlite")

head = Table(
    "head",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
)
"""One row. Every writing transaction locks it and adds one to ``revision``."""

positions = Table(
    "positions",
    metadata,
    Column("journal", String(NAME_LENGTH), primary_key=True),
    Column("offset", BigInteger, nullable=False),
    Column("time", Double, nullable=False),
)
"""How far each broker journal is recorded, written in the same transaction as the rows."""

runs = Table(
    "runs",
    metadata,
    Column("key", _Key, primary_key=True),
    Column("id", String(128), nullable=False, unique=True),
    Column("name", Text),
    Column("project", Text),
    Column("status", String(16), nullable=False),
    Column("reason", Text),
    Column("step", BigInteger),
    Column("max_steps", BigInteger),
    Column("epoch", Double),
    # NULL until an attempt begins, and after the run is deleted: such a run is not listed.
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("heard_at", Double, nullable=False),
    Column("stalls_at", Double),
    Column("revision", BigInteger, nullable=False, index=True),
    Column("events", BigInteger, nullable=False),
    Column("note", Text),
    Column("tags", Text),
    Column("group", Text),
    Column("best_checkpoint", Text),
    Column("deleted_at", Double),
    Column("purging", Boolean, nullable=False),
)
"""What the run list shows: the status of the newest attempt, kept up to date by the recorder.

``heard_at`` is when the recorder, by its own clock, last recorded an event of the run's processes.
The run is stalled after ``stalls_at`` if no hook is called before. ``events`` is the number of rows
in ``events``. A deleted run keeps a row and its streams, so that late events of it are ignored.
"""

attempts = Table(
    "attempts",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("run_key", ForeignKey("runs.key"), nullable=False),
    Column("attempt", String(128), nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", Text),
    Column("step", BigInteger),
    Column("max_steps", BigInteger),
    Column("epoch", Double),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("heard_at", Double, nullable=False),
    Column("resumed_attempt", Text),
    Column("resumed_step", BigInteger),
    Column("exit_code", BigInteger),
    Column("exit_signal", Text),
    Column("exited_at", Double),
    Column("out_of_memory", Boolean),
    # The producer whose exception ended it, the time of the newest hook, and as in ``runs``.
    Column("cause", Text),
    Column("progress_at", Double),
    Column("stalls_at", Double),
    UniqueConstraint("run_key", "attempt"),
)

streams = Table(
    "streams",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("run_key", ForeignKey("runs.key"), nullable=False),
    Column("producer", String(128), nullable=False),
    Column("attempt", String(128), nullable=False),
    Column("ignored", Boolean, nullable=False),
    # The loss account: always next_seq = recorded + missing.
    Column("next_seq", BigInteger, nullable=False),
    Column("recorded", BigInteger, nullable=False),
    Column("missing", BigInteger, nullable=False),
    Column("reported", BigInteger, nullable=False, server_default="0"),  # missing, by its producer
    Column("unreadable", BigInteger, nullable=False),
    Column("left_out", BigInteger, nullable=False, server_default="0"),  # values of no curve or row
    Column("emitted", BigInteger, nullable=False),
    # The emitter's counters, and the newest heartbeat.
    Column("dropped", BigInteger),
    Column("hook_errors", BigInteger),
    Column("encode_failures", BigInteger),
    Column("hook_ns", BigInteger),
    Column("hooks", BigInteger),
    Column("rss", BigInteger),
    Column("phase", Text),
    Column("step", BigInteger),
    Column("heard_at", Double, nullable=False),
    # The facts about its process from which ``store.status`` decides.
    Column("began", Boolean, nullable=False),
    Column("ended", Boolean, nullable=False),
    Column("how", Text),
    Column("error", Text),
    Column("traceback", Text),
    Column("stopped_by", Text),
    Column("lost", Boolean, nullable=False),
    Column("ended_at", Double),
    # The current step.
    Column("step_began_ns", BigInteger),
    Column("step_ended_ns", BigInteger),
    Column("step_ended", BigInteger),
    Column("step_seconds", Double),
    UniqueConstraint("run_key", "producer", "attempt"),
)
"""One row for each stream ``run/producer/attempt``."""

event_counts = Table(
    "event_counts",
    metadata,
    Column("stream_id", ForeignKey("streams.id"), primary_key=True),
    Column("kind", String(NAME_LENGTH), primary_key=True),
    Column("n", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""The exact number of recorded events of every kind."""

events = Table(
    "events",
    metadata,
    Column("run_key", BigInteger, primary_key=True, autoincrement=False),
    Column("n", BigInteger, primary_key=True, autoincrement=False),
    Column("stream_id", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", String(NAME_LENGTH), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("epoch", Double),
    Column("time", Double, nullable=False),
    Column("control", BigInteger, nullable=False),
    Column("data", Text),
    Column("problem", Text),  # why its data does not match its kind
    Index(None, "run_key", "kind", "n"),
    sqlite_with_rowid=False,
)
"""All events but step-level ones and heartbeats, numbered within their run as recorded."""

series = Table(
    "series",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("stream_id", ForeignKey("streams.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("name", String(NAME_LENGTH), nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("last", Double),
    Column("last_flag", SmallInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("last_time", Double, nullable=False),
    Column("min", Double),
    Column("max", Double),
    Column("sum", Double),
    UniqueConstraint("stream_id", "kind", "name"),
)
"""A curve of ``n`` points: ``kind`` metric (a logged name) or timing (``compute``, ``wait``, in s).

``min``, ``max`` and ``sum`` are of the finite values; a ``sum`` beyond a double is NULL.
"""

logged_values = Table(
    "logged_values",
    metadata,
    Column("stream_id", ForeignKey("streams.id"), primary_key=True),
    Column("name", String(NAME_LENGTH), primary_key=True),
    Column("step", BigInteger, nullable=False),
    Column("time", Double, nullable=False),
    Column("text", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""The newest of the values of a logged name that are no numbers, as text: strings and lists."""


def _point_columns() -> list[Column[object]]:
    return [
        Column("idx", BigInteger, primary_key=True, autoincrement=False),
        Column("step", BigInteger, nullable=False),
        Column("time", Double, nullable=False),
        Column("epoch", Double),
        Column("value", Double),
        Column("flag", SmallInteger, nullable=False),
    ]


points = Table(
    "points",
    metadata,
    Column("series_id", BigInteger, primary_key=True, autoincrement=False),
    *_point_columns(),
    sqlite_with_rowid=False,
)
"""Every point, ``idx`` counting from 0 in its series."""

sketches = Table(
    "sketches",
    metadata,
    Column("series_id", BigInteger, primary_key=True, autoincrement=False),
    Column("level", SmallInteger, primary_key=True, autoincrement=False),
    *_point_columns(),
    sqlite_with_rowid=False,
)
"""Copies of the selected points of each complete block of points (``store.downsampling``)."""

blocks = Table(
    "blocks",
    metadata,
    Column("series_id", BigInteger, primary_key=True, autoincrement=False),
    Column("level", SmallInteger, primary_key=True, autoincrement=False),
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("n", BigInteger, nullable=False),
    Column("sum", Double),
    Column("step_min", BigInteger, nullable=False),
    Column("step_max", BigInteger, nullable=False),
    Column("time_min", Double, nullable=False),
    Column("time_max", Double, nullable=False),
    sqlite_with_rowid=False,
)
"""Each complete block of points, ``idx`` being its first (``store.downsampling.Summary``)."""

gaps = Table(
    "gaps",
    metadata,
    Column("stream_id", ForeignKey("streams.id"), primary_key=True),
    Column("first", BigInteger, primary_key=True, autoincrement=False),
    Column("end", BigInteger, nullable=False),
    Column("time", Double, nullable=False),
    sqlite_with_rowid=False,
)
"""Gaps: the seqs from ``first`` to before ``end`` of a stream are missing."""

commands = Table(
    "commands",
    metadata,
    Column("run_key", ForeignKey("runs.key"), primary_key=True),
    Column("id", String(64), primary_key=True),
    # The command itself; NULL while only answers to it are recorded.
    Column("op", Text),
    Column("args", Text),
    Column("reason", Text),
    Column("issued_by", Text),
    Column("requested_at", Double),
    Column("expires_at", Double),
    Column("state", String(16), nullable=False),
    Column("delivered_at", Double),
    Column("settled_at", Double),
    Column("attempt", String(128)),
    Column("step", BigInteger),
    Column("detail", Text),
    Column("told_at", Double, nullable=False),
    sqlite_with_rowid=False,
)
"""Commands to a run and their states (``store.recording.command_handlers``).

``attempt``, ``step`` and ``detail`` are of the answer that made the ``state``; ``told_at`` is the
time of the first event about the command, by which commands are sorted.
"""

audit = Table(
    "audit",
    metadata,
    Column("key", _Key, primary_key=True),
    Column("time", Double, nullable=False),
    Column("who", Text),
    Column("role", Text),
    Column("action", Text),
    Column("target", Text, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("why", Text),
    Column("count", BigInteger, nullable=False),
    Column("run", String(128)),
    Column("command", String(64)),
    Index(None, "time", "key"),
    Index(None, "run", "command"),
)
"""The audit: each state of each command, and refusals. Its rows stay when their run is deleted."""

alerts = Table(
    "alerts",
    metadata,
    Column("run_key", ForeignKey("runs.key"), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("producer", String(128)),
    Column("rule", String(NAME_LENGTH)),
    Column("subject", String(NAME_LENGTH)),
    Column("state", String(16)),
    Column("severity", String(16)),
    Column("summary", Text),
    Column("details", Text),
    Column("action", Text),
    Column("step", BigInteger),
    Column("opened_at", Double),
    Column("updated_at", Double),
    Column("closed_at", Double),
    Column("openings", BigInteger),
    Column("acknowledged_at", Double),
    Column("acknowledged_by", Text),
    Column("acknowledged_note", Text),
    Index(None, "state", "opened_at", "id"),
    Index(None, "opened_at", "id"),
    Index(None, "id"),
    sqlite_with_rowid=False,
)
"""Alerts by their newest event (``store.recording.alert_handlers``), and the first acknowledgement.

``state`` is NULL before an alert's first event. Those of no run have the key of ``_lineside``.
"""

alert_mutes = Table(
    "alert_mutes",
    metadata,
    Column("run_key", ForeignKey("runs.key"), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("muted_at", Double),
    Column("rule", String(NAME_LENGTH)),
    Column("until", Double),
    Column("by", Text),
    Column("note", Text),
    Column("ended_at", Double),
    Column("ended_by", Text),
    sqlite_with_rowid=False,
)
"""Mutes of alerts of a run, or of every run with the key of ``_lineside``.

NULL is in ``rule`` every rule, in ``until`` no end, in ``muted_at`` that only its end is recorded.
"""
