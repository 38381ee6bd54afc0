"""What the writer keeps in memory of a run, its attempts, its streams and their curves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NamedTuple

from lineside.store.database.values import split
from lineside.store.downsampling import OpenBlocks, Point
from lineside.store.status.verdict import ProcessExit, RankState

SERIES_COLUMNS = ("n", "last", "last_flag", "last_step", "last_time", "min", "max", "sum")
RANK_COLUMNS = (
    "began",
    "ended",
    "how",
    "error",
    "traceback",
    "lost",
    "step",
    "ended_at",
    "stopped_by",
)
STREAM_COLUMNS = (
    "next_seq",
    "recorded",
    "missing",
    "unreadable",
    "emitted",
    "dropped",
    "hook_errors",
    "encode_failures",
    "hook_ns",
    "hooks",
    "rss",
    "phase",
    "heard_at",
    "step_began_ns",
    "step_ended_ns",
    "step_ended",
    "step_seconds",
)
ATTEMPT_COLUMNS = (
    "status",
    "reason",
    "step",
    "max_steps",
    "epoch",
    "started_at",
    "ended_at",
    "heard_at",
    "resumed_attempt",
    "resumed_step",
    "exit_code",
    "exit_signal",
    "exited_at",
    "out_of_memory",
    "cause",
    "progress_at",
    "stalls_at",
)
RUN_COLUMNS = (
    "name",
    "project",
    "status",
    "reason",
    "step",
    "max_steps",
    "epoch",
    "started_at",
    "ended_at",
    "heard_at",
    "stalls_at",
    "events",
    "best_checkpoint",
)
_RANK_NAME = re.compile(r"rank[0-9]+")


@dataclass(slots=True)
class PendingRows:
    """New rows of one transaction, as tuples in their tables' column order."""

    events: list[tuple[Any, ...]] = field(default_factory=list)
    points: list[tuple[Any, ...]] = field(default_factory=list)
    sketches: list[tuple[Any, ...]] = field(default_factory=list)
    checkpoints: list[tuple[Any, ...]] = field(default_factory=list)
    gaps: list[tuple[Any, ...]] = field(default_factory=list)


class NewestLog(NamedTuple):
    """The last thing a stream logged."""

    step: int
    logs: Mapping[str, Any]


@dataclass(slots=True)
class SeriesState:
    """A curve: its row, and the blocks of it that are not whole yet."""

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
            OverflowError: ``value`` is an integer beyond what a double holds; nothing was done.
        """
        number, flag = split(value)
        point = Point(self.n, step, time, epoch, number, flag)
        rows.points.append((self.id, *point))
        for level, selected in self.open_blocks.add(point):
            rows.sketches.append((self.id, level, *selected))
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
    """A stream: its row, and what of its other rows the next event needs.

    ``is_loaded`` says that ``kinds`` (those counted so far) and ``series`` are loaded;
    ``new_counts`` is
    what this transaction adds. ``logged`` is the newest log, or None if an evaluate or predict came
    since; ``logged_known`` is False while only the rows know. ``waited_ns`` passed before the step
    under way. ``is_stopping`` says that training is to stop after the newest event.
    """

    id: int
    producer: str
    attempt: str
    ignored: bool
    heard_at: float
    next_seq: int = 0
    recorded: int = 0
    missing: int = 0
    unreadable: int = 0
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
    kinds: set[str] = field(default_factory=set)
    new_counts: dict[str, int] = field(default_factory=dict)
    series: dict[tuple[str, str], SeriesState] = field(default_factory=dict)
    logged: NewestLog | None = None
    logged_known: bool = False

    @property
    def has_pending_events(self) -> bool:
        """Whether events that its producer made are still to come, or to be known as missing."""
        return self.next_seq < self.emitted

    def reset_step_timing(self) -> None:
        """Events are missing: what is open cannot be measured any more."""
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


def is_rank(producer: str) -> bool:
    """Whether a producer is a training process, and not something beside one."""
    return _RANK_NAME.fullmatch(producer) is not None


def is_run_process(producer: str) -> bool:
    """Whether what a producer says shows that the run's processes live: what others say of a run,
    such as a command to it, does not."""
    return is_rank(producer) or producer == "shipper"


def column_values(state: object, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The values of these columns."""
    return tuple([getattr(state, name) for name in names])
