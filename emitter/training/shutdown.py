"""The end of a process: close what is open, give the shipper a moment, say what is not confirmed.

One budget of five seconds for the whole life of the process: however often it is asked to wait,
and with no broker at all, training's own exit comes after that.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from typing import Protocol

from lineside.emitter.spool.confirmation import Unconfirmed, wait_confirmed
from lineside.emitter.training import job_store  # noqa: F401 - what it does at exit comes after what we do
from lineside.emitter.training.console import print_once

BUDGET = 5.0
"""Seconds a process waits for confirmation in all."""


class Closable(Protocol):
    """What is open in this process and has to be closed when it ends."""

    error_at_open: BaseException | None
    """``last_error()`` when it was opened: that did not end it."""

    @property
    def training_ended(self) -> bool:
        """Whether its training ended by itself."""

    def close(self, how: str, error: BaseException | None = None) -> None:
        """End it: ``how`` is exit or exception."""

    def disable(self) -> None:
        """Never do anything again: this is a forked child, and the stream is its parent's."""


class _ShutdownState:
    """What this process has to see to before it ends."""

    def __init__(self) -> None:
        self.open: list[Closable] = []
        self.pending: list[Unconfirmed] = []
        self.budget = BUDGET
        self.installed_pid = 0

    def install(self) -> None:
        if self.installed_pid == os.getpid():
            return
        if not self.installed_pid:
            atexit.register(at_exit)
            os.register_at_fork(after_in_child=_after_fork)
        self.installed_pid = os.getpid()
        process = sys.modules.get("multiprocessing.process")
        util = sys.modules.get("multiprocessing.util")
        # A child of multiprocessing may end without the interpreter's exit, but not without this.
        if process is not None and util is not None and process.parent_process() is not None:
            util.Finalize(None, at_exit, exitpriority=0)


_state = _ShutdownState()


def register(run: Closable) -> None:
    """Close ``run`` when the process ends, and silence it in forked children."""
    _state.install()
    _state.open.append(run)


def unregister(run: Closable, unconfirmed: Unconfirmed) -> None:
    """``run`` was closed; ``rest`` is what may not be confirmed yet."""
    # Other threads may do the same just now: each call on the lists is one step.
    _state.pending.append(unconfirmed)
    with contextlib.suppress(ValueError):
        _state.open.remove(run)
    for one in list(_state.pending):
        if one.is_confirmed:
            one.page.close()
            with contextlib.suppress(ValueError):
                _state.pending.remove(one)


def wait(*all_unconfirmed: Unconfirmed) -> bool:
    """Wait until all is confirmed or the process's budget is spent; whether all is confirmed.

    A KeyboardInterrupt ends it and passes.
    """
    deadline = time.monotonic() + _state.budget
    try:
        return wait_confirmed(all_unconfirmed, deadline)
    finally:
        _state.budget = max(0.0, deadline - time.monotonic())


def report(*all_unconfirmed: Unconfirmed) -> None:
    """Say on stderr where unconfirmed events are and how they get out."""
    for spool in sorted(
        {unconfirmed.spool for unconfirmed in all_unconfirmed if unconfirmed.is_reported}
    ):
        print_once(
            "no broker has confirmed the last events yet; they are kept in "
            f"{spool} and go out when a broker runs, or with: lineside ship --spool {spool}"
        )


def at_exit() -> None:
    """Close every run still open, then wait and report; for the interpreter's end.

    What ends the process ended those whose training was under way, and is the affair of the one
    opened last even after that. But a notebook went on after an error that it showed.
    """
    last = last_error()
    with contextlib.suppress(BaseException):
        runs = list(_state.open)
        for run in runs:
            is_other = run is not runs[-1] or hasattr(sys, "ps1")
            error = None if last is run.error_at_open or (run.training_ended and is_other) else last
            run.close("exit" if error is None else "exception", error)
        wait(*_state.pending)
    with contextlib.suppress(BaseException):
        report(*(unconfirmed for unconfirmed in _state.pending if not unconfirmed.is_confirmed))


def last_error() -> BaseException | None:
    """The exception that is ending this process, or that a notebook's last failed cell showed.

    A plain sys.exit is none.
    """
    error = sys.exc_info()[1] or getattr(sys, "last_value", None)
    if isinstance(error, SystemExit):
        return None if error.code in (None, 0) else error.__context__
    return error


def _after_fork() -> None:
    for run in _state.open:
        run.disable()
    _state.open, _state.pending, _state.budget = [], [], BUDGET
