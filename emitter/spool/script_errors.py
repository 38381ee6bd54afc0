"""Tells the training script's own exceptions, which pass, from failures of ours, which do not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FrameType


def is_script_error(error: BaseException) -> bool:
    """Whether the script means ``error`` for itself, although it was raised while our code ran.

    It does when it ends the process, and when it comes out of one of its signal handlers: a time
    limit or a notice of preemption may strike inside a hook as well as anywhere else.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return True
    trace = error.__traceback__
    while trace is not None:
        if _is_signal_handler(trace.tb_frame):
            return True
        trace = trace.tb_next
    return False


@contextlib.contextmanager
def suppress_own_errors(error_type: type[Exception]) -> Iterator[None]:
    """As ``contextlib.suppress``, for our own failures only."""
    try:
        yield
    except error_type as error:
        if is_script_error(error):
            raise


def _is_signal_handler(frame: FrameType) -> bool:
    """Whether it is a signal handler's: those are given the frame that they interrupt.

    Asking which handlers are set would miss one that has put itself away before it raises.
    """
    interrupted = frame.f_back
    if interrupted is None:
        return False
    for value in frame.f_locals.values():
        # By identity: to compare is to run the values' own code, which may raise or wait for a GPU.
        candidates = value if type(value) is tuple else (value,)
        if any(one is interrupted for one in candidates):
            return True
    return False
