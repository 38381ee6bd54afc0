"""Locks that prove that a process lives: ``lockf`` on a file, held until the process ends.

A record lock is not inherited by fork, and the kernel releases it however the process dies. So a
free lock is proof, where a process id is only a hint. It is also released when its process closes
*any* descriptor of that file: a process must not ask about a lock that it holds itself.
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
    """Lock ``path``, made if missing; the descriptor to keep, or None if it is locked.

    A link is refused: the holder may write into the file, which would be another one.

    Raises:
        OSError: the file cannot be made or opened, or its file system has no locks.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):  # POSIX allows either for "held"
            return None
        raise
    return fd


def holder_pid(path: Path) -> int | None:
    """The id of the process that holds the lock on ``path``; None if the lock is free.

    Only asks: taking the lock even for a moment could turn away the process that ought to have it.
    An id of 0 or less is a holder on another machine or in another pid namespace.

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
