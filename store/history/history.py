"""The read interface of the run history."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any

from sqlalchemy import Connection, Engine, func, literal, or_, select

from lineside.bus.errors import CheckpointNotFound, RunNotFound, UsageError
from lineside.bus.protocol.commands import CONTROL_ON
from lineside.bus.protocol.events import INTERNAL_RUN, RANK_0
from lineside.store.database.engine import read_transaction
from lineside.store.database.tables import METRIC, TIMING, head, runs, streams
from lineside.store.history import export, run_list, timeline
from lineside.store.history.alerts import AlertHistory
from lineside.store.history.audit import read_audit
from lineside.store.history.checkpoints import Checkpoint, read_checkpoints
from lineside.store.history.commands import read_command, read_commands
from lineside.store.history.cursor import cut_page
from lineside.store.history.curves import charts
from lineside.store.history.curves.pieces import AttemptSelection, CurveRequest, CurveSource
from lineside.store.history.curves.records import PointRow, Points, Series, Timing
from lineside.store.history.records import (
    AuditEntry,
    Changes,
    Command,
    EventRow,
    GapRow,
    LoggedValue,
    Page,
    Run,
    StreamAccount,
)
from lineside.store.history.run_assembly import (
    assemble_runs,
    attempt_name,
    counted_steps,
    ordered_attempts,
    stream_account,
)

LATEST = "latest"
STITCHED, ALL = "stitched", "all"
"""Several attempts: what training really went through, and that with what it repeated later."""
MAX_LIMIT = 1000
"""The most items of one page."""
_LOOP_SOURCE = "loop"  # the `source` in run_start of a loop with start_run


class History:
    """Reads from one store; each read sees the store as of one moment. Any thread may use it.

    ``attempt`` is the name or number of one attempt, or of several: ``STITCHED`` leaves out the
    points after the step from which a later attempt resumed, ``ALL`` marks them. Pages have at most
    ``limit`` items, 1 to 1,000. Methods raise RunNotFound, and UsageError for a wrong argument.

    Statuses are as of ``as_of``, in seconds since the epoch: up to then the store is recorded, so
    a run whose newest events wait for a recorder is not taken for one that sends none.
    """

    def __init__(self, engine: Engine, as_of: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self.alerts = AlertHistory(engine)
        self._as_of = as_of

    def runs(
        self,
        *,
        statuses: Collection[str] = (),
        project: str | None = None,
        search: str | None = None,
        tag: str | None = None,
        group: str | None = None,
        sort: str = "-started_at",
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Run]:
        """A page of runs, filtered and sorted.

        ``statuses`` are those of the runs; none means any. ``search`` matches text in id, name,
        project, note, tags and group, and ``tag`` a whole tag, both ignoring case. ``sort`` is one
        of started_at, ended_at, updated_at, name, project, status, step; a ``-`` before it
        reverses.
        """
        now = self._as_of()
        limit = _clamp(limit)
        query = run_list.run_list_query(
            now,
            statuses=statuses,
            project=project,
            search=search,
            tag=tag,
            group=group,
            sort=sort,
            limit=limit,
            cursor=cursor,
        )
        with read_transaction(self._engine) as connection:
            found = connection.execute(query).all()
            page, after = cut_page(found, limit, sort, lambda row: (row.sort_value, row.id))
            items = assemble_runs(connection, page, now)
        return Page(tuple(items), after)

    def counts(
        self,
        *,
        project: str | None = None,
        search: str | None = None,
        tag: str | None = None,
        group: str | None = None,
    ) -> dict[str, int]:
        """The number of runs in each status, of those that ``runs`` would list."""
        now = self._as_of()
        status = run_list.status_at(now)
        query = (
            select(status.label("status_now"), func.count().label("n"))
            .where(*run_list.run_filters(project=project, search=search, tag=tag, group=group))
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
        now = self._as_of()
        with read_transaction(self._engine) as connection:
            return assemble_runs(connection, [self._run_row(connection, run_id, now)], now)[0]

    def find(self, text: str) -> Run:
        """The run with this id, beginning of an id or name; the newest one for ``latest``.

        Raises:
            RunNotFound: no run matches.
            UsageError: several runs match.
        """
        now = self._as_of()
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
                raise RunNotFound(text, run_list.newest_ids(connection))
            if text == LATEST or found[0].id == text or len(found) == 1:
                return assemble_runs(connection, found[:1], now)[0]
        raise UsageError(
            f"{text!r} matches several runs ({', '.join(row.id for row in found)}): "
            "give more of the id"
        )

    def streams(self, run_id: str) -> list[StreamAccount]:
        """The account of each stream, by attempt and producer."""
        with self._run(run_id) as (connection, run):
            rows = connection.execute(
                select(streams).where(streams.c.run_key == run.key, streams.c.ignored.is_(False))
            ).all()
        # Shorter names first: rank2 before rank10, and ranks before other producers.
        rows = sorted(rows, key=lambda row: (row.attempt, len(row.producer), row.producer))
        return [stream_account(row) for row in rows]

    def gaps(self, run_id: str) -> list[GapRow]:
        """The gaps in the run's streams, in the order they were found."""
        with self._run(run_id) as (connection, run):
            return timeline.read_gaps(connection, run.key)

    def configuration(self, run_id: str, attempt: str | None = None) -> dict[str, Any]:
        """The data of ``run_start``: arguments, model, versions, process; empty without one.

        ``attempt`` is one attempt, by default the newest.
        """
        with self._run(run_id) as (connection, run):
            rows = ordered_attempts(connection, [run.key])
            numbers = {row.attempt: number for number, row in enumerate(rows, 1)}
            if attempt is not None:
                attempt = attempt_name(run, attempt, numbers)
            elif rows:
                attempt = rows[-1].attempt
            return timeline.read_facts(connection, run.key, attempt)

    def metrics(
        self, run_id: str, attempt: str = STITCHED, *, producer: str | None = None
    ) -> list[Series]:
        """The metrics of the attempts and of the producers beside the training, or of ``producer``.

        Rank 0's come first, then the others by producer and name. A metric of a producer beside the
        training covers the whole run, except for its streams named after another attempt.
        """
        with self._run(run_id) as (connection, run):
            selection = self._attempts(connection, run, attempt)
            source = CurveSource(run.key, selection, producer)
            return charts.read_metrics(connection, source)

    def logged_values(self, run_id: str) -> list[LoggedValue]:
        """The newest value of each logged name where it is no number; at most 1,000."""
        with self._run(run_id) as (connection, run):
            return timeline.read_logged_values(connection, run.key, MAX_LIMIT)

    def points(
        self,
        run_id: str,
        name: str,
        *,
        points: int | None = 1000,
        x: str = "step",
        start: float | None = None,
        end: float | None = None,
        attempt: str = STITCHED,
        producer: str | None = None,
        overview: bool = False,
    ) -> Points:
        """The curve of one metric as about ``points`` points; all of them if it is None.

        Downsampled, it keeps each block's first, last, lowest and highest point and, if they are at
        most ``points``, all that are not finite. ``start`` and ``end`` (steps, or seconds since the
        epoch, as ``x``) select a part. A metric that was never logged has no points. ``producer``
        defaults to the first in ``metrics`` with this metric: rank 0 if it has one. With
        ``overview`` the answer has means of the whole curve, to be smoothed.
        """
        request = CurveRequest(points, x, start, end, overview)
        with self._run(run_id) as (connection, run):
            selection = self._attempts(connection, run, attempt)
            source = CurveSource(run.key, selection, producer)
            return charts.read_curve(connection, source, METRIC, name, request)

    def timing(
        self,
        run_id: str,
        *,
        points: int | None = 1000,
        x: str = "step",
        start: float | None = None,
        end: float | None = None,
        attempt: str = STITCHED,
        producer: str = RANK_0,
    ) -> Timing:
        """Seconds of compute and of waiting by step, downsampled like ``points``."""
        request = CurveRequest(points, x, start, end)
        with self._run(run_id) as (connection, run):
            selection = self._attempts(connection, run, attempt)
            source = CurveSource(run.key, selection, producer)
            compute, wait = (
                charts.read_curve(connection, source, TIMING, name, request)
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
        with_data: bool = True,
    ) -> Page[EventRow]:
        """A page of events in order of recording; its ``next`` is the ``after`` of the next page.

        With ``before``, the newest events with numbers below it, newest first; ``next`` is then
        the ``before`` of the next page. Step-level kinds and heartbeats have no rows: see
        ``event_counts`` and ``timing``. A page with long data has fewer than ``limit`` events;
        without ``with_data`` they have none.
        """
        with self._run(run_id) as (connection, run):
            found, has_more = timeline.read_events(
                connection, run.key, after, before, kinds, _clamp(limit), with_data=with_data
            )
        return Page(tuple(found), str(found[-1].n) if has_more else None)

    def checkpoints(self, run_id: str) -> list[Checkpoint]:
        """The checkpoints of all attempts in the order they were saved."""
        with self._run(run_id) as (connection, run):
            return read_checkpoints(connection, run.key, run.best_checkpoint)

    def checkpoint(self, run_id: str, checkpoint_id: str) -> Checkpoint:
        """The newest save of one checkpoint; raises CheckpointNotFound if there is none."""
        found = {one.id: one for one in self.checkpoints(run_id)}
        if checkpoint_id not in found:
            raise CheckpointNotFound(run_id, checkpoint_id)
        return found[checkpoint_id]

    def commands_unavailable_reason(self, run: Run) -> str:
        """Why the run takes no commands, as a sentence; empty if a training may take them."""
        if not run.accepts_commands:
            return f"The run is {run.status}: it takes no commands any more."
        is_announced = CONTROL_ON in run.event_counts
        if not is_announced and self.configuration(run.id).get("source") == _LOOP_SOURCE:
            return "It is a loop with start_run, which takes no commands."
        return ""

    def commands(self, run_id: str, *, limit: int = 50, cursor: str | None = None) -> Page[Command]:
        """A page of commands to the run with their present states, newest first.

        A command is expired after its time even if no process has reported that.
        """
        with self._run(run_id) as (connection, run):
            return read_commands(connection, run.key, self._as_of(), _clamp(limit), cursor)

    def command(self, run_id: str, command_id: str) -> Command | None:
        """One command to the run; None if it has none with this id."""
        with self._run(run_id) as (connection, run):
            return read_command(connection, run.key, command_id, self._as_of())

    def audit(
        self, *, run: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[AuditEntry]:
        """A page of the audit, newest first; ``run`` may be deleted or may never have existed."""
        with read_transaction(self._engine) as connection:
            return read_audit(connection, run, self._as_of(), _clamp(limit), cursor)

    def iter_points(
        self,
        run_id: str,
        *,
        kind: str = METRIC,
        attempt: str = ALL,
        names: Sequence[str] | None = None,
    ) -> Iterator[PointRow]:
        """All points of all curves of a kind, by default of all attempts.

        ``kind`` is METRIC, or TIMING for the curves ``compute`` and ``wait`` in seconds. Rows are
        read as they are needed, as of the moment of the first one, which also raises any error.
        Read to the end or close the iterator: it holds a connection.
        """
        with self._run(run_id) as (connection, run):
            selection = None if attempt == ALL else self._attempts(connection, run, attempt)
            yield from export.iter_points(connection, run.key, kind, selection, names)

    def iter_events(self, run_id: str, *, attempt: str | None = None) -> Iterator[EventRow]:
        """All events that have a row, read like ``iter_points``."""
        with self._run(run_id) as (connection, run):
            yield from export.iter_events(connection, run.key, attempt)

    def revision(self) -> int:
        """The current revision of the store: each change of a run raises it."""
        with read_transaction(self._engine) as connection:
            revision: int = connection.execute(select(head.c.revision)).scalar_one()
        return revision

    def changes(self, after: int) -> Changes:
        """What changed since revision ``after``, the ``revision`` of the previous answer."""
        with read_transaction(self._engine) as connection:
            revision: int = connection.execute(select(head.c.revision)).scalar_one()
            if revision == after:
                return Changes(revision, ())
            changed = run_list.changed_ids(connection, after)
        ids = tuple(run_id for run_id in changed if run_id != INTERNAL_RUN)
        return Changes(revision, ids, alerts=len(ids) < len(changed))

    @contextmanager
    def _run(self, run_id: str) -> Iterator[tuple[Connection, Any]]:
        with read_transaction(self._engine) as connection:
            yield connection, self._run_row(connection, run_id)

    def _run_row(self, connection: Connection, run_id: str, now: float = 0.0) -> Any:
        row = connection.execute(
            select(runs, run_list.status_at(now).label("status_now")).where(
                run_list.is_listed, runs.c.id == run_id
            )
        ).first()
        if row is None:
            raise RunNotFound(run_id, run_list.newest_ids(connection))
        return row

    def _attempts(self, connection: Connection, run: Any, attempt: str) -> AttemptSelection:
        rows = ordered_attempts(connection, [run.key])
        numbers = {row.attempt: number for number, row in enumerate(rows, 1)}
        if attempt not in (STITCHED, ALL):
            name = attempt_name(run, attempt, numbers, (STITCHED, ALL))
            return AttemptSelection({name: inf}, numbers)
        last_steps = counted_steps(connection, rows)
        selected = {row.attempt: last_steps[row.id] for row in rows}
        if attempt == STITCHED:
            selected = {name: last for name, last in selected.items() if last > -inf}
        return AttemptSelection(selected, numbers, with_superseded=attempt == ALL)


def _clamp(limit: int) -> int:
    return min(max(1, limit), MAX_LIMIT)
