"""The folder of one stream in the spool: whole before it is seen, locked while its owner lives."""

from __future__ import annotations

import contextlib
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
from lineside.emitter.spool.protected_file import ProtectedFile
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


class StreamFolder:
    """``<root>/<run>/<producer>/<attempt>/`` with its lock, page and facts; mode 0700.

    It is put together under a name with a leading dot, which no stream has, and renamed: nobody
    ever sees it without a held lock. ``role`` is rank, shipper, launcher or control.

    Raises:
        SettingsError: the spool's root cannot be made or written.
        OSError: anything else that keeps the folder from being made, or a file system without
            locks.
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
        """Where the segment beginning with ``first_seq`` lies."""
        return self.path / f"{first_seq:016}{SEGMENT_SUFFIX}"

    def open_segment(self, first_seq: int) -> ProtectedFile:
        """The segment beginning with ``first_seq``, mode 0600, to be appended to."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return ProtectedFile(self.segment_path(first_seq), flags)

    def usage(self) -> int:
        """Bytes of segments this producer has in the spool, older attempts of the run included."""
        total = 0
        with contextlib.suppress(OSError), os.scandir(self.path.parent) as attempts:
            for attempt in attempts:
                with contextlib.suppress(OSError), os.scandir(attempt.path) as files:
                    total += sum(
                        file.stat().st_size for file in files if file.name.endswith(SEGMENT_SUFFIX)
                    )
        return total

    def is_intact(self) -> bool:
        """Whether the lock is held on the file that others see.

        It is taken anew: who only opens and closes that file in this process lets go of it.

        Raises:
            OSError: it cannot be taken.
        """
        lock = self._lock
        if lock is None or not (lock.owns_descriptor and lock.is_at(self.path / LOCK_NAME)):
            return False
        fcntl.lockf(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True

    def rebuild(self) -> None:
        """Make again what was removed, or closed under us; what the page said is kept.

        Raises:
            OSError, SettingsError: as when it was first made.
        """
        content = memoryview(bytearray(self.page.fields)).cast("q")
        if not (self.path / INBOX_NAME).exists():
            content[INBOX_BYTES] = 0
        self._release()
        # The old page stays mapped: another thread may be about to store into it.
        if self.path.is_dir():
            self.page = self._fill(self.path, content.tobytes())
        else:
            self.page = self._create(content.tobytes())

    def close(self) -> None:
        """Let go of the lock: from now on this producer counts as gone. The page stays mapped."""
        self.page.fields[FLAGS] |= CLOSED
        self.page.sync()
        self._release()

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
        return page

    def _fill(self, folder: Path, *content: bytes) -> StatusPage:
        self._lock = ProtectedFile(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT)
        fcntl.lockf(self._lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        info = {
            "stream": str(self.stream),
            "pid": os.getpid(),
            "host": platform.node(),
            "kind": self._role,
        }
        fd = os.open(folder / INFO_NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(info).encode())
        finally:
            os.close(fd)
        return StatusPage.create(folder, *content)
