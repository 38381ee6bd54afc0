"""Watches the process that writes a stream, and notices at once when it ends."""

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

    The stream's lock decides. A script may release the lock without knowing; so if the process of
    ``fd`` held the lock at the start, the producer lives as long as that process and its program.
    ``fd`` is a pidfd that becomes readable when the process ends, None if it cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self.info = StreamInfo.read(folder)
        self.fd: int | None = None
        self._lock = folder / LOCK_NAME
        self._missing_since: float | None = None
        self._held_lock = False
        self._program: bytes | None = None

    def start(self) -> None:
        """Open the pidfd, if the process runs on this machine."""
        if self.fd is None and self.info.is_local and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self.fd = os.pidfd_open(self.info.pid)
                # In another pid namespace the id is another process's.
                self._held_lock = liveness_lock.holder_pid(self._lock) == self.info.pid
                self._program = _program(self.info.pid)

    def is_gone(self, now: float, *, has_closed: bool = True) -> bool:
        """Whether the producer has ended. ``now`` is monotonic, in seconds.

        A producer that has not closed its stream lives as long as its process, unless that runs
        another program: exec keeps the id and releases the lock. A missing lock file proves nothing
        for some seconds, because a live producer makes it again.

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

    def stop(self) -> None:
        """Close the pidfd."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def _process_is_alive(self) -> bool:
        if self.fd is None or not self._held_lock:
            return False
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return not poll.poll(0) and _program(self.info.pid) == self._program


def _program(pid: int) -> bytes | None:
    """Bytes that differ for each program a process runs; None if they cannot be read.

    They are the addresses at which the kernel has loaded it.
    """
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/auxv").read_bytes()
    return None
