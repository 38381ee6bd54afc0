"""What Lineside says in the training process itself: a line on stderr, each only once."""

from __future__ import annotations

import contextlib
import sys

from lineside.bus.errors import LinesideError

_printed: set[str] = set()


def print_once(text: str) -> None:
    """Write ``lineside: text`` to stderr unless it was said before; never raises.

    Not the warnings module: a script may have turned warnings into errors.
    """
    if text in _printed:
        return
    _printed.add(text)
    # There may be no stderr, or one that was closed or replaced by something that raises.
    with contextlib.suppress(Exception):
        sys.stderr.write(f"lineside: {text}\n")
        sys.stderr.flush()


def print_disabled(error: Exception) -> None:
    """Say that Lineside does nothing in this process, because of ``error``."""
    ours = isinstance(error, (LinesideError, OSError))
    print_once(f"off: {error if ours else repr(error)}; training goes on without it")
