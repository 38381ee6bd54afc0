"""What the exporter keeps of one run, and how it is written as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lineside.bus.protocol.events import RANK_0
from lineside.bus.protocol.metric_points import MetricPoints
from lineside.store.recording.run_state import (
    ATTEMPT_COLUMNS,
    RANK_COLUMNS,
    RUN_COLUMNS,
    STREAM_COLUMNS,
    AttemptState,
    RunState,
    StreamState,
)
from lineside.store.status.verdict import RankState
from lineside.subscribers.exporter.archive import ArchiveRecord
from lineside.subscribers.exporter.histogram import Histogram

NAMED_METRICS = {
    (RANK_0, name): f"lineside_run_{name}"
    for name in ("loss", "eval_loss", "learning_rate", "grad_norm")
}
"""Metrics with a family of their own, by producer and name; no limit applies to them."""
TEXT_LENGTH = 200
"""Characters of a name that a label has."""


@dataclass(slots=True)
class Rank:
    """The newest heartbeat of one rank; ``hook_age`` is None for one of another machine.

    ``unsent`` is how many of its events the broker had not acknowledged.
    """

    attempt: str
    time: float
    hook_age: float | None
    unsent: int | None = None


@dataclass(slots=True)
class RunRecord:
    """A run as the store's rules see it, and what only the exporter counts.

    ``metrics``, ``system`` (those of samplers) and ``nonfinite`` are by producer and name.
    ``sampled_at`` is when each sampler last reported, by the clock of the exporter.
    ``ended_seen_at`` is when the end was read, or when it was if the exporter read it later.
    ``is_interrupted``: the wait before the next step is not one for data. ``save_interval`` is the
    most steps that there were before one of the ``saves``, ``save_steps`` that of the arguments.
    """

    state: RunState
    info: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, str], float] = field(default_factory=dict)
    metrics_dropped: int = 0
    system: dict[tuple[str, str], float] = field(default_factory=dict)
    sampled_at: dict[str, float] = field(default_factory=dict)
    nonfinite: dict[tuple[str, str], int] = field(default_factory=dict)
    steps: int = 0
    step_seconds: Histogram = field(default_factory=Histogram)
    data_wait: Histogram = field(default_factory=Histogram)
    is_interrupted: bool = False
    ranks: dict[str, Rank] = field(default_factory=dict)
    checkpoints: dict[str, int] = field(default_factory=dict)
    saved_step: int | None = None
    saved_at: float | None = None
    save_interval: int = 0
    saves: int = 0
    save_steps: float | None = None
    archive: ArchiveRecord = field(default_factory=ArchiveRecord)
    alerts: dict[str, int] = field(default_factory=dict)
    commands: dict[tuple[str, str], int] = field(default_factory=dict)
    pending: dict[str, float] = field(default_factory=dict)
    best_metric: float | None = None
    best_step: int | None = None
    stepped_at: float | None = None
    hook_ns: int = 0
    hooks: int = 0
    ended_seen_at: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        run = self.state
        return {
            "run": {name: getattr(run, name) for name in RUN_COLUMNS},
            "attempts": {
                attempt.attempt: {name: getattr(attempt, name) for name in ATTEMPT_COLUMNS}
                for attempt in run.attempts.values()
            },
            "streams": [_stream_to_dict(stream) for stream in run.streams.values()],
            **{name: _pairs(getattr(self, name)) for name in _BY_PAIR},
            **{name: getattr(self, name) for name in _PLAIN},
            "step_seconds": self.step_seconds.to_dict(),
            "data_wait": self.data_wait.to_dict(),
            "archive": self.archive.to_dict(),
            "ranks": {name: asdict(rank) for name, rank in self.ranks.items()},
        }

    @classmethod
    def from_dict(cls, run_id: str, saved: dict[str, Any]) -> RunRecord:
        """The inverse of ``to_dict``, also of another version's; the ids of rows are 0."""
        run = RunState(0, run_id, **_known(RunState, saved["run"]))
        for name, values in saved["attempts"].items():
            run.attempts[name] = AttemptState(0, name, **_known(AttemptState, values))
        for values in saved["streams"]:
            stream = _stream_from_dict(values)
            run.streams[stream.producer, stream.attempt] = stream
        by_pair: dict[str, Any] = {
            name: {(first, second): value for first, second, value in saved.get(name, ())}
            for name in _BY_PAIR
        }
        return cls(
            run,
            **by_pair,
            **_known(cls, {name: saved[name] for name in _PLAIN if name in saved}),
            step_seconds=Histogram.from_dict(saved["step_seconds"]),
            data_wait=Histogram.from_dict(saved["data_wait"]),
            archive=(
                ArchiveRecord.from_dict(saved["archive"]) if "archive" in saved else ArchiveRecord()
            ),
            ranks={name: Rank(**values) for name, values in saved["ranks"].items()},
        )


_BY_PAIR = ("metrics", "system", "nonfinite", "commands")
_PLAIN = (
    "info",
    "sampled_at",
    "metrics_dropped",
    "steps",
    "is_interrupted",
    "checkpoints",
    "saved_step",
    "saved_at",
    "save_interval",
    "saves",
    "save_steps",
    "alerts",
    "pending",
    "best_metric",
    "best_step",
    "stepped_at",
    "hook_ns",
    "hooks",
    "ended_seen_at",
)


def _known(state: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """Without fields of another version; fields that it did not have take their defaults."""
    names = {field.name for field in fields(state)}
    return {name: value for name, value in values.items() if name in names}


def _pairs(values: dict[tuple[str, str], Any]) -> list[tuple[str, str, Any]]:
    return [(*pair, value) for pair, value in values.items()]


def _stream_to_dict(stream: StreamState) -> dict[str, Any]:
    points = stream.metric_points or MetricPoints()
    return {
        "producer": stream.producer,
        "attempt": stream.attempt,
        "columns": {name: getattr(stream, name) for name in STREAM_COLUMNS},
        "rank": {name: getattr(stream.rank, name) for name in RANK_COLUMNS},
        "points": [points.step, points.unclaimed],
    }


def _stream_from_dict(values: dict[str, Any]) -> StreamState:
    step, unclaimed = values["points"]
    return StreamState(
        0,
        values["producer"],
        values["attempt"],
        False,
        **_known(StreamState, values["columns"]),
        rank=RankState(**_known(RankState, values["rank"])),
        is_loaded=True,
        metric_points=MetricPoints(step, unclaimed),
    )
