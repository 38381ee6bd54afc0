"""Locks that tell whether a process still lives: ``lockf`` on a file, held until its process ends.

A record lock is not inherited by fork, and the kernel lets it go however the process dies, so a
free lock is proof where a process id is only a hint. It also goes when its process closes *any*
descriptor of that file: whoever holds a lock must not ask about it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

# struct flock as Linux has it: type, whence, start, length, pid.
_FLOCK = struct.Struct("@hhqqi4x")


def acquire(path: Path) -> int | None:
    """Hold the lock on ``path``, made if missing; the descriptor to keep, or None if it is held.

    Raises:
        OSError: the file cannot be made or opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):  # POSIX allows either for "held"
            return None
        raise
    return fd


def holder_pid(path: Path) -> int | None:
    """The process id of who holds the lock on ``path``; None if nobody does.

    Only asks, and never takes it even for a moment: a prober that did could turn away the one
    process that ought to have it. An id of 0 or less is a holder on another machine or in another
    pid namespace.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    return None if kind == fcntl.F_UNLCK else pid
