"""The folder of one stream: complete before it is visible, locked while its owner lives."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import shutil
import time
from pathlib import Path

from lineside.bus.protocol.events import Stream
from lineside.bus.settings import make_private_folder
from lineside.emitter.spool.inbox import FILE_NAME as INBOX_NAME
from lineside.emitter.spool.protected_file import ProtectedFile, open_private
from lineside.emitter.spool.status_page import (
    CLOSED,
    FLAGS,
    INBOX_BYTES,
    RANK,
    STARTED_MONOTONIC_NS,
    StatusPage,
)

LOCK_NAME = "lock"
INFO_NAME = "stream.json"
SEGMENT_SUFFIX = ".seg"
# A shipper that removes a folder holds its lock meanwhile.
_LOCK_TRIES, _LOCK_DELAY = 200, 0.005


class StreamFolder:
    """``<root>/<run>/<producer>/<attempt>/`` with its lock, page and facts; mode 0700.

    The folder is built under a name with a leading dot, which no stream has, and then renamed: no
    other process ever sees it unlocked. ``role`` is rank, shipper, launcher or control.

    Raises:
        SettingsError: the spool's root cannot be made or written.
        OSError: the folder cannot be made for another reason, or its file system has no locks.
    """

    def __init__(self, root: Path, stream: Stream, *, role: str, rank: int) -> None:
        self.root = root
        self.stream = stream
        self.path = root.joinpath(*stream)
        self._role = role
        self._lock: ProtectedFile | None = None
        self.page = self._create()
        self.page.fields[RANK] = rank
        self.page.fields[STARTED_MONOTONIC_NS] = time.monotonic_ns()

    def segment_path(self, first_seq: int) -> Path:
        """The path of the segment that begins with ``first_seq``."""
        return self.path / f"{first_seq:016}{SEGMENT_SUFFIX}"

    def open_segment(self, first_seq: int) -> ProtectedFile:
        """Open the segment that begins with ``first_seq`` for appending, mode 0600."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return ProtectedFile(self.segment_path(first_seq), flags)

    def usage(self) -> int:
        """Bytes of this producer's segments, older attempts of the run included."""
        return producer_bytes(self.path.parent)

    def is_intact(self) -> bool:
        """Whether the lock file is still in the folder; locks it again.

        A script that opens and closes that file in this process has released the lock.

        Raises:
            OSError: it cannot be locked.
        """
        lock = self._lock
        if lock is None or not (lock.owns_descriptor and lock.is_at(self.path / LOCK_NAME)):
            return False
        fcntl.lockf(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True

    def rebuild(self) -> None:
        """Restore what the script removed or closed; the page keeps its fields.

        Raises:
            OSError, SettingsError: as when the folder was first made.
        """
        self._rebuild(0)

    def close(self) -> None:
        """Release the lock: this producer counts as gone. ``page.fields`` stay readable."""
        self.page.fields[FLAGS] |= CLOSED
        self.page.sync()
        self.abandon()

    def reopen(self) -> None:
        """After ``close``: take the lock again, in a new folder if the shipper removed this one.

        Raises:
            OSError, SettingsError: as when the folder was first made.
        """
        self.page.refresh(self.path)
        self._rebuild(CLOSED)

    def abandon(self) -> None:
        """Close the files and leave the folder as it is: in a forked child it is the parent's."""
        self.page.close()
        self._release()

    def _rebuild(self, lowered: int) -> None:
        content = memoryview(bytearray(self.page.fields)).cast("q")
        content[FLAGS] &= ~lowered
        if not (self.path / INBOX_NAME).exists():
            content[INBOX_BYTES] = 0
        self._release()
        # The old page stays mapped while it is used: another thread may still store into it.
        try:
            self.page = self._fill(self.path, content.tobytes())
        except FileNotFoundError:
            self.page = self._create(content.tobytes())
        else:
            self._announce()

    def _announce(self) -> None:
        """Make the shipper look for new streams at once: it watches the time of the root."""
        now_ns = time.time_ns()
        with contextlib.suppress(OSError):
            os.utime(self.root, ns=(now_ns, now_ns))

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def _create(self, *content: bytes) -> StatusPage:
        make_private_folder(self.root)
        for folder in (self.path.parents[1], self.path.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        building = self.path.with_name(f".{self.stream.attempt}.{os.getpid()}")
        building.mkdir(mode=0o700)
        try:
            page = self._fill(building, *content)
            building.rename(self.path)
        except BaseException:
            self._release()
            shutil.rmtree(building, ignore_errors=True)
            raise
        self._announce()
        return page

    def _fill(self, folder: Path, *content: bytes) -> StatusPage:
        self._lock = _lock(folder / LOCK_NAME)
        info = {
            "stream": str(self.stream),
            "pid": os.getpid(),
            "host": platform.node(),
            "kind": self._role,
        }
        with open_private(folder / INFO_NAME, os.O_WRONLY) as fd:
            os.write(fd, json.dumps(info).encode())
        return StatusPage.create(folder, *content)


def _lock(path: Path) -> ProtectedFile:
    """Lock ``path``; waits for a shipper that is removing its folder.

    Raises:
        FileNotFoundError: the folder is gone.
        OSError: the file cannot be made or locked.
    """
    for _ in range(_LOCK_TRIES):
        file = ProtectedFile(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            time.sleep(_LOCK_DELAY)
            continue
        except OSError:
            file.close()
            raise
        if file.is_at(path):
            return file
        file.close()
    raise BlockingIOError(errno.EAGAIN, "another process holds the lock", str(path))


def producer_bytes(folder: Path) -> int:
    """Bytes of all segments in the attempts of the producer's ``folder``."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as attempts:
        for attempt in attempts:
            with contextlib.suppress(OSError), os.scandir(attempt.path) as files:
                total += sum(
                    file.stat().st_size for file in files if file.name.endswith(SEGMENT_SUFFIX)
                )
    return total
