"""Turns a SIGTERM while training into a command to save and stop."""

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
"""Issuer of the command that replaces the signal."""
_DUPLICATE_SECONDS = 5.0  # the group's signal and the launcher's copy of it are one request
_VALID_SECONDS = 86_400.0  # longer than any step


class CommandExecutor(Protocol):
    """Applies commands at the end of a step."""

    @property
    def takes_commands(self) -> bool:
        """Whether commands are applied at all."""

    def request(self, command: Command, on_refused: Callable[[], object]) -> None:
        """Apply ``command``, or call ``on_refused``; safe in a signal handler."""


class SigtermHandler:
    """Makes the first SIGTERM a ``stop`` for ``executor``, until ``uninstall``.

    A handler of the script is called as well. The signal has its usual effect if the stop is
    refused, if it is a second one after five seconds or more, outside of training, in a forked
    child, and where no command is applied. A later training of the same process stops at its first
    step, unless the process is interactive. Python calls a handler between two instructions of the
    main thread, so a signal during a collective takes effect after it.
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
        """Install the handler; None in another thread than the main one, or if the present handler
        is not Python's and could not be put back."""
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
        """Put back the previous handler, unless the script has set another since."""
        self._is_installed = False
        with contextlib.suppress(ValueError):  # raised in another thread than the main one
            if signal.getsignal(signal.SIGTERM) == self._handle:
                signal.signal(signal.SIGTERM, self._previous)

    def restore(self) -> None:
        """Put back the previous handler in a forked child, which may never run Python handlers."""
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
        """Forward the signal, unless a handler of the script has been called already."""
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
_signalled_pids: list[int] = []  # this process, once it received SIGTERM while training
