"""Keeps the open runs of a process: releases idle ones, and ends all at the exit.

All waits for the shipper share one budget of five seconds in a process, so its exit is never
delayed for longer, even without a broker. Three are for the waits before it: the last run of a loop
is waited for too.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from typing import Protocol

from lineside.emitter.spool.confirmation import (
    Unconfirmed,
    explain_unconfirmed,
    wait_confirmed,
)
from lineside.emitter.training import job_store  # noqa: F401 - its atexit runs after ours
from lineside.emitter.training.console import print_once

BUDGET = 5.0
"""Seconds that a process waits for confirmation in total."""
EXIT_SHARE = 2.0
"""Seconds of them that only the exit may use."""


class Closable(Protocol):
    """An open stream that has to be closed when the process ends."""

    error_at_open: BaseException | None
    """``last_error()`` when it was opened: that error does not end it."""

    @property
    def training_ended(self) -> bool:
        """Whether its training has ended."""

    def close(self, how: str, error: BaseException | None = None) -> None:
        """Close it; ``how`` is exit or exception."""

    def let_go(self, *, may_close: bool) -> None:
        """Hold no file while training does not go on; close if nothing else can publish in it."""

    def disable(self) -> None:
        """Do nothing from now on: in a forked child the stream belongs to the parent."""


class _ShutdownState:
    """The open and unconfirmed streams of this process."""

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
        # A child of multiprocessing may skip atexit functions, but runs its finalizers.
        if process is not None and util is not None and process.parent_process() is not None:
            util.Finalize(None, at_exit, exitpriority=0)


_state = _ShutdownState()


def register(run: Closable) -> None:
    """Close ``run`` when the process ends, and disable it in forked children."""
    _state.install()
    _state.open.append(run)
    let_go_of_others(run)


def let_go_of_others(run: Closable) -> None:
    """Let go of all open runs but ``run``. The one opened last is not closed.

    The error that ends the process may be of that one.
    """
    runs = list(_state.open)
    for other in runs:
        if other is not run:
            other.let_go(may_close=other is not runs[-1])


def let_go_of(run: Closable) -> None:
    """Let go of ``run``; the same as ``let_go_of_others`` for one run."""
    run.let_go(may_close=_state.open[-1:] != [run])


def unregister(run: Closable, unconfirmed: Unconfirmed) -> None:
    """Record that ``run`` is closed, with the events that may be unconfirmed."""
    # Other threads may do the same: each call on a list is atomic.
    _state.pending.append(unconfirmed)
    with contextlib.suppress(ValueError):
        _state.open.remove(run)
    for one in list(_state.pending):
        if not one.is_confirmed:
            break  # the oldest: in a long loop without a broker, each costs system calls
        with contextlib.suppress(ValueError):
            _state.pending.remove(one)


def wait(*all_unconfirmed: Unconfirmed, reserve: float = EXIT_SHARE) -> bool:
    """Wait until all is confirmed or the process's budget is spent but for ``reserve``.

    Returns whether all is confirmed. A KeyboardInterrupt ends the wait and passes.
    """
    began = time.monotonic()
    try:
        return wait_confirmed(all_unconfirmed, began + max(0.0, _state.budget - reserve))
    finally:
        _state.budget = max(0.0, _state.budget - (time.monotonic() - began))


def report(*all_unconfirmed: Unconfirmed) -> None:
    """Print to stderr why events are unconfirmed, where they are and how to ship them."""
    for starter in {one.shipper_starter for one in all_unconfirmed if one.is_reported}:
        print_once(explain_unconfirmed(starter))


def at_exit() -> None:
    """Close every open run, then wait and report; for the end of the interpreter.

    The error that ends the process also ended each run whose training had not ended, and the run
    opened last. A notebook is different: it continues after an error.
    """
    last = last_error()
    with contextlib.suppress(BaseException):
        runs = list(_state.open)
        for run in runs:
            is_other = run is not runs[-1] or hasattr(sys, "ps1")
            error = None if last is run.error_at_open or (run.training_ended and is_other) else last
            run.close("exit" if error is None else "exception", error)
        wait(*_state.pending, reserve=0.0)
    with contextlib.suppress(BaseException):
        report(*(unconfirmed for unconfirmed in _state.pending if not unconfirmed.is_confirmed))


def last_error() -> BaseException | None:
    """The exception that ends this process, or that a notebook's last failed cell raised.

    None for a plain ``sys.exit``.
    """
    error = sys.exc_info()[1] or getattr(sys, "last_value", None)
    if isinstance(error, SystemExit):
        return None if error.code in (None, 0) else error.__context__
    return error


def _after_fork() -> None:
    for run in _state.open:
        run.disable()
    _state.open, _state.pending, _state.budget = [], [], BUDGET
