"""One page of shared memory beside a spool stream: what a rank is doing now, in 8-byte words.

The training process stores a few words at each hook and calls nothing; the shipper reads them once
a second and stores how far the bus has confirmed. Each word has one writer. Where a store into a
mapped file could be a SIGBUS, the words are exchanged with the file instead: about once a second,
when an evaluation, a save or a pause begins or ends, when a flag changes, and while a command is
waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from pathlib import Path

from lineside.bus.filesystem import filesystem
from lineside.emitter.spool.protected_file import ProtectedFile
from lineside.emitter.spool.script_errors import suppress_own_errors

PAGE_BYTES = 4096
MAGIC = 0x4C494E4553494445  # "LINESIDE"
FILE_NAME = "page"

# Written by the training process.
MAGIC_FIELD = 0
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
INBOX_BYTES = 35  # bytes of commands it has put into the stream's inbox

TRAINING, TRAIN_ENDED, CLOSED, STOP_REQUESTED = 1, 2, 4, 8
"""Bits of FLAGS: between train_begin and train_end; train_end was emitted; nothing more will be; a
SIGTERM has become a stop, and another may end the process."""

PHASES = (
    "starting",
    "training",  # between step_begin and step_end
    "waiting",  # between step_end and the next step_begin: data, and whatever else runs there
    "evaluating",
    "saving",
    "finished",
    "paused",  # held up by a command
)
PAUSED = PHASES.index("paused")


# Where a store into a block once written always succeeds. A file system that copies on write takes
# a new block for it after each write-back, and on a full disk that is a SIGBUS.
_MAPPABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs", "ramfs"})


class StatusPage:
    """``PAGE_BYTES`` of words in a file mapped by both sides, or in memory if that is not safe.

    Words in memory reach the file, if there is one, by ``sync`` only.
    """

    def __init__(self, fields: memoryview, file: ProtectedFile | None = None) -> None:
        self.fields = fields
        self._file = file

    @classmethod
    def create(cls, folder: Path, content: bytes = bytes(PAGE_BYTES)) -> StatusPage:
        """A page in ``folder`` that says what ``said`` did; the training process's side, which
        never fails.

        Its blocks are really written first: storing through a mapping of a sparse file on a full
        disk is a SIGBUS too, and that would kill training.
        """
        fields: memoryview | None = None
        file: ProtectedFile | None = None
        with contextlib.suppress(OSError):
            file = ProtectedFile(folder / FILE_NAME, os.O_RDWR | os.O_CREAT)
            is_whole = os.pwrite(file.fd, content, 0) == PAGE_BYTES
            if is_whole and filesystem(folder) in _MAPPABLE:
                fields = _map(file.fd)
        if fields is not None and file is not None:
            file.close()
            file = None
        page = cls(fields or memoryview(bytearray(content)).cast("q"), file)
        page.fields[PID] = os.getpid()
        page.fields[MAGIC_FIELD] = MAGIC
        page.sync()
        return page

    @classmethod
    def open(cls, folder: Path) -> StatusPage | None:
        """The page a training process made in ``folder``; None if it is missing or not a page."""
        try:
            fd = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if os.fstat(fd).st_size < PAGE_BYTES:
                return None
            page = cls(_map(fd))
        except OSError:
            return None
        finally:
            os.close(fd)
        return page if page.fields[MAGIC_FIELD] == MAGIC else None

    def sync(self) -> None:
        """Write the training process's words and read the shipper's, where they are not mapped."""
        file = self._file
        # In memory, a forked child has words of its own.
        if file is None or self.fields[PID] != os.getpid() or not file.owns_descriptor:
            return
        with suppress_own_errors(OSError):
            # No copies: a signal handler that raises a flag in between would be undone.
            os.pwrite(file.fd, self.fields[:ACKED_SEQ], 0)
            os.preadv(file.fd, [self.fields[ACKED_SEQ:]], 8 * ACKED_SEQ)

    def close(self) -> None:
        """Exchange nothing any more; ``fields`` stay readable."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _map(fd: int) -> memoryview:
    """The page in ``fd``, mapped for the rest of the process's life: 4 KiB, and no descriptor.

    An ``mmap.mmap`` would keep one open, of a low number, and close it when it goes; a script that
    closed every descriptor has a file of its own under that number by then.
    """
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    address = library.mmap(
        None, PAGE_BYTES, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0
    )
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "the page cannot be mapped")
    mapped = (ctypes.c_int64 * (PAGE_BYTES // 8)).from_address(address)
    return memoryview(mapped).cast("B").cast("q")
