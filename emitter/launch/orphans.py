"""Trainings that outlive the command which had started them.

A launcher of the script's own, or a shell, often ends at once and leaves the training behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from lineside.bus.protocol.events import Stream
from lineside.emitter.spool import locks, vitals
from lineside.emitter.spool.folder import LOCK_NAME
from lineside.emitter.spool.vitals import Words
from lineside.emitter.training import launches
from lineside.emitter.training.notice import say

_ASK_SECONDS = 0.1
_GOING_SECONDS, _SILENT_SECONDS = 10.0, 2.0
_WAITING = "waiting for the training that the command left behind"
_LEAVE = {signal.SIGINT, signal.SIGQUIT}
_SI_KERNEL = 0x80  # si_code of what a terminal sends


def heard(signals: Iterable[int], seconds: float) -> signal.struct_siginfo | None:
    """Wait so long for one of ``signals``, which are blocked; None if there is none to pass on.

    That a child ended is for this process alone.
    """
    received = signal.sigtimedwait(signals, seconds)
    return None if received is None or received.si_signo == signal.SIGCHLD else received


def pass_on(received: signal.struct_siginfo, pids: Iterable[int]) -> None:
    """Send the signal that was ``received`` to those of ``pids`` that have not got it themselves.

    A terminal tells all of a process group of a Ctrl-C, but when it goes away only the session's
    leader, and the group once that has ended.
    """
    is_for_leader = received.si_signo == signal.SIGHUP and os.getsid(0) == os.getpid()
    is_for_group = received.si_code == _SI_KERNEL and not is_for_leader
    for pid in pids:
        with contextlib.suppress(OSError):
            if not is_for_group or os.getpgid(pid) != os.getpgrp():
                os.kill(pid, received.si_signo)


def end(folder: Path, spool: Path, signals: Iterable[int], *, is_told: bool) -> None:
    """Wait for those that registered in ``folder`` on this machine, when their command has ended.

    If it was told to end, with a SIGTERM, they get one too and are waited for until they have, and
    ``signals``, which are blocked, are passed on to them. One whose training a SIGTERM stops is not
    told again, for a second one may end it in the middle of a save.
    If it was not, ten seconds at most: who is killed beside it is there until the kernel has freed
    its memory. A SIGTERM meanwhile is for them. A Ctrl-C or Ctrl-\\ ends the wait, and neither that
    nor any other signal is passed on: what was detached is not to feel it.
    """
    told: set[int] = set()
    began = time.monotonic()
    while alive := living(folder, spool):
        waited = time.monotonic() - began
        if waited > _GOING_SECONDS and not is_told:
            return
        if waited > _SILENT_SECONDS:
            say(_WAITING if is_told else f"{_WAITING}, {_GOING_SECONDS:.0f} s at most")
        new = alive.keys() - told if is_told else set()
        for own in new - (_stopping(folder, spool) if new else set()):
            with contextlib.suppress(OSError):
                os.kill(alive[own], signal.SIGTERM)
        told |= new
        received = heard(signals, _ASK_SECONDS)
        if received is None:
            continue
        if is_told:
            pass_on(received, alive.values())
        elif received.si_signo == signal.SIGTERM:
            is_told = True
        elif received.si_signo in _LEAVE:
            return


def living(folder: Path, spool: Path) -> dict[int, int]:
    """The processes that registered in ``folder`` and have not ended: their ids here by their own,
    which are others in another pid namespace.

    Each holds a lock of its own until it ends. One that let go of it, as daemons do that close
    every descriptor, still takes those of its streams anew.
    """
    found = launches.holders(folder)
    for stream in launches.read(folder):
        with contextlib.suppress(OSError):
            path = spool.joinpath(*stream)
            pid, words = locks.holder(path / LOCK_NAME) or 0, vitals.read_page(path)
            if pid > 0 and words is not None:
                found[words.pid] = pid
    return found


def pages(folder: Path, spool: Path) -> dict[Stream, Words | None]:
    """The streams registered in ``folder``, oldest first, each with its page as it stands; None if
    its process has ended."""
    found = {stream: vitals.read_page(spool.joinpath(*stream)) for stream in launches.read(folder)}
    alive = living(folder, spool)
    return {
        stream: words if words is not None and words.pid in alive else None
        for stream, words in found.items()
    }


def _stopping(folder: Path, spool: Path) -> set[int]:
    """The processes, by their own ids, that a SIGTERM came to while they trained."""
    stand = pages(folder, spool).values()
    return {words.pid for words in stand if words is not None and words.stop_asked}
