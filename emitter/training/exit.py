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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lineside.emitter.spool.page import ACKED_SEQ, Page
from lineside.emitter.training import jobstore  # noqa: F401 - what it does at exit comes after what we do
from lineside.emitter.training.notice import say

BUDGET = 5.0
"""Seconds a process waits for confirmation in all."""
_SHORTEST_NAP, _LONGEST_NAP = 0.001, 0.02


class Closable(Protocol):
    """What is open in this process and has to be closed when it ends."""

    earlier_error: BaseException | None
    """``last_error()`` when it was opened: that did not end it."""

    @property
    def is_over(self) -> bool:
        """Whether its training ended by itself."""

    def close(self, how: str, error: BaseException | None = None) -> None:
        """End it: ``how`` is exit or exception."""

    def disable(self) -> None:
        """Never do anything again: this is a forked child, and the stream is its parent's."""


@dataclass(frozen=True, eq=False)
class Unconfirmed:
    """Events up to ``end`` that went into a spool and that the bus is yet to confirm."""

    page: Page
    end: int
    spool: Path
    ensure_shipper: Callable[[], None]
    is_spoken_of: bool = True

    @property
    def is_confirmed(self) -> bool:
        self.page.exchange()
        confirmed: int = self.page.words[ACKED_SEQ]
        return confirmed >= self.end


class _Ending:
    """What this process has to see to before it ends."""

    def __init__(self) -> None:
        self.open: list[Closable] = []
        self.left: list[Unconfirmed] = []
        self.budget = BUDGET
        self.armed_in = 0

    def arm(self) -> None:
        if self.armed_in == os.getpid():
            return
        if not self.armed_in:
            atexit.register(at_exit)
            os.register_at_fork(after_in_child=_in_child)
        self.armed_in = os.getpid()
        process = sys.modules.get("multiprocessing.process")
        util = sys.modules.get("multiprocessing.util")
        # A child of multiprocessing may end without the interpreter's exit, but not without this.
        if process is not None and util is not None and process.parent_process() is not None:
            util.Finalize(None, at_exit, exitpriority=0)


_ending = _Ending()


def watch(run: Closable) -> None:
    """Close ``run`` when the process ends, and silence it in forked children."""
    _ending.arm()
    _ending.open.append(run)


def leave(run: Closable, rest: Unconfirmed) -> None:
    """``run`` was closed; ``rest`` is what may not be confirmed yet."""
    # Other threads may do the same just now: each call on the lists is one step.
    _ending.left.append(rest)
    with contextlib.suppress(ValueError):
        _ending.open.remove(run)
    for one in list(_ending.left):
        if one.is_confirmed:
            one.page.close()
            with contextlib.suppress(ValueError):
                _ending.left.remove(one)


def wait(*rests: Unconfirmed) -> bool:
    """Wait until all is confirmed or the process's budget is spent; whether all is confirmed.

    A KeyboardInterrupt ends it and passes.
    """
    started = time.monotonic()
    deadline = started + _ending.budget
    nap, asked = _SHORTEST_NAP, started
    try:
        while not all(rest.is_confirmed for rest in rests):
            now = time.monotonic()
            if now >= deadline:
                return False
            if now - asked >= 1:
                asked = now
                for rest in rests:
                    rest.ensure_shipper()
            time.sleep(min(nap, deadline - now))
            nap = min(nap * 2, _LONGEST_NAP)
    finally:
        _ending.budget = max(0.0, deadline - time.monotonic())
    return True


def report(*rests: Unconfirmed) -> None:
    """Say on stderr where unconfirmed events are and how they get out."""
    for spool in sorted({rest.spool for rest in rests if rest.is_spoken_of}):
        say(
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
        runs = list(_ending.open)
        for run in runs:
            is_other = run is not runs[-1] or hasattr(sys, "ps1")
            error = None if last is run.earlier_error or (run.is_over and is_other) else last
            run.close("exit" if error is None else "exception", error)
        wait(*_ending.left)
    with contextlib.suppress(BaseException):
        report(*(rest for rest in _ending.left if not rest.is_confirmed))


def last_error() -> BaseException | None:
    """The exception that is ending this process, or that a notebook's last failed cell showed.

    A plain sys.exit is none.
    """
    error = sys.exc_info()[1] or getattr(sys, "last_value", None)
    if isinstance(error, SystemExit):
        return None if error.code in (None, 0) else error.__context__
    return error


def _in_child() -> None:
    for run in _ending.open:
        run.disable()
    _ending.open, _ending.left, _ending.budget = [], [], BUDGET
