"""An open file of ours in a process that is somebody else's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from pathlib import Path

_HIGH_DESCRIPTOR = 900


class ProtectedFile:
    """An open file that a script which closes descriptors right and left cannot turn against us.

    Daemons close every descriptor, and the numbers then go to the script's own files. Ours is a
    high number, hardly given out again, and is closed only if it still is the file we opened.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self.fd = _to_high_descriptor(os.open(path, flags | os.O_CLOEXEC, 0o600))
        self._identity = _identity(os.fstat(self.fd))

    @property
    def owns_descriptor(self) -> bool:
        """Whether the descriptor still is the file that was opened."""
        try:
            return _identity(os.fstat(self.fd)) == self._identity
        except OSError:
            return False

    def is_at(self, path: Path) -> bool:
        """Whether others find this very file under ``path``."""
        try:
            return _identity(path.stat()) == self._identity
        except OSError:
            return False

    @property
    def size(self) -> int:
        """Bytes in it; raises an OSError if the descriptor was closed."""
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        """Close it, unless somebody did and the number is another file's by now."""
        if self.owns_descriptor:
            with contextlib.suppress(OSError):
                os.close(self.fd)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _to_high_descriptor(fd: int) -> int:
    """The same open file under a high number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = _HIGH_DESCRIPTOR if soft < 0 else min(_HIGH_DESCRIPTOR, soft - 32)
    if lowest <= fd:
        return fd
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)
    except OSError:
        return fd
    os.close(fd)
    return high
