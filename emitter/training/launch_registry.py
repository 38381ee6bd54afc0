"""The folder in which training processes tell ``lineside run`` what streams they opened.

Each holds a lock there until it ends, which may be long after it has closed its streams.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lineside.bus.errors import StreamNameError
from lineside.bus.protocol.events import Stream
from lineside.emitter.spool import liveness_lock

FOLDER_VARIABLE = "LINESIDE_LAUNCH"
"""Set by ``lineside run`` for its children: the folder."""
_FILE_NAME = "streams"
_LOCK_SUFFIX = ".process"
_held_locks: set[Path] = set()  # a fork has none of them, and another name


def register(stream: Stream) -> None:
    """Tell of ``stream`` and this process if ``lineside run`` started it; never raises."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return
    lock = Path(folder) / f"{os.getpid()}{_LOCK_SUFFIX}"
    with contextlib.suppress(OSError):
        fd = os.open(
            Path(folder) / _FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            os.write(fd, f"{stream}\n".encode())
        finally:
            os.close(fd)
        if lock not in _held_locks:
            liveness_lock.acquire(lock)
            _held_locks.add(lock)


def read(folder: Path) -> list[Stream]:
    """The streams registered in ``folder``, oldest first; lines that are no stream are left out."""
    try:
        lines = (folder / _FILE_NAME).read_text(errors="replace").splitlines()
    except OSError:
        return []
    streams = []
    for line in lines:
        with contextlib.suppress(StreamNameError):
            streams.append(Stream.parse(line))
    return streams


def live_processes(folder: Path) -> dict[int, int]:
    """The processes that registered in ``folder`` and hold their lock: their ids by what these are
    to themselves, which is another id in another pid namespace."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix == _LOCK_SUFFIX]
    except OSError:
        return {}
    found = {}
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            found[int(path.stem)] = liveness_lock.holder_pid(path) or 0
    return {own_pid: pid for own_pid, pid in found.items() if pid > 0}
