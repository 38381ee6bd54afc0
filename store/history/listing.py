"""The run list: what it is filtered and sorted by, and where the next page begins."""

from __future__ import annotations

import base64
import json
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select

from lineside.bus.errors import UsageError
from lineside.store.database.schema import runs
from lineside.store.database.values import clean, is_count, is_number
from lineside.store.status.pulse import DISCONNECTED, SILENCE_SECONDS, STALLED
from lineside.store.status.status import RUNNING

DEFAULT_PROJECT = "default"

name_of = func.coalesce(runs.c.name, runs.c.id)
project_of = func.coalesce(runs.c.project, DEFAULT_PROJECT)

listed = runs.c.started_at.is_not(None)
"""Whether a row is a run at all: an attempt began, and nobody deleted it."""


def status_at(now: float) -> ColumnElement[str]:
    """A run's status as of ``now``, seconds since the epoch."""
    is_running = runs.c.status == RUNNING
    silent = and_(is_running, runs.c.heard_at < now - SILENCE_SECONDS)
    stalled = and_(is_running, runs.c.stalls_at < now)
    return case((silent, DISCONNECTED), (stalled, STALLED), else_=runs.c.status)


def matching(*, project: str | None, search: str | None) -> list[ColumnElement[bool]]:
    """What a row of a listed run of that project, that ``search`` finds, fulfils."""
    found: list[ColumnElement[bool]] = [listed]
    if project is not None:
        found.append(project_of == project)
    if search:
        columns = (runs.c.id, name_of, project_of, runs.c.note, runs.c.tags)
        found.append(or_(*(column.icontains(search, autoescape=True) for column in columns)))
    return found


def list_query(
    now: float,
    *,
    status: str | None,
    project: str | None,
    search: str | None,
    sort: str,
    limit: int,
    cursor: str | None,
) -> Select[Any]:
    """The rows of one page and one more, with ``status_now`` and the ``sort_value`` of each.

    Raises:
        UsageError: a sort key or a cursor that does not exist.
    """
    descending = sort.startswith("-")
    by = _sort_key(sort.removeprefix("-"), now)
    query = select(runs, by.label("sort_value"), status_at(now).label("status_now"))
    query = query.where(*matching(project=project, search=search))
    if status is not None:
        query = query.where(status_at(now) == status)
    if cursor is not None:
        value, after = read_cursor(cursor, sort)
        past = by < value if descending else by > value
        past_id = runs.c.id < after if descending else runs.c.id > after
        query = query.where(or_(past, and_(by == value, past_id)))
    order = (by.desc(), runs.c.id.desc()) if descending else (by, runs.c.id)
    return query.order_by(*order).limit(limit + 1)


def make_cursor(sort: str, value: Any, run_id: str) -> str:
    """Opaque text that says after which run the next page begins."""
    return base64.urlsafe_b64encode(json.dumps([sort, value, run_id]).encode()).decode()


def read_cursor(cursor: str, sort: str) -> tuple[Any, str]:
    """The value and the id that ``make_cursor`` was given for a list sorted this way.

    Raises:
        UsageError: it was not made for such a list.
    """
    try:
        made_for, value, run_id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError, RecursionError):
        made_for, value, run_id = None, None, None
    well_typed = isinstance(run_id, str) and _is_stored(run_id) and _is_stored(value)
    if made_for != sort or not well_typed:
        raise _unusable(cursor, f"a list sorted by {sort}")
    return value, run_id


def read_time_cursor(cursor: str, sort: str) -> tuple[float, str]:
    """``read_cursor`` for a list sorted by a time.

    Raises:
        UsageError: it was not made for such a list.
    """
    value, name = read_cursor(cursor, sort)
    if isinstance(value, str):
        raise _unusable(cursor, "such a list")
    return float(value), name


def _is_stored(value: object) -> bool:
    """Whether a database takes it."""
    if isinstance(value, str):
        return clean(value) == value
    return is_count(value) if isinstance(value, int) else is_number(value)


def _unusable(cursor: str, of: str) -> UsageError:
    return UsageError(f"cursor {cursor!r:.100} cannot be used: expected the `next` of {of}")


def _sort_key(name: str, now: float) -> ColumnElement[Any]:
    # No NULLs: neither database sorts them like the other, and no cursor could point past one.
    keys: dict[str, ColumnElement[Any]] = {
        "started_at": func.coalesce(runs.c.started_at, 0.0),
        "ended_at": func.coalesce(runs.c.ended_at, 0.0),
        "updated_at": func.coalesce(runs.c.heard_at, 0.0),
        "name": func.lower(name_of),
        "project": func.lower(project_of),
        "status": status_at(now),
        "step": func.coalesce(runs.c.step, -1),
    }
    if name not in keys:
        raise UsageError(
            f"runs cannot be sorted by {name!r}: expected {', '.join(keys)}, "
            "with a - before it for the reverse"
        )
    return keys[name]
