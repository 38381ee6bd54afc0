"""What reads answer: frozen records. Times are UTC datetimes unless a field says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

from lineside.store.database.values import FLAGS, decode_float

T = TypeVar("T")

Status = Literal[
    "running",
    "stalled",
    "disconnected",
    "finished",
    "stopped",
    "interrupted",
    "failed",
    "killed",
    "lost",
]
RUN_STATUSES: tuple[str, ...] = get_args(Status)
"""What a run can be. An attempt can also be ``superseded``: another one was started in its place
before it had ended."""


RUNNING_STATUSES = frozenset({"running", "stalled"})
"""What a run is whose process lives, as far as was heard."""
ACTIVE_STATUSES = RUNNING_STATUSES | {"disconnected"}
"""What a run is that has not ended, as far as is known."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items, and the ``cursor`` that asks for those after them; None if there are no more."""

    items: tuple[T, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class LossAccount:
    """``emitted == recorded + gaps + lag``: each event is kept, known to be missing, or on its way.

    ``emitted`` is the newest word on how many events the producers made.
    """

    emitted: int = 0
    recorded: int = 0
    gaps: int = 0
    lag: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """The exception that ended training: of the producer (a rank) that raised it first.

    ``traceback`` is as Python prints it, its end if it is long; empty if it was not told.
    """

    producer: str
    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process start of a run. ``number`` counts from 1 in the order they followed one another.

    ``reason`` is a sentence for a status that needs one, ``error`` the exception if there was one.
    ``phase`` is what rank 0 was doing when last heard of, as ``training`` or ``paused``, while the
    attempt has not ended. ``step`` is the highest step seen,
    ``epoch`` the newest. ``resumed_step`` is the step of the checkpoint it went on from.
    """

    attempt: str
    number: int
    status: str
    reason: str | None
    started_at: datetime
    ended_at: datetime | None
    updated_at: datetime
    step: int | None
    max_steps: int | None
    epoch: float | None
    resumed_attempt: str | None
    resumed_step: int | None
    phase: str | None = None
    error: Failure | None = None

    @property
    def is_running(self) -> bool:
        """Whether its process lives, as far as was heard."""
        return self.status in RUNNING_STATUSES


@dataclass(frozen=True, slots=True)
class Run:
    """A training as a person thinks of it. Status, phase, reason, error, step and epoch are its
    newest attempt's.

    ``started_at`` is the first attempt's start, ``updated_at`` when the store last heard of the
    run. ``event_counts`` maps every kind to how many events are recorded, over all producers and
    attempts, exact. ``metrics`` has the last value of each of rank 0's metrics in the newest
    attempt; values may be NaN or infinite.
    """

    id: str
    name: str
    project: str
    status: str
    reason: str | None
    attempts: tuple[Attempt, ...]
    step: int | None
    max_steps: int | None
    epoch: float | None
    started_at: datetime
    ended_at: datetime | None
    updated_at: datetime
    event_counts: dict[str, int]
    loss_account: LossAccount
    metrics: dict[str, float]
    note: str | None
    tags: tuple[str, ...]
    phase: str | None = None
    error: Failure | None = None

    @property
    def is_running(self) -> bool:
        """Whether its process lives, as far as was heard."""
        return self.status in RUNNING_STATUSES

    @property
    def accepts_commands(self) -> bool:
        """Whether there may be a training that a command reaches."""
        return self.status in ACTIVE_STATUSES


@dataclass(frozen=True, slots=True)
class StreamAccount:
    """One producer's stream: its own loss account and what its emitter said of itself.

    ``dropped``: events a full spool or disk refused (they are among ``gaps`` once known).
    ``unreadable``: recorded events that were not what their kind promises. ``hook_ns`` are
    nanoseconds spent in ``hooks`` hooks. ``rss`` is bytes. None where it was never said.
    """

    producer: str
    attempt: str
    emitted: int
    recorded: int
    gaps: int
    lag: int
    unreadable: int
    dropped: int | None
    hook_errors: int | None
    encode_failures: int | None
    hook_ns: int | None
    hooks: int | None
    rss: int | None
    phase: str | None
    step: int | None
    last_seen: datetime


@dataclass(frozen=True, slots=True)
class Series:
    """A metric of one attempt. ``last`` may be NaN or infinite; ``min`` and ``max`` are of the
    finite values and None if there are none."""

    name: str
    attempt: str
    producer: str
    count: int
    last: float
    last_step: int
    last_time: datetime
    min: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Points:
    """A curve as columns of equal length, in the order recorded.

    ``x`` is ``step`` or ``time`` (seconds since the epoch), as asked for. ``y`` is None where the
    value is not finite, and ``flag`` there says ``nan``, ``inf`` or ``-inf``. ``total`` counts the
    points recorded and ``sum`` adds up their finite values (None if that is beyond a double), over
    the whole curve. If ``downsampled``, the points here are the telling ones of the part asked for.
    """

    name: str
    attempt: str | None
    producer: str
    x: list[float]
    y: list[float | None]
    step: list[int]
    time: list[float]
    epoch: list[float | None]
    flag: list[str | None]
    total: int
    sum: float | None
    downsampled: bool

    @property
    def values(self) -> list[float]:
        """``y`` with its NaNs and infinities."""
        return [
            decode_float(y, FLAGS.index(flag)) for y, flag in zip(self.y, self.flag, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds by step: ``compute`` from step_begin to step_end, ``wait`` from there to the next
    step_begin (data, and evaluation or saving where they come between)."""

    compute: Points
    wait: Points


class PointRow(NamedTuple):
    """One point of a curve. ``value`` may be NaN or infinite."""

    attempt: str
    producer: str
    name: str
    step: int
    epoch: float | None
    time: datetime
    value: float


@dataclass(frozen=True, slots=True)
class EventRow:
    """One recorded event. ``n`` numbers a run's events in order of recording: ask ``after`` it.

    ``problem`` is a sentence if the event was not what its kind promises; ``data`` then holds what
    could be kept of it.
    """

    n: int
    producer: str
    attempt: str
    seq: int
    kind: str
    step: int
    epoch: float | None
    time: datetime
    control: int
    data: dict[str, Any] | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class GapRow:
    """Seqs ``first`` (included) to ``end`` (excluded) of a stream that never came."""

    producer: str
    attempt: str
    first: int
    end: int
    found_at: datetime


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as it was announced when it was saved; it may be gone from disk since.

    ``path`` is on the training machine. ``best`` says that it is the best model now known.
    """

    attempt: str
    step: int
    epoch: float | None
    time: datetime
    path: str
    best: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A command to a run, and how far it has come.

    ``state`` is requested, delivered, applied, rejected, expired or superseded; ``attempt``,
    ``step`` and ``detail`` are of the answer that says so, ``settled_at`` its time if nothing more
    will become of the command. What the command itself says is None or empty while only answers to
    it are recorded.
    """

    id: str
    op: str | None
    args: dict[str, Any]
    reason: str
    issued_by: str
    requested_at: datetime | None
    expires_at: datetime | None
    state: str
    delivered_at: datetime | None
    settled_at: datetime | None
    attempt: str | None
    step: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who asked for what (``action``) of whom (``target``), and what came of it.

    ``outcome`` is the state that a command reached, or ``refused``, ``count`` times. ``run`` and
    ``command`` are ids where the entry is about one. What is not known is empty.
    """

    time: datetime
    who: str
    role: str
    action: str
    target: str
    outcome: str
    why: str
    count: int
    run: str | None
    command: str | None


@dataclass(frozen=True, slots=True)
class Changes:
    """The newest ``revision``, and the runs that changed (or were deleted) since the one given."""

    revision: int
    run_ids: tuple[str, ...]
