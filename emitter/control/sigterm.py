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
from lineside.emitter.spool.status_page import STOP_REQUESTED
from lineside.emitter.training.publisher import Publisher
from lineside.emitter.training.trainer_frames import in_training_loop

ISSUER = "SIGTERM"
"""Who issued the command that the signal became."""
_DUPLICATE_SECONDS = 5.0  # a launcher passes on what was sent to its whole group: both are one wish
_VALID_SECONDS = 86_400.0  # however long a step takes


class CommandExecutor(Protocol):
    """Who applies commands at the end of a step."""

    @property
    def takes_commands(self) -> bool:
        """Whether any is applied."""

    def request(self, command: Command, on_refused: Callable[[], object]) -> None:
        """Have one applied, or ``on_refused`` called; safe in a signal handler."""


class SigtermHandler:
    """Makes the first SIGTERM a ``stop`` for ``executor``, until ``uninstall``.

    A handler that the script had set is called as well. Where the stop is refused, the signal does
    what it would have done without this, and so does a second one, five seconds later or more, and
    one that comes outside of training, to a forked child, or where no command is applied. What the
    process trains after it is stopped at its first step, unless somebody sits at a prompt. Python
    calls a handler between two instructions of the main thread: what sits in a collective comes to
    it when that is over.
    """

    def __init__(self, executor: CommandExecutor, publisher: Publisher, previous: Any) -> None:
        self._executor = executor
        self._publisher = publisher
        # A launcher signals every rank: all of them mean the same.
        self._command_id = f"sigterm-{publisher.identity.attempt}"
        self._previous = previous
        self._pid = os.getpid()
        self._requested_at: float | None = None
        self._is_installed = True

    @classmethod
    def install(cls, executor: CommandExecutor, publisher: Publisher) -> SigtermHandler | None:
        """None where it cannot be: in another thread than the main one, or where the handler that
        is there is not Python's to put back."""
        previous = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or previous is None:
            return None
        handler = cls(executor, publisher, previous)
        _watch_forks(handler)
        signal.signal(signal.SIGTERM, handler._handle)
        if _signalled_pids == [os.getpid()] and not hasattr(sys, "ps1"):
            handler._request_stop({"save": False})
        return handler

    def uninstall(self) -> None:
        """Put back the handler that was there, unless the script has set another since."""
        self._is_installed = False
        with contextlib.suppress(ValueError):  # in another thread it cannot be
            if signal.getsignal(signal.SIGTERM) == self._handle:
                signal.signal(signal.SIGTERM, self._previous)

    def restore(self) -> None:
        """In a forked child, where Python may never come to call a handler."""
        if self._is_installed and signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._should_handle(frame):
            self._forward(number, frame)
        elif self._requested_at is None:
            self._requested_at = now
            _signalled_pids[:] = [self._pid]
            self._request_stop({})
            if callable(self._previous):
                self._previous(number, frame)
        elif now - self._requested_at >= _DUPLICATE_SECONDS:
            self._forward(number, frame)

    def _request_stop(self, args: dict[str, bool]) -> None:
        self._publisher.flag(raised=STOP_REQUESTED)
        deadline = time.time() + _VALID_SECONDS
        stop = Command("stop", args, issued_by=ISSUER, expires_at=deadline, id=self._command_id)
        self._executor.request(stop, self._on_stop_refused)

    def _on_stop_refused(self) -> None:
        """The stop was refused. A handler of the script's has been called already."""
        self._publisher.flag(lowered=STOP_REQUESTED)
        if self._is_installed and not callable(self._previous):
            self._forward(signal.SIGTERM, None)

    def _should_handle(self, frame: FrameType | None) -> bool:
        is_here = self._is_installed and os.getpid() == self._pid
        return is_here and self._executor.takes_commands and in_training_loop(frame)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if callable(self._previous):
            self._previous(number, frame)
        else:
            signal.signal(signal.SIGTERM, self._previous)
            os.kill(os.getpid(), number)


def _watch_forks(handler: SigtermHandler) -> None:
    if not _installed:
        os.register_at_fork(after_in_child=_after_fork)
    _installed[:] = [handler]


def _after_fork() -> None:
    for handler in _installed:
        with contextlib.suppress(ValueError):
            handler.restore()


_installed: list[SigtermHandler] = []
_signalled_pids: list[int] = []  # the process that was sent one while it trained
