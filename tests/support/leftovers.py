"""Processes that belong to a folder: a shipper ends by itself, but long after the test."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from tests.support.forked import ForkedProcess
from tests.support.waiting import DEADLINE

_VARIABLES = (b"LINESIDE_HOME", b"LINESIDE_SPOOL")


def processes_of(folder: Path) -> list[int]:
    """Ids of the other processes whose home or spool is in ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if b"multiprocessing." in (entry / "cmdline").read_bytes():
                continue  # it serves this interpreter, and later tests need it too
            variables = (entry / "environ").read_bytes().split(b"\0")
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue  # it has ended
        places = [
            value for name, _, value in (v.partition(b"=") for v in variables) if name in _VARIABLES
        ]
        if state != "Z" and any(_is_in(folder, os.fsdecode(place)) for place in places):
            found.append(int(entry.name))
    # The variables of a forked process are not those in /proc.
    for process in list(ForkedProcess.running):
        own = [process.environment.get(name.decode(), "") for name in _VARIABLES]
        if process.poll() is None and any(_is_in(folder, place) for place in own):
            found.append(process.pid)
    return found


def kill_processes_of(folder: Path) -> None:
    """Kill the processes of ``folder`` by id and wait until they have ended.

    Raises:
        TimeoutError: a process does not end.
    """
    deadline = time.monotonic() + DEADLINE
    while left := processes_of(folder):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {left} of {folder} do not end")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _is_in(folder: Path, place: str) -> bool:
    return Path(place).is_absolute() and Path(place).is_relative_to(folder)
