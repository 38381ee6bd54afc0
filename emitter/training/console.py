"""Writes Lineside's messages in the training process to stderr, each only once."""

from __future__ import annotations

import contextlib
import sys

from lineside.bus.errors import LinesideError

_printed: set[str] = set()


def print_once(text: str) -> None:
    """Write ``lineside: text`` to stderr unless it was written before; never raises.

    It does not use the warnings module: a script may have turned warnings into errors.
    """
    if text in _printed:
        return
    _printed.add(text)
    # stderr may be missing, closed, or replaced by an object that raises.
    with contextlib.suppress(Exception):
        sys.stderr.write(f"lineside: {text}\n")
        sys.stderr.flush()


def print_disabled(error: Exception) -> None:
    """Report that Lineside is off in this process because of ``error``."""
    ours = isinstance(error, (LinesideError, OSError))
    print_once(f"off: {error if ours else repr(error)}; training goes on without it")
