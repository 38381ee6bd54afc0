"""The run history as it is read: by the dashboard, the command line and whoever comes later."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, func, literal, or_, select

from lineside.bus.errors import RunNotFound, UsageError
from lineside.store.database.engine import read_transaction
from lineside.store.database.tables import METRIC, TIMING, head, runs, streams
from lineside.store.history import charts, export, run_list, timeline
from lineside.store.history.audit import read_audit
from lineside.store.history.commands import read_command, read_commands
from lineside.store.history.cursor import cut_page
from lineside.store.history.records import (
    AuditEntry,
    Changes,
    Checkpoint,
    Command,
    EventRow,
    GapRow,
    Page,
    PointRow,
    Points,
    Run,
    Series,
    StreamAccount,
    Timing,
    TimingRow,
)
from lineside.store.history.run_assembly import assemble_runs, ordered_attempts, stream_account

LATEST = "latest"
MAX_LIMIT = 1000
"""Runs or events one page may have."""
_LOOP_SOURCE = "loop"  # the source that a run names which is no Trainer's


class History:
    """Reads of one store, each of one moment in time. Any thread may use it.

    ``attempt`` is everywhere the newest one if it is None. Every method that takes a run's id
    raises RunNotFound if there is no such run, and UsageError for an argument that makes no sense.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def runs(
        self,
        *,
        status: str | None = None,
        project: str | None = None,
        search: str | None = None,
        sort: str = "-started_at",
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Run]:
        """Runs filtered and sorted, ``limit`` (1 to 1,000) at a time.

        ``search`` is looked for in id, name, project, note and tags, whatever the case. ``sort`` is
        one of started_at, ended_at, updated_at, name, project, status, step; a ``-`` before it
        reverses.
        """
        now = time.time()
        limit = min(max(1, limit), MAX_LIMIT)
        query = run_list.run_list_query(
            now,
            status=status,
            project=project,
            search=search,
            sort=sort,
            limit=limit,
            cursor=cursor,
        )
        with read_transaction(self._engine) as connection:
            found = connection.execute(query).all()
            page, after = cut_page(found, limit, sort, lambda row: (row.sort_value, row.id))
            items = assemble_runs(connection, page, now)
        return Page(tuple(items), after)

    def counts(self, *, project: str | None = None, search: str | None = None) -> dict[str, int]:
        """How many runs are in each status, of those that ``runs`` would list."""
        now = time.time()
        status = run_list.status_at(now)
        query = (
            select(status.label("status_now"), func.count().label("n"))
            .where(*run_list.run_filters(project=project, search=search))
            .group_by(status)
        )
        with read_transaction(self._engine) as connection:
            return {row.status_now: row.n for row in connection.execute(query)}

    def projects(self) -> list[str]:
        """The projects that have runs, by name."""
        query = select(run_list.run_project).where(run_list.is_listed).distinct()
        with read_transaction(self._engine) as connection:
            return sorted(connection.execute(query).scalars(), key=str.lower)

    def run(self, run_id: str) -> Run:
        """One run."""
        now = time.time()
        with read_transaction(self._engine) as connection:
            return assemble_runs(connection, [self._run_row(connection, run_id, now)], now)[0]

    def find(self, text: str) -> Run:
        """The run a person means: its id, the beginning of one, its name, or ``latest``.

        Raises:
            RunNotFound: nothing fits.
            UsageError: several runs do.
        """
        now = time.time()
        with read_transaction(self._engine) as connection:
            matches = or_(
                literal(text == LATEST),
                runs.c.id == text,
                runs.c.name == text,
                runs.c.id.startswith(text, autoescape=True),
            )
            found = connection.execute(
                select(runs, run_list.status_at(now).label("status_now"))
                .where(run_list.is_listed, matches)
                .order_by((runs.c.id == text).desc(), runs.c.started_at.desc())
                .limit(4)
            ).all()
            if not found or not text:
                raise RunNotFound(text, self._newest_run_ids(connection))
            if text == LATEST or found[0].id == text or len(found) == 1:
                return assemble_runs(connection, found[:1], now)[0]
        raise UsageError(
            f"{text!r} fits several runs ({', '.join(row.id for row in found)}): "
            "give more of the id"
        )

    def streams(self, run_id: str) -> list[StreamAccount]:
        """What came of each producer's stream, in order of attempt and producer."""
        with read_transaction(self._engine) as connection:
            key = self._run_row(connection, run_id).key
            rows = connection.execute(
                select(streams).where(streams.c.run_key == key, streams.c.ignored.is_(False))
            ).all()
        # Shorter names first: rank2 before rank10, and ranks before the others.
        rows = sorted(rows, key=lambda row: (row.attempt, len(row.producer), row.producer))
        return [stream_account(row) for row in rows]

    def gaps(self, run_id: str) -> list[GapRow]:
        """The holes in the run's streams, in the order they were found."""
        with read_transaction(self._engine) as connection:
            key = self._run_row(connection, run_id).key
            return timeline.read_gaps(connection, key)

    def configuration(self, run_id: str, attempt: str | None = None) -> dict[str, Any]:
        """What ``run_start`` said: arguments, model, versions, process; empty if it never came."""
        with read_transaction(self._engine) as connection:
            key = self._run_row(connection, run_id).key
            attempt = self._resolve_attempt(connection, key, run_id, attempt)
            return timeline.read_facts(connection, key, attempt)

    def metrics(
        self, run_id: str, attempt: str | None = None, *, producer: str = "rank0"
    ) -> list[Series]:
        """The metrics of one attempt, by name."""
        with read_transaction(self._engine) as connection:
            key = self._run_row(connection, run_id).key
            attempt = self._resolve_attempt(connection, key, run_id, attempt)
            return charts.read_metrics(connection, charts.StreamKey(key, attempt, producer))

    def points(
        self,
        run_id: str,
        name: str,
        *,
        points: int | None = 1000,
        x: str = "step",
        start: float | None = None,
        end: float | None = None,
        attempt: str | None = None,
        producer: str = "rank0",
    ) -> Points:
        """One metric's curve as about ``points`` points; every one if it is None.

        Made short, it keeps each block's first, last, lowest and highest point and, while they are
        at most ``points``, every one that is not finite. ``start`` and ``end``, steps or seconds
        since the epoch as ``x`` says, ask for a part. A metric nobody logged has no points.
        """
        request = charts.CurveRequest(points, x, start, end)
        with read_transaction(self._engine) as connection:
            key = self._run_row(connection, run_id).key
            attempt = self._resolve_attempt(connection, key, run_id, attempt)
            stream_key = charts.StreamKey(key, attempt, producer)
            return charts.read_curve(connection, stream_key, METRIC, name, request)

    def timing(
        self,
        run_id: str,
        *,
        points: int | None = 1000,
        x: str = "step",
        start: float | None = None,
        end: float | None = None,
        attempt: str | None = None,
        producer: str = "rank0",
    ) -> Timing:
        """Seconds of compute and of waiting, by step, made short like ``points``."""
        request = charts.CurveRequest(points, x, start, end)
        with read_transaction(self._engine) as connection:
            key = self._run_row(connection, run_id).key
            attempt = self._resolve_attempt(connection, key, run_id, attempt)
            stream_key = charts.StreamKey(key, attempt, producer)
            compute, wait = (
                charts.read_curve(connection, stream_key, TIMING, name, request)
                for name in ("compute", "wait")
            )
        return Timing(compute, wait)

    def events(
        self,
        run_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        kinds: Sequence[str] | None = None,
        limit: int = 200,
    ) -> Page[EventRow]:
        """Recorded events in order of recording; ``next`` is what to give as ``after``.

        With ``before`` the newest of those numbered below it come first, and ``next`` is what to
        give as ``before``. Step-level kinds and heartbeats have no rows: they are in
        ``event_counts`` and ``timing``.
        """
        limit = min(max(1, limit), MAX_LIMIT)
        with read_transaction(self._engine) as connection:
            key = self._run_row(connection, run_id).key
            found = timeline.read_events(connection, key, after, before, kinds, limit + 1)
        return Page(tuple(found[:limit]), str(found[limit - 1].n) if len(found) > limit else None)

    def checkpoints(self, run_id: str) -> list[Checkpoint]:
        """Checkpoints in the order they were saved, over all attempts."""
        with read_transaction(self._engine) as connection:
            row = self._run_row(connection, run_id)
            return timeline.read_checkpoints(connection, row.key, row.best_checkpoint)

    def commands_unavailable_reason(self, run: Run) -> str:
        """Why the run takes no commands, as a sentence; empty if it may have a training that does,
        be it one that has not begun."""
        if not run.accepts_commands:
            return f"The run is {run.status}: it takes no commands any more."
        if self.configuration(run.id).get("source") == _LOOP_SOURCE:
            return "It is a loop with start_run, which takes no commands."
        return ""

    def commands(self, run_id: str, *, limit: int = 50, cursor: str | None = None) -> Page[Command]:
        """Commands to the run as they stand now, the newest first, ``limit`` (1 to 1,000) at a
        time. One that expired is so even if nobody is left to say it."""
        limit = min(max(1, limit), MAX_LIMIT)
        with read_transaction(self._engine) as connection:
            key = self._run_row(connection, run_id).key
            return read_commands(connection, key, time.time(), limit, cursor)

    def command(self, run_id: str, name: str) -> Command | None:
        """One command to the run, by its id; None if it has none of this id."""
        with read_transaction(self._engine) as connection:
            key = self._run_row(connection, run_id).key
            return read_command(connection, key, name, time.time())

    def audit(
        self, *, run: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[AuditEntry]:
        """Who asked for what and what came of it, the newest first, ``limit`` (1 to 1,000) at a
        time. ``run`` is the id of a run, which may be deleted or never have been."""
        with read_transaction(self._engine) as connection:
            limit = min(max(1, limit), MAX_LIMIT)
            return read_audit(connection, run, time.time(), limit, cursor)

    def iter_points(
        self, run_id: str, *, attempt: str | None = None, names: Sequence[str] | None = None
    ) -> Iterator[PointRow]:
        """Every point of every metric, of all attempts if ``attempt`` is None, a few at a time.

        Errors come with the first item. The history stays as it was at that moment: go through to
        the end, or close the iterator.
        """
        with read_transaction(self._engine) as connection:
            key = self._run_row(connection, run_id).key
            yield from export.iter_points(connection, key, attempt, names)

    def iter_timing(self, run_id: str, *, attempt: str | None = None) -> Iterator[TimingRow]:
        """The seconds of every step, in the manner of ``iter_points``."""
        with read_transaction(self._engine) as connection:
            key = self._run_row(connection, run_id).key
            yield from export.iter_timing(connection, key, attempt)

    def iter_events(self, run_id: str, *, attempt: str | None = None) -> Iterator[EventRow]:
        """Every event that has a row, in the manner of ``iter_points``."""
        with read_transaction(self._engine) as connection:
            key = self._run_row(connection, run_id).key
            yield from export.iter_events(connection, key, attempt)

    def changes(self, after: int) -> Changes:
        """What changed since revision ``after``; give the answer's ``revision`` the next time."""
        with read_transaction(self._engine) as connection:
            revision: int = connection.execute(select(head.c.revision)).scalar_one()
            if revision == after:
                return Changes(revision, ())
            rows = connection.execute(
                select(runs.c.id)
                .where(runs.c.revision > after)
                .where(run_list.is_listed | runs.c.deleted_at.is_not(None))
                .order_by(runs.c.revision)
            ).all()
        return Changes(revision, tuple(row.id for row in rows))

    def _run_row(self, connection: Connection, run_id: str, now: float = 0.0) -> Any:
        row = connection.execute(
            select(runs, run_list.status_at(now).label("status_now")).where(
                run_list.is_listed, runs.c.id == run_id
            )
        ).first()
        if row is None:
            raise RunNotFound(run_id, self._newest_run_ids(connection))
        return row

    def _newest_run_ids(self, connection: Connection) -> tuple[str, ...]:
        rows = connection.execute(
            select(runs.c.id).where(run_list.is_listed).order_by(runs.c.started_at.desc()).limit(3)
        )
        return tuple(row.id for row in rows)

    def _resolve_attempt(
        self, connection: Connection, key: int, run_id: str, attempt: str | None
    ) -> str | None:
        known = [row.attempt for row in ordered_attempts(connection, [key])]
        if attempt is None:
            return known[-1] if known else None
        if attempt not in known:
            raise UsageError(
                f"run {run_id} has no attempt {attempt!r}: expected one of {', '.join(known)}"
            )
        return attempt
