"""The writer's cache of the runs it writes: loaded when needed, written back at commit.

A writing transaction reads almost nothing: counters, current steps and the incomplete blocks of
curves stay in memory between transactions. The rows hold all of it, so it is loaded again after a
kill, after a failed transaction, and for a run that another process has changed.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Table, and_, insert, select, update

from lineside.bus.protocol import commands
from lineside.bus.protocol.events import Event, is_rank
from lineside.bus.protocol.metric_points import MetricPoints
from lineside.store.database import tables
from lineside.store.database.tables import (
    attempts,
    checkpoints,
    event_counts,
    events,
    points,
    series,
    sketches,
    streams,
)
from lineside.store.database.values import from_json, to_text
from lineside.store.limits import MAX_SERIES, MAX_VALUE_NAMES
from lineside.store.recording import run_cache_loading
from lineside.store.recording.bulk import insert_rows, update_rows
from lineside.store.recording.checkpoint_metrics import metrics_json
from lineside.store.recording.run_state import (
    ATTEMPT_COLUMNS,
    RANK_COLUMNS,
    RUN_COLUMNS,
    SERIES_COLUMNS,
    STREAM_COLUMNS,
    AttemptState,
    PendingRows,
    RunState,
    SeriesState,
    StreamState,
    column_values,
)
from lineside.store.status.attempt_order import order_attempts
from lineside.store.status.verdict import RUNNING, Verdict, judge_attempt, judge_run

MAX_RUNS = 200
"""Runs kept in memory between transactions; those not written for longest are dropped first."""

_TEXT_LENGTH = 2000  # of a logged value that is no number; the event has all of it
_ATTEMPT_TIMESTAMP = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)-")


class RunCache:
    """Between ``begin`` and ``flush`` it belongs to one transaction on ``connection``."""

    connection: Connection

    def __init__(self) -> None:
        self.rows = PendingRows()
        self.now = 0.0
        self._runs: dict[str, RunState] = {}
        self._revision = 0
        self.dirty_runs: dict[str, RunState] = {}
        self._dirty_attempts: dict[int, AttemptState] = {}
        self.dirty_streams: dict[int, StreamState] = {}
        self._dirty_series: dict[int, SeriesState] = {}

    def begin(self, connection: Connection, revision: int, now: float) -> None:
        """Start a transaction that makes ``revision``; ``now`` is seconds since the epoch."""
        if revision <= self._revision:
            self._runs.clear()  # the store was replaced by an older copy
        elif revision != self._revision + 1 and self._runs:
            changed = connection.execute(
                select(tables.runs.c.id).where(tables.runs.c.revision > self._revision)
            )
            for (run_id,) in changed:
                self._runs.pop(run_id, None)
        self.connection = connection
        self._revision = revision
        self.now = now

    def run(self, run_id: str) -> RunState:
        """The run, loaded or made."""
        run = self.dirty_runs.get(run_id)
        if run is None:
            run = self._runs.pop(run_id, None) or self.load_or_make_run(run_id)
            self._runs[run_id] = self.dirty_runs[run_id] = run
        return run

    def stream(self, run: RunState, producer: str, attempt: str, time: float) -> StreamState:
        """The stream, made if it is new; ``time`` is that of its first event."""
        found = run.streams.get((producer, attempt))
        if found is None:
            ignored = is_rank(producer) and _began_before_deletion(run, attempt, time)
            found = StreamState(0, producer, attempt, ignored, self.now)
            found.is_loaded, found.metric_points = True, MetricPoints()
            found.id = self.insert_row(
                streams,
                run_key=run.key,
                producer=producer,
                attempt=attempt,
                ignored=ignored,
                **{name: getattr(found, name) for name in STREAM_COLUMNS},
                **{name: getattr(found.rank, name) for name in RANK_COLUMNS},
            )
            run.streams[producer, attempt] = found
        if found.id not in self.dirty_streams:
            self.dirty_streams[found.id] = found
            found.heard_at = self.now
            if is_rank(producer) and not found.ignored:
                self.attempt(run, attempt, time)
        return found

    def attempt(self, run: RunState, name: str, time: float) -> AttemptState:
        """The attempt; if it is new, it is made with ``time`` as its start."""
        found = run.attempts.get(name)
        if found is None:
            found = AttemptState(0, name, time, self.now, RUNNING)
            found.id = self.insert_row(
                attempts,
                run_key=run.key,
                attempt=name,
                **{column: getattr(found, column) for column in ATTEMPT_COLUMNS},
            )
            run.attempts[name] = found
        self._dirty_attempts[found.id] = found
        found.heard_at = self.now
        return found

    def add_point(
        self, stream: StreamState, kind: str, name: str, step: int, event: Event, value: float
    ) -> bool:
        """Append a point to a curve; False if that is new and the stream has ``MAX_SERIES``."""
        curve = self._series(stream, kind, name)
        if curve is None:
            return False
        curve.add(step, event.time, event.epoch, value, self.rows)
        return True

    def set_logged_value(self, stream: StreamState, name: str, event: Event, value: object) -> bool:
        """Keep a value that is no number as the newest of its name.

        False if the name is new and the stream has ``MAX_VALUE_NAMES``.
        """
        names = stream.value_names
        if names is None:
            known = tables.logged_values.c
            query = select(known.name).where(known.stream_id == stream.id)
            names = stream.value_names = {*self.connection.execute(query).scalars()}
        if name not in names:
            if len(names) >= MAX_VALUE_NAMES:
                return False
            names.add(name)
        self.rows.logged_values[stream.id, name] = (event.step, event.time, value)
        return True

    def _series(self, stream: StreamState, kind: str, name: str) -> SeriesState | None:
        found = stream.series.get((kind, name))
        if found is None:
            if len(stream.series) >= MAX_SERIES:
                return None
            found = SeriesState(0)
            found.id = self.insert_row(
                series,
                stream_id=stream.id,
                kind=kind,
                name=name,
                **{column: getattr(found, column) for column in SERIES_COLUMNS},
            )
            stream.series[kind, name] = found
        self._dirty_series[found.id] = found
        return found

    def load_stream(self, stream: StreamState) -> None:
        """Load the curves of a stream, which its next events may continue."""
        if not stream.is_loaded:
            run_cache_loading.load_curves(self.connection, stream)

    def metric_points(self, run: RunState, stream: StreamState) -> MetricPoints:
        """Which numbers of the stream's next event are points."""
        if stream.metric_points is None:
            stream.metric_points = run_cache_loading.load_metric_points(
                self.connection, run, stream
            )
        return stream.metric_points

    def add_checkpoint_metrics(
        self, run: RunState, stream: StreamState, step: int, metrics: Mapping[str, float]
    ) -> None:
        """Add ``metrics`` to the checkpoints that the stream saved at ``step``."""
        self._insert_checkpoints()
        of_step = and_(
            checkpoints.c.run_key == run.key,
            checkpoints.c.stream_id == stream.id,
            checkpoints.c.step == step,
        )
        query = select(checkpoints.c.n, checkpoints.c.metrics).where(of_step)
        for row in self.connection.execute(query).all():
            merged = metrics_json({**(from_json(row.metrics) or {}), **metrics})
            self.connection.execute(
                update(checkpoints).where(of_step, checkpoints.c.n == row.n).values(metrics=merged)
            )

    def mark_deleted_checkpoints(
        self,
        run: RunState,
        time: float,
        *,
        path: str | None = None,
        folder: str = "",
        kept: Set[int] = frozenset(),
    ) -> None:
        """Mark the checkpoints at ``path``, or those in ``folder`` of other steps than ``kept``."""
        self._insert_checkpoints()
        of_run = and_(checkpoints.c.run_key == run.key, checkpoints.c.deleted_at.is_(None))
        mark = update(checkpoints).values(deleted_at=time)
        if path is not None:
            self.connection.execute(mark.where(of_run, checkpoints.c.path == path))
            return
        rows = self.connection.execute(
            select(checkpoints.c.n, checkpoints.c.path, checkpoints.c.step).where(of_run)
        )
        gone = [
            row.n
            for row in rows.all()
            if row.step not in kept and row.path.rpartition("/")[0] == folder
        ]
        if gone:
            self.connection.execute(mark.where(of_run, checkpoints.c.n.in_(gone)))

    def _insert_checkpoints(self) -> None:
        """Write the new rows of checkpoints now, so that they can be changed."""
        insert_rows(self.connection, checkpoints, self.rows.checkpoints)
        self.rows.checkpoints.clear()

    def flush(self) -> None:
        """Write everything back."""
        rows = self.rows
        for run in self.dirty_runs.values():
            self.update_status(run)
        for table, new in (
            (events, rows.events),
            (points, rows.points),
            (sketches, rows.sketches),
            (tables.blocks, rows.blocks),
            (checkpoints, rows.checkpoints),
            (tables.gaps, rows.gaps),
        ):
            insert_rows(self.connection, table, new)
        values = [
            (*key, step, time, to_text(value, _TEXT_LENGTH))
            for key, (step, time, value) in rows.logged_values.items()
        ]
        insert_rows(self.connection, tables.logged_values, values, replace=("step", "time", "text"))
        counts = [
            (stream.id, kind, n)
            for stream in self.dirty_streams.values()
            for kind, n in stream.new_counts.items()
        ]
        insert_rows(self.connection, event_counts, counts, add="n")
        update_rows(
            self.connection,
            streams,
            STREAM_COLUMNS + RANK_COLUMNS,
            "id",
            [
                (*column_values(s, STREAM_COLUMNS), *column_values(s.rank, RANK_COLUMNS), s.id)
                for s in self.dirty_streams.values()
            ],
        )
        self._update(series, SERIES_COLUMNS, self._dirty_series.values())
        self._update(attempts, ATTEMPT_COLUMNS, self._dirty_attempts.values())
        update_rows(
            self.connection,
            tables.runs,
            (*RUN_COLUMNS, "revision"),
            "key",
            [
                (*column_values(r, RUN_COLUMNS), self._revision, r.key)
                for r in self.dirty_runs.values()
            ],
        )
        self.clear_dirty()

    def drop_run(self, run_id: str) -> None:
        """Drop a run from memory, between transactions."""
        self._runs.pop(run_id, None)

    def clear_dirty(self) -> None:
        """Drop the rows to be written, and runs beyond ``MAX_RUNS``."""
        self.rows = PendingRows()
        for stream in self.dirty_streams.values():
            stream.new_counts.clear()
        for kept in (
            self.dirty_runs,
            self._dirty_attempts,
            self.dirty_streams,
            self._dirty_series,
        ):
            kept.clear()
        while len(self._runs) > MAX_RUNS:
            del self._runs[next(iter(self._runs))]

    def update_status(self, run: RunState) -> None:
        """Judge the attempts that have changed, and the run by its newest one."""
        for attempt in run.attempts.values():
            if attempt.id in self._dirty_attempts:
                ranks = {
                    stream.producer: replace(
                        stream.rank, has_pending_events=stream.has_pending_events
                    )
                    for stream in run.streams.values()
                    if stream.attempt == attempt.attempt and is_rank(stream.producer)
                }
                control_stream = run.streams.get((commands.CONTROL_PRODUCER, attempt.attempt))
                stopped_by = control_stream.rank.stopped_by if control_stream else None
                verdict = judge_attempt(ranks, attempt.process_exit, stopped_by)
                attempt.status, attempt.reason = verdict.status, verdict.reason
                attempt.ended_at, attempt.cause = verdict.ended_at, verdict.cause
        if not run.attempts:
            return
        ordered = order_attempts(run.attempts.values())
        newest = ordered[-1]
        verdict = judge_run(Verdict(newest.status, newest.reason, newest.ended_at))
        run.status, run.reason, run.ended_at = verdict.status, verdict.reason, verdict.ended_at
        run.step, run.max_steps, run.epoch = newest.step, newest.max_steps, newest.epoch
        run.started_at = ordered[0].started_at
        run.stalls_at = newest.stalls_at if newest.status == RUNNING else None

    def load_or_make_run(self, run_id: str) -> RunState:
        """The run as it is stored, made if it is new."""
        run = run_cache_loading.load_run(self.connection, run_id)
        if run is None:
            run = RunState(0, run_id, self.now, RUNNING)
            run.key = self.insert_row(
                tables.runs,
                id=run_id,
                revision=self._revision,
                purging=False,
                **{name: getattr(run, name) for name in RUN_COLUMNS},
            )
        return run

    def _update(
        self, table: Table, columns: tuple[str, ...], states: Iterable[AttemptState | SeriesState]
    ) -> None:
        rows = [(*column_values(state, columns), state.id) for state in states]
        update_rows(self.connection, table, columns, "id", rows)

    def insert_row(self, table: Table, **values: Any) -> int:
        inserted_key = self.connection.execute(insert(table).values(**values)).inserted_primary_key
        key: int = inserted_key[0]  # type: ignore[index]
        return key


def _began_before_deletion(run: RunState, attempt: str, time: float) -> bool:
    """Whether the attempt is part of the deleted run, and not of a later run with the same id.

    Its name holds the time of its start; without one, the time of its first event counts.
    """
    if run.deleted_at is None:
        return False
    timestamp = _ATTEMPT_TIMESTAMP.match(attempt)
    created_at = calendar.timegm(tuple(map(int, timestamp.groups()))) if timestamp else time
    return created_at <= run.deleted_at
