"""Queries for the run list: filters, sort keys and pages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select

from lineside.bus.errors import UsageError
from lineside.bus.protocol.events import INTERNAL_RUN
from lineside.bus.wording import did_you_mean
from lineside.store.database.tables import runs
from lineside.store.database.values import to_json
from lineside.store.history.cursor import decode_cursor
from lineside.store.history.records import RUN_STATUSES
from lineside.store.status.liveness import DISCONNECT_SECONDS, DISCONNECTED, STALLED
from lineside.store.status.verdict import RUNNING

DEFAULT_PROJECT = "default"

run_name = func.coalesce(runs.c.name, runs.c.id)
run_project = func.coalesce(runs.c.project, DEFAULT_PROJECT)

is_listed = runs.c.started_at.is_not(None)
"""Whether a row is a listed run: it has an attempt and is not deleted."""


def status_at(now: float) -> ColumnElement[str]:
    """A run's status as of ``now``, seconds since the epoch."""
    is_running = runs.c.status == RUNNING
    silent = and_(is_running, runs.c.heard_at < now - DISCONNECT_SECONDS)
    stalled = and_(is_running, runs.c.stalls_at < now)
    return case((silent, DISCONNECTED), (stalled, STALLED), else_=runs.c.status)


def newest_ids(connection: Connection) -> tuple[str, ...]:
    """The ids of the three newest runs."""
    newest = select(runs.c.id).where(is_listed).order_by(runs.c.started_at.desc()).limit(3)
    return tuple(connection.execute(newest).scalars())


def changed_ids(connection: Connection, after: int) -> list[str]:
    """Runs that were changed or deleted since revision ``after``; and ``INTERNAL_RUN``."""
    is_shown = or_(is_listed, runs.c.deleted_at.is_not(None), runs.c.id == INTERNAL_RUN)
    query = select(runs.c.id).where(runs.c.revision > after, is_shown).order_by(runs.c.revision)
    return list(connection.execute(query).scalars())


def run_filters(
    *,
    project: str | None,
    search: str | None,
    tag: str | None = None,
    group: str | None = None,
) -> list[ColumnElement[bool]]:
    """Conditions for rows of listed runs; None of a filter lists all."""
    found: list[ColumnElement[bool]] = [is_listed]
    if project is not None:
        found.append(run_project == project)
    if group is not None:
        found.append(runs.c.group == group)
    if tag is not None:  # tags are a JSON list: its quotes mark where a tag begins and ends
        found.append(runs.c.tags.icontains(to_json(tag), autoescape=True))
    if search:
        columns = (runs.c.id, run_name, run_project, runs.c.note, runs.c.tags, runs.c.group)
        found.append(or_(*(column.icontains(search, autoescape=True) for column in columns)))
    return found


def run_list_query(
    now: float,
    *,
    statuses: Collection[str],
    project: str | None,
    search: str | None,
    tag: str | None,
    group: str | None,
    sort: str,
    limit: int,
    cursor: str | None,
) -> Select[Any]:
    """A query for one page and one row more, with columns ``status_now`` and ``sort_value``.

    Raises:
        UsageError: no such status or sort key, or ``cursor`` is not one of this list.
    """
    descending = sort.startswith("-")
    sort_column = _sort_key(sort.removeprefix("-"), now)
    query = select(runs, sort_column.label("sort_value"), status_at(now).label("status_now"))
    query = query.where(*run_filters(project=project, search=search, tag=tag, group=group))
    if statuses:
        for status in statuses:
            if status not in RUN_STATUSES:
                raise UsageError(
                    f"no run has the status {status!r}: expected {', '.join(RUN_STATUSES)}"
                    + did_you_mean(status, RUN_STATUSES)
                )
        query = query.where(status_at(now).in_(statuses))
    if cursor is not None:
        value, after = decode_cursor(cursor, sort)
        past = sort_column < value if descending else sort_column > value
        past_id = runs.c.id < after if descending else runs.c.id > after
        query = query.where(or_(past, and_(sort_column == value, past_id)))
    order = (sort_column.desc(), runs.c.id.desc()) if descending else (sort_column, runs.c.id)
    return query.order_by(*order).limit(limit + 1)


def _sort_key(name: str, now: float) -> ColumnElement[Any]:
    # No NULLs: the databases sort them differently, and no cursor can be behind one.
    keys: dict[str, ColumnElement[Any]] = {
        "started_at": func.coalesce(runs.c.started_at, 0.0),
        "ended_at": func.coalesce(runs.c.ended_at, 0.0),
        "updated_at": func.coalesce(runs.c.heard_at, 0.0),
        "name": func.lower(run_name),
        "project": func.lower(run_project),
        "status": status_at(now),
        "step": func.coalesce(runs.c.step, -1),
    }
    if name not in keys:
        raise UsageError(
            f"runs cannot be sorted by {name!r}: expected {', '.join(keys)}, with a - before it "
            f"for the reverse{did_you_mean(name, keys)}"
        )
    return keys[name]
