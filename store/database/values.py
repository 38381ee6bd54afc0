"""How values that a database cannot hold stand in it: non-finite floats, odd text, JSON, times."""

from __future__ import annotations

import json
import math
import sys
from datetime import datetime, timezone
from typing import Any, TypeGuard

from lineside.store.database.tables import NAME_LENGTH

FINITE, NAN, INF, NEG_INF = 0, 1, 2, 3
FLAGS = (None, "nan", "inf", "-inf")
"""A flag's word, by number."""
_FLOATS = (0.0, math.nan, math.inf, -math.inf)
FLOAT_MAX = sys.float_info.max
INT_MAX = (1 << 63) - 1
MAX_DEPTH = 100
"""How deep JSON made of something odd may nest."""
LAST_SECOND = 253_402_300_799.0
"""The end of the year 9999, where ``datetime`` ends."""


def split(value: float) -> tuple[float | None, int]:
    """``value`` as a column and a flag; the inverse of ``join``.

    Raises:
        OverflowError: an integer beyond what a double holds.
    """
    number = float(value)
    if math.isfinite(number):
        return number, FINITE
    return None, NAN if number != number else INF if number > 0 else NEG_INF


def join(value: float | None, flag: int) -> float:
    """The float that ``split`` made two of."""
    return value if value is not None else _FLOATS[flag]


def is_int64(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an integer a 64-bit column holds."""
    return isinstance(value, int) and -INT_MAX <= value <= INT_MAX


def is_finite_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a finite number a double holds."""
    return isinstance(value, (int, float)) and -FLOAT_MAX <= value <= FLOAT_MAX


def is_epoch(value: float | None) -> bool:
    """Whether ``value`` is None or what a double holds as an epoch; an integer must fit as well."""
    return value is None or -INT_MAX <= value <= INT_MAX


def is_timestamp(value: float) -> bool:
    """Whether ``value``, seconds since the epoch, is a date."""
    return 0.0 <= value <= LAST_SECOND


def is_name(text: object) -> bool:
    """Whether ``text`` can be a name in an indexed column of any database."""
    return (
        isinstance(text, str)
        and 0 < len(text) <= NAME_LENGTH
        and "\0" not in text
        and (text.isascii() or text.encode("utf-8", "replace").decode() == text)
    )


def sanitize_text(text: str, limit: int = 4000) -> str:
    """``text`` as any database takes it, at most ``limit`` characters."""
    return text[:limit].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def to_json(value: object) -> str:
    """ASCII JSON, but for NaN and infinities, which stand as Python's ``json`` writes them.

    Map keys become text; what JSON has no word for becomes ``{"!": repr}``, cut to 200 characters.
    """
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError):
        return _encode(_encodable(value, 0))


def from_json(text: str | None) -> Any:
    """What ``to_json`` wrote; None for None."""
    return None if text is None else json.loads(text)


def to_datetime(seconds: float) -> datetime:
    """Seconds since the epoch as a UTC datetime."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def _unencodable(value: object) -> dict[str, str]:
    return {"!": repr(value)[:200]}


def _encodable(value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        return {"!": f"nested deeper than {MAX_DEPTH}"}
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else repr(key): _encodable(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_encodable(item, depth + 1) for item in value]
    if value is None or isinstance(value, (str, float)) or is_int64(value):
        return value
    if isinstance(value, int):
        return {"!": hex(value)[:200]}
    return _unencodable(value)


_encode = json.JSONEncoder(default=_unencodable, separators=(",", ":")).encode
