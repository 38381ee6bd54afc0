"""A page of shared memory beside each stream: the state of its process, in 8-byte fields.

The training process stores a few fields at each hook without a system call. The shipper reads them
once a second and stores how far the bus has confirmed. Each field has one writer. Where a store
into a mapped file could be a SIGBUS, ``sync`` copies the fields to and from the file instead: about
once a second, when an evaluation, a save or a pause begins or ends, when a flag changes, and while
training waits for a command.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import weakref
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
DROPPED = 8  # events dropped because the spool or the disk was full
HOOK_ERRORS = 9  # hooks that failed inside Lineside
HOOK_NS = 10  # time spent in all hooks together
HOOKS = 11  # hooks called
STARTED_MONOTONIC_NS = 12
# Written by the shipper, from here on.
ACKED_SEQ = 32  # the bus has committed every event before this one
SHIPPER_PID = 33
SHIPPER_MONOTONIC_NS = 34  # when the shipper last checked the stream
INBOX_BYTES = 35  # bytes of commands in the stream's inbox

TRAINING, TRAIN_ENDED, CLOSED, STOP_REQUESTED = 1, 2, 4, 8
"""Bits of FLAGS: between train_begin and train_end; train_end was emitted; the stream is closed; a
SIGTERM was turned into a stop, so that a second one may end the process."""

PHASES = (
    "starting",
    "training",  # between step_begin and step_end
    "waiting",  # between step_end and the next step_begin: loading data, for example
    "evaluating",
    "saving",
    "finished",
    "paused",  # by a command
)
PAUSED = PHASES.index("paused")

# File systems on which a store into a written block always succeeds. One that copies on write takes
# a new block after each write-back, and on a full disk that is a SIGBUS.
_MAPPABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs", "ramfs"})


class StatusPage:
    """The training process's side: fields in a mapped file, or in memory where that is unsafe.

    Fields in memory reach the file, if there is one, by ``sync`` only.
    """

    def __init__(
        self, fields: memoryview, file: ProtectedFile | None = None, *, is_mapped: bool = False
    ) -> None:
        self.fields = fields
        self._file = file
        self._is_mapped = is_mapped

    @classmethod
    def create(cls, folder: Path, content: bytes = bytes(PAGE_BYTES)) -> StatusPage:
        """Make a page in ``folder`` that begins with ``content``; never fails.

        Its blocks are written before it is mapped: a store into the mapping of a sparse file on a
        full disk is a SIGBUS too, which would kill training.
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
        in_memory = memoryview(bytearray(content)).cast("q")
        page = cls(fields or in_memory, file, is_mapped=fields is not None)
        page.fields[PID] = os.getpid()
        page.fields[MAGIC_FIELD] = MAGIC
        page.sync()
        return page

    def sync(self) -> None:
        """Write the process's fields and read the shipper's, where the file is not mapped."""
        file = self._file
        # In memory, a forked child has fields of its own.
        if file is None or self.fields[PID] != os.getpid() or not file.owns_descriptor:
            return
        with suppress_own_errors(OSError):
            # No copies: they would undo a flag that a signal handler raises in between.
            os.pwrite(file.fd, self.fields[:ACKED_SEQ], 0)
            os.preadv(file.fd, [self.fields[ACKED_SEQ:]], 8 * ACKED_SEQ)

    def refresh(self, folder: Path) -> None:
        """After ``close``: read the shipper's fields in ``folder``, where there is a page."""
        if self._is_mapped:
            return
        with contextlib.suppress(OSError):
            fd = os.open(folder / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC)
            try:
                stored = os.pread(fd, PAGE_BYTES, 0)
            finally:
                os.close(fd)
            if len(stored) == PAGE_BYTES:
                self.fields[ACKED_SEQ:] = memoryview(stored).cast("q")[ACKED_SEQ:]

    def close(self) -> None:
        """Stop the copying of ``sync``; ``fields`` stay readable."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _map(fd: int) -> memoryview:
    """Map the page in ``fd`` as long as the view is used, without keeping a descriptor.

    An ``mmap.mmap`` keeps a descriptor with a low number and closes it at its end. If the script
    has closed all descriptors, that number is one of its own files by then.
    """
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
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
    unmap = weakref.finalize(mapped, library.munmap, ctypes.c_void_p(address), PAGE_BYTES)
    unmap.atexit = False  # the views are used until the very end
    return memoryview(mapped).cast("B").cast("q")
