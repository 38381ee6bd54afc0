"""An exclusive lock between processes: ``flock`` on a file, which ends with its process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FileLock:
    """The lock on ``path``, waited for if another process holds it.

    The file is created with mode 0600; ``path`` may be a folder instead. The file stays after the
    release, because removing it would race with the next process. ``fd`` is open for writing.

    Raises:
        OSError: the file cannot be opened.
        BlockingIOError: with ``wait`` False, another process holds the lock.
    """

    def __init__(self, path: Path, *, wait: bool = True) -> None:
        flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
        self.fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let another process take the lock. A second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
