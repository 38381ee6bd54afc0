"""Files that only this user can read, also in a process whose script closes descriptors."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from collections.abc import Iterator
from pathlib import Path

_HIGH_DESCRIPTOR = 900
_UNLIMITED = 1 << 20


def file_limit() -> int:
    """How many files this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft >= 0 else _UNLIMITED


@contextlib.contextmanager
def open_private(path: Path, flags: int) -> Iterator[int]:
    """Open ``path``, made with mode 0600 if missing; its descriptor, closed afterwards.

    Raises:
        OSError: it cannot be opened.
    """
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


class ProtectedFile:
    """An open file that survives a script which closes every descriptor.

    Daemons close all descriptors, and the numbers then go to the script's own files. This one has a
    high number, which is rarely given out again, and is closed only if it is still the same file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self.fd = _to_high_descriptor(os.open(path, flags | os.O_CLOEXEC, 0o600))
        self._identity = _identity(os.fstat(self.fd))

    @property
    def owns_descriptor(self) -> bool:
        """Whether the descriptor is still the file that was opened."""
        try:
            return _identity(os.fstat(self.fd)) == self._identity
        except OSError:
            return False

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` leads to this file."""
        try:
            return _identity(path.stat()) == self._identity
        except OSError:
            return False

    @property
    def size(self) -> int:
        """Bytes in it; raises an OSError if the descriptor was closed."""
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        """Close the file, unless the script did and the number is another file's by now."""
        if self.owns_descriptor:
            with contextlib.suppress(OSError):
                os.close(self.fd)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _to_high_descriptor(fd: int) -> int:
    lowest = min(_HIGH_DESCRIPTOR, file_limit() - 32)
    if lowest <= fd:
        return fd
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)
    except OSError:
        return fd
    os.close(fd)
    return high
