"""One page of shared memory beside a spool stream: what a rank is doing now, in 8-byte words.

The training process stores a few words at each hook and calls nothing; the shipper reads them once
a second and stores how far the bus has confirmed. Each word has one writer. Where a store into a
mapped file could be a SIGBUS, the words are exchanged with the file once a second instead.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

from lineside.bus.filesystem import filesystem
from lineside.emitter.ownfile import OwnFile

PAGE_BYTES = 4096
MAGIC = 0x4C494E4553494445  # "LINESIDE"
FILE_NAME = "page"

# Written by the training process.
MAGIC_WORD = 0
PID = 1
RANK = 2
FLAGS = 3
STEP = 4
PHASE = 5  # index into PHASES
HOOK_MONOTONIC_NS = 6  # when the last hook was called
NEXT_SEQ = 7  # events emitted so far
DROPPED = 8  # events a full spool or disk refused
HOOK_ERRORS = 9  # hooks that failed inside and were swallowed
HOOK_NS = 10  # time spent in all hooks together
HOOKS = 11  # hooks called
STARTED_MONOTONIC_NS = 12
# Written by the shipper, from here on.
ACKED_SEQ = 32  # the bus has committed every event before this one
SHIPPER_PID = 33
SHIPPER_MONOTONIC_NS = 34  # when the shipper last looked

TRAINING, TRAIN_ENDED, CLOSED = 1, 2, 4
"""Bits of FLAGS: between train_begin and train_end; train_end was emitted; run_end was emitted."""

PHASES = (
    "starting",
    "training",  # between step_begin and step_end
    "waiting",  # between step_end and the next step_begin: data, and whatever else runs there
    "evaluating",
    "saving",
    "finished",
)


# Where a store into a block once written always succeeds. A file system that copies on write takes
# a new block for it after each write-back, and on a full disk that is a SIGBUS.
_MAPPABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs", "ramfs"})
_OWN_BYTES = 8 * ACKED_SEQ


class Page:
    """``PAGE_BYTES`` of words in a file mapped by both sides, or in memory if that is not safe.

    Words in memory reach the file, if there is one, by ``exchange`` only.
    """

    def __init__(
        self, words: memoryview, mapped: mmap.mmap | None, file: OwnFile | None = None
    ) -> None:
        self.words = words
        self._mapped = mapped
        self._file = file

    @classmethod
    def create(cls, folder: Path) -> Page:
        """A fresh page in ``folder``; the training process's side, which never fails.

        Its blocks are really written first: storing through a mapping of a sparse file on a full
        disk is a SIGBUS too, and that would kill training.
        """
        mapped: mmap.mmap | None = None
        file: OwnFile | None = None
        with contextlib.suppress(OSError, ValueError):
            file = OwnFile(folder / FILE_NAME, os.O_RDWR | os.O_CREAT)
            is_whole = os.pwrite(file.fd, bytes(PAGE_BYTES), 0) == PAGE_BYTES
            if is_whole and filesystem(folder) in _MAPPABLE:
                mapped = mmap.mmap(file.fd, PAGE_BYTES)
        if mapped is not None and file is not None:
            file.close()
            file = None
        words = memoryview(bytearray(PAGE_BYTES) if mapped is None else mapped).cast("q")
        page = cls(words, mapped, file)
        page.words[PID] = os.getpid()
        page.words[MAGIC_WORD] = MAGIC
        page.exchange()
        return page

    @classmethod
    def open(cls, folder: Path) -> Page | None:
        """The page a training process made in ``folder``; None if it is missing or not a page."""
        try:
            fd = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if os.fstat(fd).st_size < PAGE_BYTES:
                return None
            mapped = mmap.mmap(fd, PAGE_BYTES)
        except (OSError, ValueError):
            return None
        finally:
            os.close(fd)
        page = cls(memoryview(mapped).cast("q"), mapped)
        if page.words[MAGIC_WORD] != MAGIC:
            page.close()
            return None
        return page

    def exchange(self) -> None:
        """Write the training process's words and read the shipper's, where they are not mapped."""
        file = self._file
        if file is None or not file.is_ours:
            return
        with contextlib.suppress(OSError):
            own = self.words[:ACKED_SEQ].tobytes()
            os.pwrite(file.fd, own, 0)
            told = os.pread(file.fd, PAGE_BYTES - _OWN_BYTES, _OWN_BYTES)
            if len(told) == PAGE_BYTES - _OWN_BYTES:
                self.words[ACKED_SEQ:] = memoryview(told).cast("q")

    def detach(self) -> None:
        """Exchange nothing any more; ``words`` stay readable."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def close(self) -> None:
        """Unmap. Nothing may touch ``words`` afterwards."""
        self.detach()
        self.words.release()
        if self._mapped is not None:
            with contextlib.suppress(BufferError):
                self._mapped.close()
