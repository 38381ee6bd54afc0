"""Frozen records that reads return. Times are UTC datetimes unless documented otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

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
"""The statuses of a run. An attempt can also be ``superseded``: another began before its end."""

RUNNING_STATUSES = frozenset({"running", "stalled"})
"""The statuses of a run whose process is alive, by the newest sign of life."""
ACTIVE_STATUSES = RUNNING_STATUSES | {"disconnected"}
"""The statuses of a run without a known end."""

_EVAL_LOSSES = ("eval_loss", "eval/loss")
_LOSSES = ("loss", "train/loss", "train_loss", *_EVAL_LOSSES)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items, and the ``cursor`` for the next page; None if there is none."""

    items: tuple[T, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class LossAccount:
    """``emitted == recorded + gaps + lag``: each event is recorded, missing, or on its way.

    ``emitted`` is the newest number of events that the producers have reported.
    """

    emitted: int = 0
    recorded: int = 0
    gaps: int = 0
    lag: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """The exception that ended training, of the producer (a rank) that raised it first.

    ``traceback`` is as Python prints it, or the end of a long one; empty if it is unknown.
    """

    producer: str
    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process start of a run. ``number`` counts from 1 in order.

    ``reason`` is a sentence for a status that needs one, ``error`` the exception if there was one.
    ``phase`` is the newest phase of rank 0, such as ``training`` or ``paused``, until the attempt
    ends. ``step`` is the highest step, ``epoch`` the newest. ``resumed_step`` is the step of the
    checkpoint from which it resumed. Points after step ``superseded_after`` do not count, because a
    later attempt resumed from there; -1: none counts, None: all do.
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
    superseded_after: int | None = None

    @property
    def is_running(self) -> bool:
        """Whether its process is alive, by the newest sign of life."""
        return self.status in RUNNING_STATUSES


class MetricValue(NamedTuple):
    """A metric's last value, which may be NaN or infinite."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Run:
    """A training with all its attempts.

    Status, phase, reason, error, step and epoch are those of the newest attempt. ``started_at`` is
    the start of the first attempt, ``updated_at`` the time of the last sign of life.
    ``event_counts`` has the exact number of recorded events of every kind, over all producers and
    attempts. ``metrics`` has the last value of each metric of rank 0 in the newest attempt; values
    may be NaN or infinite.
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
    group: str | None = None
    phase: str | None = None
    error: Failure | None = None

    @property
    def loss(self) -> MetricValue | None:
        """The loss of the run wherever one is shown: the first of ``_LOSSES`` in ``metrics``."""
        return self._first_metric(_LOSSES)

    @property
    def eval_loss(self) -> MetricValue | None:
        """The loss of the last evaluation."""
        return self._first_metric(_EVAL_LOSSES)

    def _first_metric(self, names: Iterable[str]) -> MetricValue | None:
        found = (MetricValue(name, self.metrics[name]) for name in names if name in self.metrics)
        return next(found, None)

    @property
    def is_running(self) -> bool:
        """Whether its process is alive, by the newest sign of life."""
        return self.status in RUNNING_STATUSES

    @property
    def accepts_commands(self) -> bool:
        """Whether a command may reach a training."""
        return self.status in ACTIVE_STATUSES


@dataclass(frozen=True, slots=True)
class StreamAccount:
    """The stream of one producer: its loss account and the counters of its emitter.

    ``dropped`` counts events for which spool or disk had no room (they are also in ``gaps`` once
    reported). Of ``gaps``, the producer has reported ``reported_gaps``: they were never in the
    journal. ``unreadable`` counts recorded events whose data did not match their kind,
    ``left_out`` the values of recorded events that have no curve and are no logged value, because
    their names were too many. ``hook_ns`` is the time spent in ``hooks`` hooks. ``rss`` is in
    bytes. None means never reported.
    """

    producer: str
    attempt: str
    emitted: int
    recorded: int
    gaps: int
    reported_gaps: int
    lag: int
    unreadable: int
    left_out: int
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
class EventRow:
    """One recorded event. ``n`` numbers the events of a run in order of recording.

    ``problem`` is a sentence if the data does not match the kind.
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
class LoggedValue:
    """The newest value of a logged name, as text, where it is no number."""

    producer: str
    name: str
    step: int
    time: datetime
    text: str


@dataclass(frozen=True, slots=True)
class GapRow:
    """Missing seqs of a stream: from ``first`` to before ``end``."""

    producer: str
    attempt: str
    first: int
    end: int
    found_at: datetime


@dataclass(frozen=True, slots=True)
class Command:
    """A command to a run, and its state.

    ``state`` is requested, delivered, applied, rejected, expired or superseded. ``attempt``,
    ``step`` and ``detail`` are of the answer with this state, ``settled_at`` is its time if the
    state is final. The fields of the command itself are None or empty while only answers to it are
    recorded.
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
    """A request: who asked for which ``action`` on which ``target``, and its ``outcome``.

    ``outcome`` is the state that a command reached, or ``refused``, ``count`` times. ``run`` and
    ``command`` are ids if the entry is about one. Unknown fields are empty.
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
class AlertMute:
    """No notifications of ``rule`` (None: of any) in ``run`` (None: in any) until ``until``.

    ``until`` is None for a mute that holds until it is lifted.
    """

    id: str
    run: str | None
    rule: str | None
    muted_at: datetime
    until: datetime | None
    by: str
    note: str

    def covers(self, run: str | None, rule: str) -> bool:
        """Whether it mutes alerts of ``rule`` in ``run``; None is of no run."""
        return self.run in (None, run) and self.rule in (None, rule)


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as its newest event states it; ``run`` is None if it is about no run.

    ``producer`` is ``watchdog``, or that of an alert without an end, such as ``stopper``, whose
    ``state`` is closed. ``step`` is that of the newest event. ``openings`` counts how often it
    opened. ``acknowledged_at`` and what follows are of the first acknowledgement. ``mute`` is one
    that covers it now.
    """

    id: str
    run: str | None
    run_name: str | None
    project: str | None
    producer: str
    rule: str
    subject: str
    state: str
    severity: str
    summary: str
    details: dict[str, Any]
    action: str
    step: int
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    openings: int
    acknowledged_at: datetime | None
    acknowledged_by: str
    acknowledged_note: str
    mute: AlertMute | None

    @property
    def is_open(self) -> bool:
        """Whether what it reports still holds."""
        return self.state == "open"


@dataclass(frozen=True, slots=True)
class Changes:
    """The newest ``revision``, and the runs that changed (or were deleted) since the one given.

    ``alerts``: alerts of no run, or mutes for every run, have changed.
    """

    revision: int
    run_ids: tuple[str, ...]
    alerts: bool = False
