"""Conversions for values a database cannot hold: non-finite floats, odd text, JSON, times."""

from __future__ import annotations

import json
import math
import sys
from datetime import datetime, timezone
from typing import Any, TypeGuard

from lineside.bus.protocol.fields import is_int64

FINITE, NAN, INF, NEG_INF = 0, 1, 2, 3
FLAGS = (None, "nan", "inf", "-inf")
"""The name of each flag, by number."""
_FLOATS = (0.0, math.nan, math.inf, -math.inf)
FLOAT_MAX = sys.float_info.max
MAX_DEPTH = 100
"""The deepest nesting of a value that needs ``_encodable``."""


def encode_float(value: float) -> tuple[float | None, int]:
    """``value`` as a column and a flag.

    Raises:
        OverflowError: an integer beyond a double's range.
    """
    number = float(value)
    if math.isfinite(number):
        return number, FINITE
    return None, NAN if number != number else INF if number > 0 else NEG_INF


def decode_float(value: float | None, flag: int) -> float:
    """The inverse of ``encode_float``."""
    return value if value is not None else _FLOATS[flag]


def is_finite_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a finite number that fits a double."""
    return isinstance(value, (int, float)) and -FLOAT_MAX <= value <= FLOAT_MAX


def sanitize_text(text: str, limit: int = 4000) -> str:
    """``text`` without NUL and lone surrogates, cut to ``limit`` characters."""
    return text[:limit].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def to_text(value: object, limit: int) -> str:
    """``value`` for people, cut to ``limit`` characters: a text as it is, anything else as JSON."""
    if isinstance(value, dict) and value.keys() == {"!"}:
        value = value["!"]
    if not isinstance(value, str):
        value = json.dumps(json.loads(to_json(value)), ensure_ascii=False)
    text = sanitize_text(value, limit)
    return text if len(value) <= limit else f"{text} … ({len(value):,} characters)"


def to_json(value: object) -> str:
    """``value`` as ASCII JSON; NaN and infinities as Python's ``json`` writes them.

    Map keys become text. A value without a JSON form becomes ``{"!": repr}``, cut to 200
    characters.
    """
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError):
        return _encode(_encodable(value, 0))


def from_json(text: str | None) -> Any:
    """The inverse of ``to_json``; None for None."""
    return None if text is None else json.loads(text)


def to_datetime(seconds: float) -> datetime:
    """Seconds since the epoch as a UTC datetime."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def to_optional_datetime(seconds: float | None) -> datetime | None:
    """``to_datetime``; None for None."""
    return None if seconds is None else to_datetime(seconds)


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
