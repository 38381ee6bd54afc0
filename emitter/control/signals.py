"""SIGTERM while training: a checkpoint and an orderly end, in place of a sudden one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from lineside.bus.protocol.commands import Command
from lineside.emitter.control.effects import is_training
from lineside.emitter.spool.page import STOP_ASKED
from lineside.emitter.training.publisher import Publisher

ISSUER = "SIGTERM"
"""Who issued the command that the signal became."""
_SAME_SECONDS = 5.0  # a launcher passes on what was sent to its whole group: both are one wish
_VALID_SECONDS = 86_400.0  # however long a step takes


class Stoppable(Protocol):
    """Who applies commands at the end of a step."""

    @property
    def takes_commands(self) -> bool:
        """Whether any is applied."""

    def ask(self, command: Command, otherwise: Callable[[], object]) -> None:
        """Have one applied, or ``otherwise`` called; safe in a signal handler."""


class StopOnSigterm:
    """Makes the first SIGTERM a ``stop`` for ``steering``, until ``end``.

    A handler that the script had set is called as well. Where the stop is refused, the signal does
    what it would have done without this, and so does a second one, five seconds later or more, and
    one that comes outside of training, to a forked child, or where no command is applied. What the
    process trains after it is stopped at its first step, unless somebody sits at a prompt. Python
    calls a handler between two instructions of the main thread: what sits in a collective comes to
    it when that is over.
    """

    def __init__(self, steering: Stoppable, publisher: Publisher, before: Any) -> None:
        self._steering = steering
        self._publisher = publisher
        # A launcher signals every rank: all of them mean the same.
        self._id = f"sigterm-{publisher.identity.attempt}"
        self._before = before
        self._pid = os.getpid()
        self._asked_at: float | None = None
        self._is_on = True

    @classmethod
    def begin(cls, steering: Stoppable, publisher: Publisher) -> StopOnSigterm | None:
        """None where it cannot be: in another thread than the main one, or where the handler that
        is there is not Python's to put back."""
        before = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or before is None:
            return None
        stopping = cls(steering, publisher, before)
        _watch_forks(stopping)
        signal.signal(signal.SIGTERM, stopping._handle)
        if _told == [os.getpid()] and not hasattr(sys, "ps1"):
            stopping._ask({"save": False})
        return stopping

    def end(self) -> None:
        """Put back the handler that was there, unless the script has set another since."""
        self._is_on = False
        with contextlib.suppress(ValueError):  # in another thread it cannot be
            if signal.getsignal(signal.SIGTERM) == self._handle:
                signal.signal(signal.SIGTERM, self._before)

    def put_back(self) -> None:
        """In a forked child, where Python may never come to call a handler."""
        if self._is_on and signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._is_ours(frame):
            self._pass_on(number, frame)
        elif self._asked_at is None:
            self._asked_at = now
            _told[:] = [self._pid]
            self._ask({})
            if callable(self._before):
                self._before(number, frame)
        elif now - self._asked_at >= _SAME_SECONDS:
            self._pass_on(number, frame)

    def _ask(self, args: dict[str, bool]) -> None:
        self._publisher.flag(raised=STOP_ASKED)
        until = time.time() + _VALID_SECONDS
        stop = Command("stop", args, issued_by=ISSUER, expires_at=until, id=self._id)
        self._steering.ask(stop, self._give_up)

    def _give_up(self) -> None:
        """The stop was refused. A handler of the script's has been called already."""
        self._publisher.flag(lowered=STOP_ASKED)
        if self._is_on and not callable(self._before):
            self._pass_on(signal.SIGTERM, None)

    def _is_ours(self, frame: FrameType | None) -> bool:
        is_here = self._is_on and os.getpid() == self._pid
        return is_here and self._steering.takes_commands and is_training(frame)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if callable(self._before):
            self._before(number, frame)
        else:
            signal.signal(signal.SIGTERM, self._before)
            os.kill(os.getpid(), number)


def _watch_forks(stopping: StopOnSigterm) -> None:
    if not _newest:
        os.register_at_fork(after_in_child=_in_child)
    _newest[:] = [stopping]


def _in_child() -> None:
    for stopping in _newest:
        with contextlib.suppress(ValueError):
            stopping.put_back()


_newest: list[StopOnSigterm] = []
_told: list[int] = []  # the process that was sent one while it trained
