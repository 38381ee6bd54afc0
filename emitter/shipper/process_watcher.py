"""Whether the process that writes a stream still lives, noticed at once when it can be."""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path

from lineside.emitter.spool import liveness_lock
from lineside.emitter.spool.status_reader import StreamInfo
from lineside.emitter.spool.stream_folder import LOCK_NAME

_MISSING_SECONDS = 5.0  # how long a live producer may take to make a removed folder again


class ProcessWatcher:
    """Watches the producer of the stream in ``folder``.

    The stream's lock decides, and where it was seen to be held by the process that ``fd`` is of,
    that process's end, or that it became another program: a script may let go of the lock without
    knowing. ``fd`` is a pidfd that becomes readable then, or None where there is none to have.
    """

    def __init__(self, folder: Path) -> None:
        self.info = StreamInfo.read(folder)
        self.fd: int | None = None
        self._lock = folder / LOCK_NAME
        self._missing_since: float | None = None
        self._is_known = False
        self._program: bytes | None = None

    def start(self) -> None:
        """Open the pidfd, if the process is one of this machine."""
        if self.fd is None and self.info.is_local and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self.fd = os.pidfd_open(self.info.pid)
                # In another pid namespace it is another process.
                self._is_known = liveness_lock.holder_pid(self._lock) == self.info.pid
                self._program = _program(self.info.pid)

    def is_gone(self, now: float, *, has_closed: bool = True) -> bool:
        """Whether the producer has ended. ``now`` is monotonic, in seconds.

        One that has not closed its stream lives as long as its process, if that does not begin
        another program: exec keeps the id and lets go of the lock. A lock file that is missing
        proves nothing yet: a live producer makes it again.

        Raises:
            OSError: the lock may not be opened.
        """
        try:
            held = liveness_lock.holder_pid(self._lock) is not None
        except FileNotFoundError:
            if self._missing_since is None:
                self._missing_since = now
            return now - self._missing_since >= _MISSING_SECONDS
        self._missing_since = None
        return not held and (has_closed or not self._process_is_alive())

    def _process_is_alive(self) -> bool:
        if self.fd is None or not self._is_known:
            return False
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return not poll.poll(0) and _program(self.info.pid) == self._program

    def end(self) -> None:
        """Close the pidfd."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def _program(pid: int) -> bytes | None:
    """Other bytes for each program that a process begins: where the kernel has put its parts. None
    where they cannot be read."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/auxv").read_bytes()
    return None
