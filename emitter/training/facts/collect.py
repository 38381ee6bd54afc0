"""Reads facts of foreign objects, each apart from the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lineside.emitter.spool.script_errors import is_script_error


def collect(parts: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """The value of each part, without parts that raise or are None.

    Raises only exceptions of the script, such as KeyboardInterrupt.
    """
    known: dict[str, Any] = {}
    for name, read in parts.items():
        try:
            value = read()
        except BaseException as error:  # foreign code: a Rust panic is no Exception
            if is_script_error(error):
                raise
            continue
        if value is not None:
            known[name] = value
    return known
