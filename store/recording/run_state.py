"""The writer's state in memory of a run, its attempts, its streams and their curves."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any

from sqlalchemy import Table

from lineside.bus.protocol.metric_points import MetricPoints
from lineside.store.database import tables
from lineside.store.database.values import encode_float
from lineside.store.downsampling import OpenBlocks, Point
from lineside.store.status.verdict import ProcessExit, RankState


@dataclass(slots=True)
class PendingRows:
    """New rows of one transaction, as tuples in their tables' column order."""

    events: list[tuple[Any, ...]] = field(default_factory=list)
    points: list[tuple[Any, ...]] = field(default_factory=list)
    sketches: list[tuple[Any, ...]] = field(default_factory=list)
    blocks: list[tuple[Any, ...]] = field(default_factory=list)
    checkpoints: list[tuple[Any, ...]] = field(default_factory=list)
    gaps: list[tuple[Any, ...]] = field(default_factory=list)
    logged_values: dict[tuple[int, str], tuple[int, float, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class SeriesState:
    """A curve: its row, and its incomplete blocks."""

    id: int
    n: int = 0
    last: float | None = None
    last_flag: int = 0
    last_step: int = 0
    last_time: float = 0.0
    min: float | None = None
    max: float | None = None
    sum: float | None = 0.0
    open_blocks: OpenBlocks = field(default_factory=OpenBlocks)

    def add(
        self, step: int, time: float, epoch: float | None, value: float, rows: PendingRows
    ) -> None:
        """Append a point.

        Raises:
            OverflowError: ``value`` is an integer beyond a double's range; nothing was added.
        """
        number, flag = encode_float(value)
        point = Point(self.n, step, time, epoch, number, flag)
        rows.points.append((self.id, *point))
        complete = self.open_blocks.add(point)
        if complete is not None:
            rows.sketches += [(self.id, level, *found) for level, found in complete.selected]
            rows.blocks += [(self.id, level, *found) for level, found in complete.summaries]
        self.n += 1
        self.last, self.last_flag, self.last_step, self.last_time = number, flag, step, time
        if number is not None:
            if self.min is None or number < self.min:
                self.min = number
            if self.max is None or number > self.max:
                self.max = number
            if self.sum is not None:
                total = self.sum + number
                self.sum = total if isfinite(total) else None


@dataclass(slots=True)
class StreamState:
    """A stream: its row, and what the next event needs of its other rows.

    ``is_loaded`` means that ``series`` is loaded. ``new_counts`` is what this transaction adds to
    the event counts. ``metric_points`` and ``value_names``, the names of the logged values that are
    no numbers, are None until they are loaded. ``waited_ns`` is the wait before
    the current step. ``is_stopping``: the newest event has ``should_training_stop`` set.
    """

    id: int
    producer: str
    attempt: str
    ignored: bool
    heard_at: float
    next_seq: int = 0
    recorded: int = 0
    missing: int = 0
    reported: int = 0
    unreadable: int = 0
    left_out: int = 0
    emitted: int = 0
    dropped: int | None = None
    hook_errors: int | None = None
    encode_failures: int | None = None
    hook_ns: int | None = None
    hooks: int | None = None
    rss: int | None = None
    phase: str | None = None
    step_began_ns: int | None = None
    step_ended_ns: int | None = None
    step_ended: int | None = None
    step_seconds: float | None = None
    waited_ns: int = 0
    is_stopping: bool = False
    rank: RankState = field(default_factory=RankState)
    is_loaded: bool = False
    new_counts: dict[str, int] = field(default_factory=dict)
    series: dict[tuple[str, str], SeriesState] = field(default_factory=dict)
    metric_points: MetricPoints | None = None
    value_names: set[str] | None = None

    @property
    def has_pending_events(self) -> bool:
        """Whether the producer has emitted events that are neither recorded nor missing."""
        return self.next_seq < self.emitted

    def reset_step_timing(self) -> None:
        """Discard the current step, whose duration is unknown after missing events."""
        self.step_began_ns = self.step_ended_ns = self.step_ended = None
        self.waited_ns = 0


@dataclass(slots=True)
class AttemptState:
    """An attempt's row."""

    id: int
    attempt: str
    started_at: float
    heard_at: float
    status: str
    reason: str | None = None
    step: int | None = None
    max_steps: int | None = None
    epoch: float | None = None
    ended_at: float | None = None
    resumed_attempt: str | None = None
    resumed_step: int | None = None
    exit_code: int | None = None
    exit_signal: str | None = None
    exited_at: float | None = None
    out_of_memory: bool | None = None
    cause: str | None = None
    progress_at: float | None = None
    stalls_at: float | None = None

    @property
    def process_exit(self) -> ProcessExit | None:
        if self.exited_at is None:
            return None
        return ProcessExit(
            self.exit_code, self.exit_signal, self.exited_at, self.out_of_memory or False
        )


@dataclass(slots=True)
class RunState:
    """A run's row, its attempts by name and its streams by producer and attempt."""

    key: int
    id: str
    heard_at: float
    status: str
    deleted_at: float | None = None
    name: str | None = None
    project: str | None = None
    note: str | None = None
    tags: str | None = None
    group: str | None = None
    reason: str | None = None
    step: int | None = None
    max_steps: int | None = None
    epoch: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    stalls_at: float | None = None
    events: int = 0
    best_checkpoint: str | None = None
    attempts: dict[str, AttemptState] = field(default_factory=dict)
    streams: dict[tuple[str, str], StreamState] = field(default_factory=dict)

    @property
    def is_deleted(self) -> bool:
        """Whether the run was deleted and no attempt has begun since."""
        return self.deleted_at is not None and not self.attempts


def column_values(state: object, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The values of the fields ``names`` of ``state``."""
    return tuple([getattr(state, name) for name in names])


def _stored_fields(state: type[Any], table: Table, *identity: str) -> tuple[str, ...]:
    """The fields of ``state`` that are columns of ``table``, without those in ``identity``."""
    names = (field.name for field in fields(state))
    return tuple(name for name in names if name in table.c and name not in identity)


SERIES_COLUMNS = _stored_fields(SeriesState, tables.series, "id")
RANK_COLUMNS = _stored_fields(RankState, tables.streams)
STREAM_COLUMNS = _stored_fields(StreamState, tables.streams, "id", "producer", "attempt", "ignored")
ATTEMPT_COLUMNS = _stored_fields(AttemptState, tables.attempts, "id", "attempt")
RUN_COLUMNS = _stored_fields(RunState, tables.runs, "key", "id", "deleted_at")
