"""One page of shared memory beside a spool stream: what a rank is doing now, in 8-byte words.

The training process stores a few words at each hook and calls nothing; the shipper reads them once
a second and stores how far the bus has confirmed. Each word has one writer.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

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
# Written by the shipper.
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


class Page:
    """``PAGE_BYTES`` of words in a file mapped by both sides, or in memory if there is no file."""

    def __init__(self, words: memoryview, mapped: mmap.mmap | None) -> None:
        self.words = words
        self._mapped = mapped

    @classmethod
    def create(cls, folder: Path) -> Page:
        """A fresh page in ``folder``; the training process's side, which never fails.

        Its blocks are really written first: storing through a mapping of a sparse file on a full
        disk is a SIGBUS, and that would kill training.
        """
        try:
            fd = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.pwrite(fd, bytes(PAGE_BYTES), 0) != PAGE_BYTES:
                    raise OSError("short write")
                mapped = mmap.mmap(fd, PAGE_BYTES)
            finally:
                os.close(fd)
        except (OSError, ValueError):
            page = cls(memoryview(bytearray(PAGE_BYTES)).cast("q"), None)
        else:
            page = cls(memoryview(mapped).cast("q"), mapped)
        page.words[PID] = os.getpid()
        page.words[MAGIC_WORD] = MAGIC
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

    def flush(self) -> None:
        """Put the page on disk, so that it survives the machine."""
        if self._mapped is not None:
            self._mapped.flush()

    def close(self) -> None:
        """Unmap. Nothing may touch ``words`` afterwards."""
        self.words.release()
        if self._mapped is not None:
            with contextlib.suppress(BufferError):
                self._mapped.close()
