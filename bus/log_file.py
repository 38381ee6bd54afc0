"""Log files of child processes: the child writes, the supervisor trims and follows."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_BYTES = 4 << 20  # then the log becomes NAME.log.1


class LogFile:
    """A log that a child appends to by its own descriptor, so that no other process blocks it."""

    def __init__(self, path: Path, limit: int = MAX_BYTES) -> None:
        self.path = path
        self._limit = limit
        self._offset = self.size()
        self._partial_line = b""

    @contextmanager
    def open_append(self) -> Iterator[int]:
        """A descriptor for appending, which a child inherits."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self.path, flags, 0o600)
        try:
            yield fd
        finally:
            os.close(fd)

    def trim(self) -> None:
        """Move a log beyond the limit to ``NAME.log.1``.

        The child goes on appending to the emptied file. A line written meanwhile is lost.
        """
        try:
            if self.path.stat().st_size <= self._limit:
                return
            self.path.with_suffix(".log.1").write_bytes(self.path.read_bytes())
            os.truncate(self.path, 0)
        except OSError:
            return  # a full disk: the next turn tries again

    def new_lines(self) -> list[str]:
        """Whole lines written since the last call."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset, self._partial_line = 0, b""
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._partial_line = (self._partial_line + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def size(self) -> int:
        """The bytes in the log."""
        return self.path.stat().st_size if self.path.exists() else 0

    def last_lines(self, count: int, *, start: int = 0) -> list[str]:
        """The newest ``count`` lines that are not blank, from byte ``start`` on."""
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(start if start <= size else 0, size - (64 << 10)))  # trimmed since
                lines = deque((line for line in file if line.strip()), maxlen=count)
        except FileNotFoundError:
            return []
        return [line.decode(errors="replace").rstrip() for line in lines]
