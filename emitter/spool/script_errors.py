"""Separates the training script's own exceptions, which pass, from Lineside's, which do not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FrameType


def is_script_error(error: BaseException) -> bool:
    """Whether ``error`` is the script's own, although it was raised while Lineside's code ran.

    It is when it ends the process, and when one of the script's signal handlers raised it: a time
    limit or a notice of preemption may arrive inside a hook as well as anywhere else.
    """
    return isinstance(error, (KeyboardInterrupt, SystemExit)) or is_from_signal_handler(error)


def is_from_signal_handler(error: BaseException) -> bool:
    """Whether one of the script's signal handlers raised ``error``."""
    trace = error.__traceback__
    while trace is not None:
        if _is_signal_handler(trace.tb_frame):
            return True
        trace = trace.tb_next
    return False


@contextlib.contextmanager
def suppress_own_errors(error_type: type[Exception]) -> Iterator[None]:
    """As ``contextlib.suppress``, but the script's own exceptions pass."""
    try:
        yield
    except error_type as error:
        if is_script_error(error):
            raise


def _is_signal_handler(frame: FrameType) -> bool:
    """Whether ``frame`` is a signal handler's, which receives the frame that it interrupts.

    Comparing with the installed handlers would miss one that removes itself before it raises.
    """
    interrupted = frame.f_back
    if interrupted is None:
        return False
    for value in frame.f_locals.values():
        # By identity: comparing runs the values' own code, which may raise or wait for a GPU.
        candidates = value if type(value) is tuple else (value,)
        if any(one is interrupted for one in candidates):
            return True
    return False
