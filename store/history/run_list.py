"""The run list: what it is filtered and sorted by, and where the next page begins."""

from __future__ import annotations

import base64
import json
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select

from lineside.bus.errors import UsageError
from lineside.store.database.tables import runs
from lineside.store.database.values import is_finite_number, is_int64, sanitize_text
from lineside.store.status.liveness import DISCONNECT_SECONDS, DISCONNECTED, STALLED
from lineside.store.status.verdict import RUNNING

DEFAULT_PROJECT = "default"

run_name = func.coalesce(runs.c.name, runs.c.id)
run_project = func.coalesce(runs.c.project, DEFAULT_PROJECT)

is_listed = runs.c.started_at.is_not(None)
"""Whether a row is a run at all: an attempt began, and nobody deleted it."""


def status_at(now: float) -> ColumnElement[str]:
    """A run's status as of ``now``, seconds since the epoch."""
    is_running = runs.c.status == RUNNING
    silent = and_(is_running, runs.c.heard_at < now - DISCONNECT_SECONDS)
    stalled = and_(is_running, runs.c.stalls_at < now)
    return case((silent, DISCONNECTED), (stalled, STALLED), else_=runs.c.status)


def run_filters(*, project: str | None, search: str | None) -> list[ColumnElement[bool]]:
    """What a row of a listed run of that project, that ``search`` finds, fulfils."""
    found: list[ColumnElement[bool]] = [is_listed]
    if project is not None:
        found.append(run_project == project)
    if search:
        columns = (runs.c.id, run_name, run_project, runs.c.note, runs.c.tags)
        found.append(or_(*(column.icontains(search, autoescape=True) for column in columns)))
    return found


def run_list_query(
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
    sort_column = _sort_key(sort.removeprefix("-"), now)
    query = select(runs, sort_column.label("sort_value"), status_at(now).label("status_now"))
    query = query.where(*run_filters(project=project, search=search))
    if status is not None:
        query = query.where(status_at(now) == status)
    if cursor is not None:
        value, after = decode_cursor(cursor, sort)
        past = sort_column < value if descending else sort_column > value
        past_id = runs.c.id < after if descending else runs.c.id > after
        query = query.where(or_(past, and_(sort_column == value, past_id)))
    order = (sort_column.desc(), runs.c.id.desc()) if descending else (sort_column, runs.c.id)
    return query.order_by(*order).limit(limit + 1)


def encode_cursor(sort: str, value: Any, run_id: str) -> str:
    """Opaque text that says after which run the next page begins."""
    return base64.urlsafe_b64encode(json.dumps([sort, value, run_id]).encode()).decode()


def decode_cursor(cursor: str, sort: str) -> tuple[Any, str]:
    """The value and the id that ``encode_cursor`` was given for a list sorted this way.

    Raises:
        UsageError: it was not made for such a list.
    """
    try:
        made_for, value, run_id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError, RecursionError):
        made_for, value, run_id = None, None, None
    well_typed = isinstance(run_id, str) and _is_storable(run_id) and _is_storable(value)
    if made_for != sort or not well_typed:
        raise _cursor_error(cursor, f"a list sorted by {sort}")
    return value, run_id


def decode_time_cursor(cursor: str, sort: str) -> tuple[float, str]:
    """``decode_cursor`` for a list sorted by a time.

    Raises:
        UsageError: it was not made for such a list.
    """
    value, name = decode_cursor(cursor, sort)
    if isinstance(value, str):
        raise _cursor_error(cursor, "such a list")
    return float(value), name


def _is_storable(value: object) -> bool:
    """Whether a database takes it."""
    if isinstance(value, str):
        return sanitize_text(value) == value
    return is_int64(value) if isinstance(value, int) else is_finite_number(value)


def _cursor_error(cursor: str, of: str) -> UsageError:
    return UsageError(f"cursor {cursor!r:.100} cannot be used: expected the `next` of {of}")


def _sort_key(name: str, now: float) -> ColumnElement[Any]:
    # No NULLs: neither database sorts them like the other, and no cursor could point past one.
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
            f"runs cannot be sorted by {name!r}: expected {', '.join(keys)}, "
            "with a - before it for the reverse"
        )
    return keys[name]
