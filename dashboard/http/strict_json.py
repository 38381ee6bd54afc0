"""Strict JSON: values that JSON lacks are replaced, NaN and infinities are flagged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Flags = dict[str, str]


def non_finite_name(number: float) -> str | None:
    """``nan``, ``inf`` or ``-inf``; None for a finite number."""
    if math.isfinite(number):
        return None
    if math.isnan(number):
        return "nan"
    return "inf" if number > 0 else "-inf"


def strict(value: Any) -> tuple[Any, Flags]:
    """``value`` as strict JSON, and flags for its NaN and infinities.

    Keys become text, tuples lists, bytes hexadecimal text, lone surrogates question marks, and
    other objects their ``str``. The flags map JSON pointers (RFC 6901) into the result to ``nan``,
    ``inf`` or ``-inf``.
    """
    flags: Flags = {}
    return _clean(value, "", flags), flags


def _clean(value: Any, pointer: str, flags: Flags) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return _unicode(value)
    if isinstance(value, float):
        name = non_finite_name(value)
        if name is None:
            return value
        flags[pointer] = name
        return None
    if isinstance(value, Mapping):
        return {
            _unicode(str(key)): _clean(item, f"{pointer}/{_escape(str(key))}", flags)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_clean(item, f"{pointer}/{index}", flags) for index, item in enumerate(value)]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    return _unicode(str(value))


def _unicode(text: str) -> str:
    """``text`` without lone surrogates, which UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
