"""The writer's memory of the runs it is writing: loaded when needed, written back at commit.

A writing transaction reads almost nothing: counters, open steps and the unfinished blocks of curves
stay in memory between transactions. All of it can be made again from the rows, so after a kill,
after a transaction that failed, and for a run that another process changed, it is loaded again.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Table, insert, select

from lineside.bus.protocol import commands
from lineside.store.database import tables
from lineside.store.database.tables import (
    attempts,
    event_counts,
    events,
    points,
    series,
    sketches,
    streams,
)
from lineside.store.recording import run_cache_loading
from lineside.store.recording.bulk import increment_column, insert_rows, update_rows
from lineside.store.recording.run_state import (
    ATTEMPT_COLUMNS,
    RANK_COLUMNS,
    RUN_COLUMNS,
    SERIES_COLUMNS,
    STREAM_COLUMNS,
    AttemptState,
    NewestLog,
    PendingRows,
    RunState,
    SeriesState,
    StreamState,
    column_values,
    is_rank,
)
from lineside.store.status import attempt_order
from lineside.store.status.verdict import RUNNING, Verdict, judge_attempt, judge_run

MAX_RUNS = 200
"""Runs kept in memory between transactions; those written longest ago go first."""
MAX_SERIES = 10_000
"""Curves one stream may have: who logs more names than that makes a new one each time."""

_ATTEMPT_TIMESTAMP = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)-")


class RunCache:
    """Between ``begin`` and ``flush`` it belongs to one transaction on ``connection``."""

    def __init__(self) -> None:
        self.rows = PendingRows()
        self.now = 0.0
        self._runs: dict[str, RunState] = {}
        self._revision = 0
        self._dirty_runs: dict[str, RunState] = {}
        self._dirty_attempts: dict[int, AttemptState] = {}
        self._dirty_streams: dict[int, StreamState] = {}
        self._dirty_series: dict[int, SeriesState] = {}

    def begin(self, connection: Connection, revision: int, now: float) -> None:
        """Start a transaction that makes ``revision``; ``now`` is seconds since the epoch."""
        if revision <= self._revision:
            self._runs.clear()  # the store was put back to an older copy of itself
        elif revision != self._revision + 1 and self._runs:
            changed = connection.execute(
                select(tables.runs.c.id).where(tables.runs.c.revision > self._revision)
            )
            for (run_id,) in changed:
                self._runs.pop(run_id, None)
        self._connection = connection
        self._revision = revision
        self.now = now

    @property
    def connection(self) -> Connection:
        """The transaction's, for rows so rare that nothing of them is kept in memory."""
        return self._connection

    def run(self, run_id: str) -> RunState:
        """The run, loaded, or made if it is new."""
        run = self._dirty_runs.get(run_id)
        if run is None:
            run = self._runs.pop(run_id, None) or self._load_or_make_run(run_id)
            self._runs[run_id] = self._dirty_runs[run_id] = run
        return run

    def stream(self, run: RunState, producer: str, attempt: str, time: float) -> StreamState:
        """The stream, made if it is new; ``time`` is that of the event that speaks of it."""
        found = run.streams.get((producer, attempt))
        if found is None:
            ignored = is_rank(producer) and _began_before_deletion(run, attempt, time)
            found = StreamState(0, producer, attempt, ignored, self.now)
            found.is_loaded = found.logged_known = True
            found.id = self._insert(
                streams,
                run_key=run.key,
                producer=producer,
                attempt=attempt,
                ignored=ignored,
                **{name: getattr(found, name) for name in STREAM_COLUMNS},
                **{name: getattr(found.rank, name) for name in RANK_COLUMNS},
            )
            run.streams[producer, attempt] = found
        if found.id not in self._dirty_streams:
            self._dirty_streams[found.id] = found
            found.heard_at = self.now
            if is_rank(producer) and not found.ignored:
                self.attempt(run, attempt, time)
        return found

    def attempt(self, run: RunState, name: str, time: float) -> AttemptState:
        """The attempt, made if it is new, then as started at ``time``."""
        found = run.attempts.get(name)
        if found is None:
            found = AttemptState(0, name, time, self.now, RUNNING)
            found.id = self._insert(
                attempts,
                run_key=run.key,
                attempt=name,
                **{column: getattr(found, column) for column in ATTEMPT_COLUMNS},
            )
            run.attempts[name] = found
        self._dirty_attempts[found.id] = found
        found.heard_at = self.now
        return found

    def series(self, stream: StreamState, kind: str, name: str) -> SeriesState | None:
        """The curve, made if it is new; None if the stream has too many already."""
        found = stream.series.get((kind, name))
        if found is None:
            if len(stream.series) >= MAX_SERIES:
                return None
            found = SeriesState(0)
            found.id = self._insert(
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
        """Load what folding the stream's events needs."""
        if not stream.is_loaded:
            run_cache_loading.load_contents(self._connection, stream)

    def newest_log(self, run: RunState, stream: StreamState) -> NewestLog | None:
        """The stream's newest log if no evaluate or predict came since."""
        if not stream.logged_known:
            stream.logged = run_cache_loading.load_newest_log(self._connection, run, stream)
            stream.logged_known = True
        return stream.logged

    def flush(self) -> None:
        """Write everything back."""
        connection, rows = self._connection, self.rows
        for run in self._dirty_runs.values():
            self._update_status(run)
        for table, new in (
            (events, rows.events),
            (points, rows.points),
            (sketches, rows.sketches),
            (tables.checkpoints, rows.checkpoints),
            (tables.gaps, rows.gaps),
        ):
            insert_rows(connection, table, new)
        update_rows(
            connection,
            series,
            SERIES_COLUMNS,
            ("id",),
            [(*column_values(s, SERIES_COLUMNS), s.id) for s in self._dirty_series.values()],
        )
        self._flush_counts()
        update_rows(
            connection,
            streams,
            STREAM_COLUMNS + RANK_COLUMNS,
            ("id",),
            [
                (*column_values(s, STREAM_COLUMNS), *column_values(s.rank, RANK_COLUMNS), s.id)
                for s in self._dirty_streams.values()
            ],
        )
        update_rows(
            connection,
            attempts,
            ATTEMPT_COLUMNS,
            ("id",),
            [(*column_values(a, ATTEMPT_COLUMNS), a.id) for a in self._dirty_attempts.values()],
        )
        update_rows(
            connection,
            tables.runs,
            (*RUN_COLUMNS, "revision"),
            ("key",),
            [
                (*column_values(r, RUN_COLUMNS), self._revision, r.key)
                for r in self._dirty_runs.values()
            ],
        )
        self._clear_dirty()

    def _clear_dirty(self) -> None:
        self.rows = PendingRows()
        for kept in (
            self._dirty_runs,
            self._dirty_attempts,
            self._dirty_streams,
            self._dirty_series,
        ):
            kept.clear()
        while len(self._runs) > MAX_RUNS:
            del self._runs[next(iter(self._runs))]

    def _flush_counts(self) -> None:
        new, increments = [], []
        for stream in self._dirty_streams.values():
            for kind, n in stream.new_counts.items():
                if kind in stream.kinds:
                    increments.append((n, stream.id, kind))
                else:
                    new.append((stream.id, kind, n))
                    stream.kinds.add(kind)
            stream.new_counts.clear()
        insert_rows(self._connection, event_counts, new)
        increment_column(self._connection, event_counts, "n", ("stream_id", "kind"), increments)

    def _update_status(self, run: RunState) -> None:
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
        in_order = attempt_order.in_order(run.attempts.values())
        newest = in_order[-1]
        verdict = judge_run(Verdict(newest.status, newest.reason, newest.ended_at))
        run.status, run.reason, run.ended_at = verdict.status, verdict.reason, verdict.ended_at
        run.step, run.max_steps, run.epoch = newest.step, newest.max_steps, newest.epoch
        run.started_at = in_order[0].started_at
        run.stalls_at = newest.stalls_at if newest.status == RUNNING else None

    def _load_or_make_run(self, run_id: str) -> RunState:
        run = run_cache_loading.load_run(self._connection, run_id)
        if run is None:
            run = RunState(0, run_id, self.now, RUNNING)
            run.key = self._insert(
                tables.runs,
                id=run_id,
                revision=self._revision,
                purging=False,
                **{name: getattr(run, name) for name in RUN_COLUMNS},
            )
        return run

    def _insert(self, table: Table, **values: Any) -> int:
        inserted_key = self._connection.execute(insert(table).values(**values)).inserted_primary_key
        key: int = inserted_key[0]  # type: ignore[index]
        return key


def _began_before_deletion(run: RunState, attempt: str, time: float) -> bool:
    """Whether an attempt belongs to what was deleted, and not to a run begun anew since.

    Its name says when it was made; one that does not is as old as its first event.
    """
    if run.deleted_at is None:
        return False
    timestamp = _ATTEMPT_TIMESTAMP.match(attempt)
    created_at = calendar.timegm(tuple(map(int, timestamp.groups()))) if timestamp else time
    return created_at <= run.deleted_at
