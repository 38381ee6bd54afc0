"""Cursors of paged lists: opaque text that marks where the next page begins."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any

from lineside.bus.errors import UsageError
from lineside.bus.protocol.fields import is_int64
from lineside.store.database.values import is_finite_number, sanitize_text


def cut_page(
    rows: Sequence[Any], limit: int, sort: str, position: Callable[[Any], tuple[Any, str]]
) -> tuple[Sequence[Any], str | None]:
    """At most ``limit`` of ``rows``, and the cursor behind them if there are more.

    ``position`` gives the sort value and the id of a row.
    """
    page = rows[:limit]
    return page, encode_cursor(sort, *position(page[-1])) if len(rows) > limit else None


def encode_cursor(sort: str, value: Any, item_id: str) -> str:
    """A cursor behind the item with this sort value and id, in a list sorted by ``sort``."""
    return base64.urlsafe_b64encode(json.dumps([sort, value, item_id]).encode()).decode()


def decode_cursor(cursor: str, sort: str) -> tuple[Any, str]:
    """The sort value and the id in a cursor of a list sorted by ``sort``.

    Raises:
        UsageError: it is no cursor of such a list.
    """
    try:
        made_for, value, item_id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError, RecursionError):
        made_for, value, item_id = None, None, None
    well_typed = isinstance(item_id, str) and _is_storable(item_id) and _is_storable(value)
    if made_for != sort or not well_typed:
        raise _cursor_error(cursor, f"a list sorted by {sort}")
    return value, item_id


def decode_time_cursor(cursor: str, sort: str) -> tuple[float, str]:
    """``decode_cursor`` for a list sorted by a time.

    Raises:
        UsageError: it is no cursor of such a list.
    """
    value, item_id = decode_cursor(cursor, sort)
    if isinstance(value, str):
        raise _cursor_error(cursor, "such a list")
    return float(value), item_id


def _is_storable(value: object) -> bool:
    # PostgreSQL refuses NUL and lone surrogates even in a comparison.
    if isinstance(value, str):
        return sanitize_text(value) == value
    return is_int64(value) if isinstance(value, int) else is_finite_number(value)


def _cursor_error(cursor: str, of: str) -> UsageError:
    return UsageError(f"cursor {cursor!r:.100} cannot be used: expected the `next` of {of}")
