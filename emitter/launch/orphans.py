"""Handles trainings that outlive the command which started them.

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
from lineside.emitter.spool import liveness_lock
from lineside.emitter.spool.status_reader import read_page
from lineside.emitter.spool.stream_folder import LOCK_NAME
from lineside.emitter.training import launch_registry
from lineside.emitter.training.console import print_once

_POLL_SECONDS = 0.1
_OUTLIVED_SECONDS = 1.0
_ORPHAN_WAIT_SECONDS, _NOTICE_AFTER_SECONDS = 10.0, 2.0
_WAITING = "waiting for the training that the command left behind"
_DETACH_SIGNALS = {signal.SIGINT, signal.SIGQUIT}
_SI_KERNEL = 0x80  # si_code of a signal from a terminal
_PF_EXITING = 0x4


def wait_for_signal(signals: Iterable[int], seconds: float) -> signal.struct_siginfo | None:
    """Wait for one of ``signals``, which are blocked; None if there is none to forward.

    A SIGCHLD ends the wait and is not forwarded.
    """
    received = signal.sigtimedwait(signals, seconds)
    return None if received is None or received.si_signo == signal.SIGCHLD else received


def forward_signal(received: signal.struct_siginfo, pids: Iterable[int]) -> None:
    """Send the ``received`` signal to those of ``pids`` that have not got it themselves.

    A terminal sends a Ctrl-C to its whole process group. When the terminal closes, it sends a
    SIGHUP to the session's leader, and to the group only after the leader has ended.
    """
    is_for_leader = received.si_signo == signal.SIGHUP and os.getsid(0) == os.getpid()
    is_for_group = received.si_code == _SI_KERNEL and not is_for_leader
    for pid in pids:
        with contextlib.suppress(OSError):
            if not is_for_group or os.getpgid(pid) != os.getpgrp():
                os.kill(pid, received.si_signo)


def wait_for_orphans(
    folder: Path, spool: Path, signals: Iterable[int], *, got_sigterm: bool
) -> set[int]:
    """Wait for the processes registered in ``folder`` whose command has just ended.

    With ``got_sigterm``, the command was asked to end: the processes get a SIGTERM too and are
    waited for until they end, and ``signals``, which are blocked, are forwarded to them. A process
    that is already stopping gets no second SIGTERM, which may end it in the middle of a save.

    Otherwise the wait takes ten seconds at most, because a process that was killed with the command
    exists until the kernel has freed its memory. A SIGTERM meanwhile is for the processes. A Ctrl-C
    or Ctrl-\\ ends the wait; no other signal is forwarded to detached processes.

    Returns:
        The processes that outlived the command, by their own ids: they still ran a second later, or
        closed a stream after it had ended.
    """
    unclosed = _streams_of(folder, spool, closed=False)
    outlived = _wait(folder, spool, signals, got_sigterm=got_sigterm)
    closed_since = _streams_of(folder, spool, closed=True)
    return outlived | {pid for stream, pid in unclosed.items() if stream in closed_since}


def _wait(folder: Path, spool: Path, signals: Iterable[int], *, got_sigterm: bool) -> set[int]:
    """Wait as ``wait_for_orphans`` does; the processes that ran a second later."""
    signalled: set[int] = set()
    outlived: set[int] = set()
    began = time.monotonic()
    while alive := live_processes(folder, spool):
        waited = time.monotonic() - began
        if waited >= _OUTLIVED_SECONDS:
            outlived |= _running(alive)
        if waited > _ORPHAN_WAIT_SECONDS and not got_sigterm:
            break
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
            return outlived | _running(alive)
    return outlived


def live_processes(folder: Path, spool: Path) -> dict[int, int]:
    """The processes registered in ``folder`` that live: their ids here by their own ids.

    The two differ in another pid namespace. Each process holds a lock of its own until it ends. A
    process that has released it, as daemons do that close every descriptor, still takes the locks
    of its streams again.
    """
    found = launch_registry.live_processes(folder)
    for stream in launch_registry.read(folder):
        with contextlib.suppress(OSError):
            path = spool.joinpath(*stream)
            pid, fields = liveness_lock.holder_pid(path / LOCK_NAME) or 0, read_page(path)
            if pid > 0 and fields is not None:
                found[fields.pid] = pid
    return found


def _running(alive: dict[int, int]) -> set[int]:
    """Those of the ``alive`` processes that the kernel is not ending: they keep their locks until
    all their memory is freed."""
    return {own_pid for own_pid, pid in alive.items() if not is_exiting(pid)}


def _streams_of(folder: Path, spool: Path, *, closed: bool) -> dict[Stream, int]:
    """The registered streams that are ``closed`` or not, each with the own id of its process."""
    pages = {stream: read_page(spool.joinpath(*stream)) for stream in launch_registry.read(folder)}
    return {
        stream: fields.pid
        for stream, fields in pages.items()
        if fields is not None and fields.closed == closed
    }


def is_exiting(pid: int) -> bool:
    """Whether the kernel is ending the process, or has; False if that cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return bool(int(stat.rpartition(")")[2].split()[6]) & _PF_EXITING)
    except (OSError, ValueError, IndexError):
        return False


def _already_stopping(folder: Path, spool: Path) -> set[int]:
    """The processes, by their own ids, that are stopping because of a SIGTERM."""
    pages = (read_page(spool.joinpath(*stream)) for stream in launch_registry.read(folder))
    return {fields.pid for fields in pages if fields is not None and fields.stop_requested}
