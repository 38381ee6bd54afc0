"""The folder of one stream in the spool: whole before it is seen, locked while its owner lives."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import resource
import shutil
import time
from pathlib import Path

from lineside.bus.events import Stream
from lineside.bus.settings import private_folder
from lineside.emitter.page import RANK, STARTED_MONOTONIC_NS, Page

LOCK_NAME = "lock"
FACTS_NAME = "stream.json"
SEGMENT_SUFFIX = ".seg"
_HIGH_DESCRIPTOR = 900


class StreamFolder:
    """``<root>/<run>/<producer>/<attempt>/`` with its lock, page and facts; mode 0700.

    It is put together under a name with a leading dot, which no stream has, and renamed: nobody
    ever sees it without a held lock. ``role`` is rank, shipper or launcher.

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
        self._lock = -1
        self.page = self._create()
        self.page.words[RANK] = rank
        self.page.words[STARTED_MONOTONIC_NS] = time.monotonic_ns()

    def segment_path(self, first_seq: int) -> Path:
        """Where the segment beginning with ``first_seq`` lies."""
        return self.path / f"{first_seq:016}{SEGMENT_SUFFIX}"

    def open_segment(self, first_seq: int) -> int:
        """A descriptor that appends to the segment beginning with ``first_seq``, mode 0600."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return _out_of_the_way(os.open(self.segment_path(first_seq), flags, 0o600))

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
        """Whether the lock is still held on the file that others see."""
        try:
            held, seen = os.fstat(self._lock), (self.path / LOCK_NAME).stat()
        except OSError:
            return False
        return (held.st_dev, held.st_ino) == (seen.st_dev, seen.st_ino)

    def rebuild(self) -> None:
        """Make everything again after someone removed it; what the page said is kept.

        Raises:
            OSError, SettingsError: as when it was first made.
        """
        old = self.page
        self._release()
        self.page = self._create()
        # The old page stays mapped: another thread may be about to store into it.
        self.page.words[:] = old.words

    def close(self) -> None:
        """Let go of the lock: from now on this producer counts as gone. The page stays mapped."""
        self._release()

    def _release(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._lock)
        self._lock = -1

    def _create(self) -> Page:
        private_folder(self.root)
        for folder in (self.path.parents[1], self.path.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        building = self.path.with_name(f".{self.stream.attempt}.{os.getpid()}")
        building.mkdir(mode=0o700)
        try:
            page = self._fill(building)
            try:
                building.rename(self.path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not self._is_headless():
                    raise
                shutil.rmtree(building)
                self._release()
                page = self._fill(self.path)
        except BaseException:
            self._release()
            shutil.rmtree(building, ignore_errors=True)
            raise
        return page

    def _is_headless(self) -> bool:
        """Whether the folder stands there without a lock: someone removed files from it."""
        return not (self.path / LOCK_NAME).exists()

    def _fill(self, folder: Path) -> Page:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        # The number is changed before the lock is taken: closing any descriptor of a file drops
        # the process's locks on it.
        self._lock = _out_of_the_way(os.open(folder / LOCK_NAME, flags, 0o600))
        fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        facts = {
            "stream": str(self.stream),
            "pid": os.getpid(),
            "host": platform.node(),
            "kind": self._role,
        }
        fd = os.open(folder / FACTS_NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(facts).encode())
        finally:
            os.close(fd)
        return Page.create(folder)


def _out_of_the_way(fd: int) -> int:
    """The same open file under a high number.

    A script that closes every low descriptor (daemons do) and then opens its own files must not
    get a number that we still write to.
    """
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
