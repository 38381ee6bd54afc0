"""Tells the training script's own exceptions, which pass, from failures of ours, which do not."""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterator
from types import CodeType
from typing import Any


def comes_from_outside(error: BaseException) -> bool:
    """Whether the script means ``error`` for itself, although it was raised while our code ran.

    It does when it ends the process, and when it comes out of one of its signal handlers: a time
    limit or a notice of preemption may strike inside a hook as well as anywhere else.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return True
    handlers = set(_handlers())
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _handlers() -> Iterator[CodeType]:
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        while isinstance(handler, functools.partial):
            handler = handler.func
        if callable(handler) and not hasattr(handler, "__code__"):
            handler = getattr(handler, "__func__", type(handler).__call__)
        code = getattr(handler, "__code__", None)
        if isinstance(code, CodeType):
            yield code
