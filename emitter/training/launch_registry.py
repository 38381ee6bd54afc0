"""The folder in which training processes register their streams for ``lineside run``.

Each process holds a lock there until it ends, which may be long after it has closed its streams.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lineside.bus.errors import StreamNameError
from lineside.bus.protocol.events import Stream
from lineside.emitter.spool import liveness_lock
from lineside.emitter.spool.protected_file import open_private

FOLDER_VARIABLE = "LINESIDE_LAUNCH"
"""Set by ``lineside run`` for its children: the folder."""
_FILE_NAME = "streams"
_LOCK_SUFFIX = ".process"
_held_locks: set[Path] = set()  # a forked child holds none of them, and its lock has another name


def register(stream: Stream) -> None:
    """Register ``stream`` if ``lineside run`` started this process; never raises."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return
    lock = Path(folder) / f"{os.getpid()}{_LOCK_SUFFIX}"
    with contextlib.suppress(OSError):
        with open_private(Path(folder) / _FILE_NAME, os.O_WRONLY | os.O_APPEND) as fd:
            os.write(fd, f"{stream}\n".encode())
        if lock not in _held_locks:
            liveness_lock.acquire(lock)
            _held_locks.add(lock)


def read(folder: Path) -> list[Stream]:
    """The streams registered in ``folder``, oldest first; invalid lines are left out."""
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
    """The registered processes that hold their lock: id in their pid namespace to id in ours."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix == _LOCK_SUFFIX]
    except OSError:
        return {}
    found = {}
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            found[int(path.stem)] = liveness_lock.holder_pid(path) or 0
    return {own_pid: pid for own_pid, pid in found.items() if pid > 0}
