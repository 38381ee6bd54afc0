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
from lineside.emitter.spool import liveness_lock, status_reader
from lineside.emitter.spool.status_reader import StatusFields
from lineside.emitter.spool.stream_folder import LOCK_NAME
from lineside.emitter.training import launch_registry
from lineside.emitter.training.console import print_once

_POLL_SECONDS = 0.1
_ORPHAN_WAIT_SECONDS, _NOTICE_AFTER_SECONDS = 10.0, 2.0
_WAITING = "waiting for the training that the command left behind"
_DETACH_SIGNALS = {signal.SIGINT, signal.SIGQUIT}
_SI_KERNEL = 0x80  # si_code of what a terminal sends


def wait_for_signal(signals: Iterable[int], seconds: float) -> signal.struct_siginfo | None:
    """Wait so long for one of ``signals``, which are blocked; None if there is none to pass on.

    That a child ended is for this process alone.
    """
    received = signal.sigtimedwait(signals, seconds)
    return None if received is None or received.si_signo == signal.SIGCHLD else received


def forward_signal(received: signal.struct_siginfo, pids: Iterable[int]) -> None:
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


def wait_for_orphans(
    folder: Path, spool: Path, signals: Iterable[int], *, got_sigterm: bool
) -> None:
    """Wait for those that registered in ``folder`` on this machine, when their command has ended.

    If it was told to end, with a SIGTERM, they get one too and are waited for until they have, and
    ``signals``, which are blocked, are passed on to them. One whose training a SIGTERM stops is not
    told again, for a second one may end it in the middle of a save.
    If it was not, ten seconds at most: who is killed beside it is there until the kernel has freed
    its memory. A SIGTERM meanwhile is for them. A Ctrl-C or Ctrl-\\ ends the wait, and neither that
    nor any other signal is passed on: what was detached is not to feel it.
    """
    signalled: set[int] = set()
    began = time.monotonic()
    while alive := live_processes(folder, spool):
        waited = time.monotonic() - began
        if waited > _ORPHAN_WAIT_SECONDS and not got_sigterm:
            return
        if waited > _NOTICE_AFTER_SECONDS:
            print_once(
                _WAITING if got_sigterm else f"{_WAITING}, {_ORPHAN_WAIT_SECONDS:.0f} s at most"
            )
        new = alive.keys() - signalled if got_sigterm else set()
        for own_pid in new - (_already_stopping(folder, spool) if new else set()):
            with contextlib.suppress(OSError):
                os.kill(alive[own_pid], signal.SIGTERM)
        signalled |= new
        received = wait_for_signal(signals, _POLL_SECONDS)
        if received is None:
            continue
        if got_sigterm:
            forward_signal(received, alive.values())
        elif received.si_signo == signal.SIGTERM:
            got_sigterm = True
        elif received.si_signo in _DETACH_SIGNALS:
            return


def live_processes(folder: Path, spool: Path) -> dict[int, int]:
    """The processes that registered in ``folder`` and have not ended: their ids here by their own,
    which are others in another pid namespace.

    Each holds a lock of its own until it ends. One that let go of it, as daemons do that close
    every descriptor, still takes those of its streams anew.
    """
    found = launch_registry.live_processes(folder)
    for stream in launch_registry.read(folder):
        with contextlib.suppress(OSError):
            path = spool.joinpath(*stream)
            pid, fields = (
                liveness_lock.holder_pid(path / LOCK_NAME) or 0,
                status_reader.read_page(path),
            )
            if pid > 0 and fields is not None:
                found[fields.pid] = pid
    return found


def pages(folder: Path, spool: Path) -> dict[Stream, StatusFields | None]:
    """The streams registered in ``folder``, oldest first, each with its page as it stands; None if
    its process has ended."""
    found = {
        stream: status_reader.read_page(spool.joinpath(*stream))
        for stream in launch_registry.read(folder)
    }
    alive = live_processes(folder, spool)
    return {
        stream: fields if fields is not None and fields.pid in alive else None
        for stream, fields in found.items()
    }


def _already_stopping(folder: Path, spool: Path) -> set[int]:
    """The processes, by their own ids, that a SIGTERM came to while they trained."""
    open_pages = pages(folder, spool).values()
    return {fields.pid for fields in open_pages if fields is not None and fields.stop_requested}
