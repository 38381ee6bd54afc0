"""Assembles runs from their rows: a page of runs in a handful of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from sqlalchemy import Connection, func, select

from lineside.bus.errors import UsageError
from lineside.bus.protocol.events import RANK_0
from lineside.store.database.tables import METRIC, attempts, event_counts, points, series, streams
from lineside.store.database.values import (
    decode_float,
    from_json,
    to_datetime,
    to_optional_datetime,
)
from lineside.store.history.records import Attempt, Failure, LossAccount, Run, StreamAccount
from lineside.store.history.run_list import DEFAULT_PROJECT
from lineside.store.status.attempt_order import order_attempts
from lineside.store.status.lineage import last_counted_steps
from lineside.store.status.liveness import PAUSED, STALLED, status_now
from lineside.store.status.verdict import RUNNING


def ordered_attempts(connection: Connection, keys: Sequence[int]) -> list[Any]:
    """The attempts of these runs, sorted by run and then as ``order_attempts``."""
    found: dict[int, list[Any]] = defaultdict(list)
    for row in connection.execute(select(attempts).where(attempts.c.run_key.in_(keys))):
        found[row.run_key].append(row)
    return [attempt for key in sorted(found) for attempt in order_attempts(found[key])]


def counted_steps(connection: Connection, attempt_rows: Sequence[Any]) -> dict[int, float]:
    """The last step of each of these attempts that counts, by its id (``last_counted_steps``)."""
    found: dict[int, float] = {}
    by_run: dict[int, list[Any]] = defaultdict(list)
    for row in attempt_rows:
        by_run[row.run_key].append(row)
    several = [key for key, rows in by_run.items() if len(rows) > 1]
    first_steps: dict[int, dict[str, int]] = defaultdict(dict)
    for key, attempt, step in connection.execute(
        select(streams.c.run_key, streams.c.attempt, func.min(points.c.step))
        .join(series, series.c.stream_id == streams.c.id)
        .join(points, (points.c.series_id == series.c.id) & (points.c.idx == 0))
        .where(streams.c.run_key.in_(several), streams.c.producer == RANK_0)
        .group_by(streams.c.run_key, streams.c.attempt)
    ):
        first_steps[key][attempt] = step
    for key, rows in by_run.items():
        last_steps = last_counted_steps(rows, first_steps[key])
        found.update(zip((row.id for row in rows), last_steps, strict=True))
    return found


def attempt_name(
    run: Any, attempt: str, numbers: Mapping[str, int], others: Sequence[str] = ()
) -> str:
    """The attempt with this name or number.

    Raises:
        UsageError: the run has none; ``others`` are also possible.
    """
    for name, number in numbers.items():
        if attempt in (name, str(number)):
            return name
    expected = ", ".join((*others, *(f"{number} ({name})" for name, number in numbers.items())))
    raise UsageError(f"run {run.id} has no attempt {attempt!r}: expected one of {expected}")


def assemble_runs(connection: Connection, rows: Sequence[Any], now: float) -> list[Run]:
    """The runs of these rows (of ``runs`` with ``status_now``), in the same order."""
    keys = [row.key for row in rows]
    attempt_rows: dict[int, list[Any]] = defaultdict(list)
    ordered = ordered_attempts(connection, keys)
    for attempt in ordered:
        attempt_rows[attempt.run_key].append(attempt)
    last_steps = counted_steps(connection, ordered)
    newest = {key: found[-1].attempt for key, found in attempt_rows.items()}

    row: Any
    totals: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    rank_0_stream_runs: dict[int, int] = {}
    stream_rows: dict[tuple[int, str, str], Any] = {}
    for row in connection.execute(
        select(
            streams.c.id,
            streams.c.run_key,
            streams.c.producer,
            streams.c.attempt,
            streams.c.emitted,
            streams.c.recorded,
            streams.c.missing,
            streams.c.phase,
            streams.c.error,
            streams.c.traceback,
        ).where(streams.c.run_key.in_(keys), streams.c.ignored.is_(False))
    ):
        stream_rows[row.run_key, row.producer, row.attempt] = row
        total = totals[row.run_key]
        total[0] += row.emitted
        total[1] += row.recorded
        total[2] += row.missing
        if row.producer == RANK_0 and row.attempt == newest.get(row.run_key):
            rank_0_stream_runs[row.id] = row.run_key

    counts: dict[int, dict[str, int]] = defaultdict(dict)
    for key, kind, n in connection.execute(
        select(streams.c.run_key, event_counts.c.kind, func.sum(event_counts.c.n))
        .join(streams, streams.c.id == event_counts.c.stream_id)
        .where(streams.c.run_key.in_(keys), streams.c.ignored.is_(False))
        .group_by(streams.c.run_key, event_counts.c.kind)
        .order_by(event_counts.c.kind)
    ):
        counts[key][kind] = int(n)

    metrics: dict[int, dict[str, float]] = defaultdict(dict)
    for row in connection.execute(
        select(series.c.stream_id, series.c.name, series.c.last, series.c.last_flag)
        .where(series.c.stream_id.in_(list(rank_0_stream_runs)), series.c.kind == METRIC)
        .order_by(series.c.name)
    ):
        metrics[rank_0_stream_runs[row.stream_id]][row.name] = decode_float(row.last, row.last_flag)

    attempt_records = {
        key: tuple(
            _attempt(a, n, stream_rows, now, last_steps[a.id]) for n, a in enumerate(found, 1)
        )
        for key, found in attempt_rows.items()
    }
    return [
        Run(
            id=row.id,
            name=row.name or row.id,
            project=row.project or DEFAULT_PROJECT,
            status=row.status_now,
            phase=attempt_records[row.key][-1].phase,
            reason=attempt_records[row.key][-1].reason or row.reason,
            error=attempt_records[row.key][-1].error,
            attempts=attempt_records[row.key],
            step=row.step,
            max_steps=row.max_steps,
            epoch=row.epoch,
            started_at=to_datetime(row.started_at),
            ended_at=to_optional_datetime(row.ended_at),
            updated_at=to_datetime(row.heard_at),
            event_counts=counts[row.key],
            loss_account=_loss_account(*totals[row.key]),
            metrics=metrics[row.key],
            note=row.note,
            tags=tuple(from_json(row.tags) or ()),
            group=row.group,
        )
        for row in rows
    ]


def stream_account(row: Any) -> StreamAccount:
    """The loss account of a row of ``streams``."""
    loss = _loss_account(row.emitted, row.recorded, row.missing)
    return StreamAccount(
        producer=row.producer,
        attempt=row.attempt,
        emitted=loss.emitted,
        recorded=loss.recorded,
        gaps=loss.gaps,
        reported_gaps=row.reported,
        lag=loss.lag,
        unreadable=row.unreadable,
        left_out=row.left_out,
        dropped=row.dropped,
        hook_errors=row.hook_errors,
        encode_failures=row.encode_failures,
        hook_ns=row.hook_ns,
        hooks=row.hooks,
        rss=row.rss,
        phase=row.phase,
        step=row.step,
        last_seen=to_datetime(row.heard_at),
    )


def _attempt(
    row: Any,
    number: int,
    stream_rows: Mapping[tuple[int, str, str], Any],
    now: float,
    last_step: float,
) -> Attempt:
    status = status_now(row.status, row.heard_at, row.stalls_at, now)
    rank_0 = stream_rows.get((row.run_key, RANK_0, row.attempt))
    phase = rank_0.phase if rank_0 and row.status == RUNNING else None
    return Attempt(
        attempt=row.attempt,
        number=number,
        status=status,
        phase=phase,
        reason=row.reason or _pause_or_stall(row, status, phase),
        error=_failure(row.cause, stream_rows.get((row.run_key, row.cause, row.attempt))),
        started_at=to_datetime(row.started_at),
        ended_at=to_optional_datetime(row.ended_at),
        updated_at=to_datetime(row.heard_at),
        step=row.step,
        max_steps=row.max_steps,
        epoch=row.epoch,
        resumed_attempt=row.resumed_attempt,
        resumed_step=row.resumed_step,
        superseded_after=None if last_step == inf else int(max(last_step, -1)),
    )


def _pause_or_stall(row: Any, status: str, phase: str | None) -> str | None:
    if status == STALLED:
        doing = f"while {phase}, " if phase else ""
        return (
            f"{doing}no hook was called since {to_datetime(row.progress_at):%Y-%m-%d %H:%M:%S} UTC"
        )
    return PAUSED if (status, phase) == (RUNNING, PAUSED) else None


def _failure(producer: str | None, rank: Any) -> Failure | None:
    if producer is None or rank is None or rank.error is None:
        return None
    kind, _, message = rank.error.partition(": ")
    return Failure(producer, kind, message, rank.traceback or "")


def _loss_account(emitted: int, recorded: int, missing: int) -> LossAccount:
    return LossAccount(emitted, recorded, missing, emitted - recorded - missing)
