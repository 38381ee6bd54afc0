"""Follows every run by the recorder's own rules, in memory instead of a store.

What is a status, a gap, a step's duration or the newest attempt is decided by ``BatchIntake`` and
``RunCache``, so the page of the exporter and the dashboard agree. This module adds what only the
exporter counts.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Set
from math import isfinite
from typing import Any

from sqlalchemy import Table

from lineside.bus.client.reader import Batch
from lineside.bus.errors import LinesideError
from lineside.bus.protocol import commands
from lineside.bus.protocol.checkpoints import STATE_KINDS
from lineside.bus.protocol.event_kinds import CHECKPOINT_HELD, SUBSCRIBER_ERROR
from lineside.bus.protocol.events import AUDIT, RANK_0, SAMPLER_PREFIX, Event, Stream, is_rank
from lineside.bus.protocol.fields import is_int64
from lineside.bus.protocol.metric_points import MetricPoints
from lineside.store.database.tables import TIMING
from lineside.store.database.values import is_finite_number, sanitize_text
from lineside.store.recording.batch_intake import BatchIntake, is_recorded
from lineside.store.recording.event_context import EventContext, optional_text
from lineside.store.recording.run_cache import RunCache
from lineside.store.recording.run_state import AttemptState, RunState, StreamState
from lineside.store.status.verdict import RUNNING
from lineside.subscribers.exporter.firing import FiringAlerts
from lineside.subscribers.exporter.record import NAMED_METRICS, TEXT_LENGTH, Rank, RunRecord
from lineside.subscribers.exporter.system import MAX_VALUES, system_metric

log = logging.getLogger("lineside")

MAX_METRICS = 200
"""Metrics of one run that have series, by default."""
MAX_NAMES = 50
"""Different values that any other label of one run may have; further ones count as ``OTHER``."""
OTHER = "other"
MAX_RANKS = 64
"""Ranks of one run that have series: those that are seen first."""
_MAX_PENDING = 1_000
_MAX_CHECKPOINTS = 10_000

_INTERRUPTIONS = ("train_begin", "epoch_begin", "epoch_end", "evaluate", "predict", "save")


class RunTracker(RunCache):
    """The records of all runs. ``load`` returns the saved record of a run, if there is one."""

    def __init__(
        self, load: Callable[[str], RunRecord | None], max_metrics: int = MAX_METRICS
    ) -> None:
        super().__init__()
        self.records: dict[str, RunRecord] = {}
        self.changed: dict[str, RunRecord] = {}
        """Records that differ from what is saved, by run; the caller clears it."""
        self.subscriber_errors: dict[str, int] = {}
        self.firing = FiringAlerts()
        self.is_live = False
        """Whether events are read as they happen, not later."""
        self._expired = 0  # how often entries of the journal were skipped
        self._expired_at: dict[Stream, int] = {}  # the same when a stream was last read
        self._load = load
        self._max_metrics = max_metrics
        self._ids = itertools.count(1)
        handlers = {
            **dict.fromkeys(_INTERRUPTIONS, self._on_interruption),
            **dict.fromkeys(commands.STATE_OF_KIND, self._on_command),
            **dict.fromkeys(STATE_KINDS, self._on_checkpoint_state),
            CHECKPOINT_HELD: self._on_checkpoint_held,
            "run_start": self._on_run_start,
            "heartbeat": self._on_heartbeat,
            "save": self._on_save,
            "alert": self._on_alert,
            SUBSCRIBER_ERROR: self._on_subscriber_error,
        }
        self._intake = BatchIntake(self, handlers)
        self._record = RunRecord(RunState(0, "", 0.0, RUNNING))  # of the batch being read

    def read(self, batch: Batch, now: float) -> None:
        """Take in a batch that came at ``now`` (seconds since the epoch)."""
        if batch.stream is None:
            self._expired += 1
            return
        if batch.stream.run == AUDIT or not is_recorded(batch.stream):
            return
        self.now = now
        self._skip_expired(batch, batch.stream)
        for raw in (False, True):
            try:
                self._intake.record(batch, raw=raw)
                break
            except LinesideError:
                raise
            except Exception:
                # One event must not hold up all others; raw, it is only counted.
                log.exception("exporter: events of %s at %d", batch.stream, batch.offset)
        self._finish()

    def forget(self, run_id: str) -> None:
        """Drop a run from memory. If it goes on, it is loaded as it was saved."""
        self.records.pop(run_id, None)
        self.drop_run(run_id)

    def _skip_expired(self, batch: Batch, stream: Stream) -> None:
        """Count as lost no events that were recorded, and expired before the exporter read them."""
        run = self.run(stream.run)
        is_new = (stream.producer, stream.attempt) not in run.streams
        if not is_new and self._expired_at.get(stream, 0) == self._expired:
            return
        first = min([event.seq for event in batch.events[:1]] + [gap.first for gap in batch.gaps])
        found = self.stream(run, stream.producer, stream.attempt, self.now)
        if first > found.next_seq:
            found.next_seq = first
            found.reset_step_timing()
        if self._expired:
            self._expired_at[stream] = self._expired

    # What a cache of rows does with the store.

    def run(self, run_id: str) -> RunState:
        found = super().run(run_id)
        self._record = self.records[run_id]
        return found

    def load_or_make_run(self, run_id: str) -> RunState:
        record = self.records.get(run_id)
        if record is None:
            record = self._load(run_id) or RunRecord(RunState(0, run_id, self.now, RUNNING))
            self.records[run_id] = record
            rows: list[StreamState | AttemptState] = [
                *record.state.streams.values(),
                *record.state.attempts.values(),
            ]
            for row in rows:
                row.id = next(self._ids)
        return record.state

    def insert_row(self, table: Table, **values: Any) -> int:
        del table, values
        return next(self._ids)

    def load_stream(self, stream: StreamState) -> None:
        pass

    def metric_points(self, run: RunState, stream: StreamState) -> MetricPoints:
        del run
        if stream.metric_points is None:
            stream.metric_points = MetricPoints()
        return stream.metric_points

    def add_point(
        self, stream: StreamState, kind: str, name: str, step: int, event: Event, value: float
    ) -> bool:
        del step
        record = self._record
        if kind == TIMING:
            if stream.producer == RANK_0:
                self._add_timing(record, name, event, value)
            return True
        key = (stream.producer, name)
        if stream.producer.startswith(SAMPLER_PREFIX) and system_metric(name) is not None:
            if key in record.system or len(record.system) < MAX_VALUES:
                record.system[key] = float(value)
                record.sampled_at[stream.producer] = self.now
            else:
                record.metrics_dropped += 1
            return True
        is_bounded = key not in record.metrics and key not in NAMED_METRICS
        if is_bounded and len(record.metrics) >= self._max_metrics:
            record.metrics_dropped += 1
            return True
        record.metrics[key] = number = float(value)
        if not isfinite(number):
            record.nonfinite[key] = record.nonfinite.get(key, 0) + 1
        return True

    def add_checkpoint_metrics(
        self, run: RunState, stream: StreamState, step: int, metrics: Mapping[str, float]
    ) -> None:
        pass

    def mark_deleted_checkpoints(
        self,
        run: RunState,
        time: float,
        *,
        path: str | None = None,
        folder: str = "",
        kept: Set[int] = frozenset(),
    ) -> None:
        del run, time
        checkpoints = self._record.checkpoints
        if path is not None:
            checkpoints.pop(path, None)
            return
        gone = [
            found
            for found, step in checkpoints.items()
            if step not in kept and found.rpartition("/")[0] == folder
        ]
        for found in gone:
            del checkpoints[found]

    # What only the exporter keeps.

    def _finish(self) -> None:
        """Judge the runs that were read, and discard the rows meant for a store."""
        for run_id, run in self.dirty_runs.items():
            record = self.records[run_id]
            for stream in self.dirty_streams.values():
                if stream.producer == RANK_0:
                    record.steps += stream.new_counts.get("step_end", 0)
            self.update_status(run)
            if run.ended_at is None:
                record.ended_seen_at = None
            elif record.ended_seen_at is None:
                record.ended_seen_at = self.now if self.is_live else run.ended_at
            self.changed[run_id] = record
        self.clear_dirty()

    def _add_timing(self, record: RunRecord, name: str, event: Event, seconds: float) -> None:
        if name == "compute":
            record.step_seconds.observe(seconds)
            record.stepped_at = event.time
            record.is_interrupted = False
        elif not record.is_interrupted:
            record.data_wait.observe(seconds)

    def _on_interruption(self, context: EventContext) -> None:
        if context.stream.producer == RANK_0:
            self._record.is_interrupted = True
            self._take_best(context.data.get("state"))

    def _take_best(self, state: object) -> None:
        if isinstance(state, Mapping):
            metric, step = state.get("best_metric"), state.get("best_global_step")
            if is_finite_number(metric):
                self._record.best_metric = float(metric)
                self._record.best_step = int(step) if is_int64(step) else None

    def _on_run_start(self, context: EventContext) -> None:
        if context.stream.producer != RANK_0:
            return
        data = context.data
        process, model = data.get("process"), data.get("model")
        world_size = data.get("world_size")
        self._record.info = {
            "host": _text(process, "host"),
            "framework": "transformers" if data.get("source") == "trainer" else "",
            "model": _text(model, "class"),
            "world_size": str(world_size) if is_int64(world_size) else "",
        }
        self._record.save_steps = _save_steps(data.get("args"))
        self._take_best(data.get("state"))

    def _on_heartbeat(self, context: EventContext) -> None:
        data, record = context.data, self._record
        rank, attempt, age = data.get("producer"), data.get("attempt"), data.get("hook_age")
        if not (isinstance(rank, str) and is_rank(rank) and isinstance(attempt, str)):
            return
        if rank not in record.ranks and len(record.ranks) >= MAX_RANKS:
            return
        emitted, acked = data.get("emitted"), data.get("acked")
        record.ranks[rank] = Rank(
            attempt,
            context.event.time,
            float(age) if is_finite_number(age) else None,
            max(0, emitted - acked) if is_int64(emitted) and is_int64(acked) else None,
        )

    def _on_save(self, context: EventContext) -> None:
        self._on_interruption(context)
        record, event = self._record, context.event
        path = optional_text(context.data, "checkpoint")
        if path is not None and len(record.checkpoints) < _MAX_CHECKPOINTS:
            record.checkpoints[path] = event.step
            record.save_interval = max(record.save_interval, event.step - (record.saved_step or 0))
            record.saves += 1
            record.saved_step, record.saved_at = event.step, event.time

    def _on_checkpoint_held(self, context: EventContext) -> None:
        self._record.archive.read_held(context)

    def _on_checkpoint_state(self, context: EventContext) -> None:
        self._record.archive.read_state(context)

    def _on_alert(self, context: EventContext) -> None:
        has_opened = self.firing.read(context.run.id, context.data)
        if "state" in context.data and not has_opened:
            return  # an update or the end of one that was counted
        _count(self._record.alerts, optional_text(context.data, "rule", TEXT_LENGTH) or OTHER)

    def _on_subscriber_error(self, context: EventContext) -> None:
        if context.data.get("action") in ("retrying", "skipped", "stopped"):
            name = optional_text(context.data, "subscriber", TEXT_LENGTH) or OTHER
            _count(self.subscriber_errors, name)

    def _on_command(self, context: EventContext) -> None:
        if context.stream.producer != commands.CONTROL_PRODUCER:
            return  # other ranks repeat the answer of rank 0
        kind, data, record = context.event.kind, context.data, self._record
        op = optional_text(data, "op") or OTHER
        op = op if op in commands.OPS else OTHER
        state = commands.STATE_OF_KIND[kind]
        record.commands[op, state] = record.commands.get((op, state), 0) + 1
        command_id = optional_text(data, "id")
        if kind in commands.FINAL_KINDS:
            record.pending.pop(command_id or "", None)
            if op in ("pause", "resume"):
                record.is_interrupted = True
        elif kind == commands.COMMAND and command_id and len(record.pending) < _MAX_PENDING:
            expires = data.get("expires_at")
            record.pending[command_id] = (
                float(expires) if is_finite_number(expires) else context.event.time
            )


def _save_steps(args: object) -> float | None:
    """Of TrainingArguments: steps, or their part of all, between checkpoints.

    0 if none is ever due, None if the arguments have no number.
    """
    if not isinstance(args, Mapping):
        return None
    strategy, every = (
        str(args.get("save_strategy")).rpartition(".")[2].lower(),
        args.get("save_steps"),
    )
    if strategy == "steps" and is_finite_number(every) and every > 0:
        return float(every)
    return 0.0 if strategy in ("no", "best") else None


def _count(counts: dict[str, int], name: str) -> None:
    if name not in counts and len(counts) >= MAX_NAMES:
        name = OTHER
    counts[name] = counts.get(name, 0) + 1


def _text(found: object, name: str) -> str:
    value = found.get(name) if isinstance(found, Mapping) else None
    return sanitize_text(value, TEXT_LENGTH) if isinstance(value, str) else ""
