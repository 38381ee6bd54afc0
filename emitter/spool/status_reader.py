"""The status page and the facts of a stream, as processes other than its writer see them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import struct
from pathlib import Path
from typing import NamedTuple

from lineside.emitter.spool.status_page import (
    ACKED_SEQ,
    CLOSED,
    FILE_NAME,
    HOOKS,
    INBOX_BYTES,
    MAGIC,
    MAGIC_FIELD,
    PHASES,
    PID,
    SHIPPER_PID,
    STOP_REQUESTED,
    TRAIN_ENDED,
)
from lineside.emitter.spool.stream_folder import INFO_NAME

_FIELD_BYTES = 8
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
_PAGE = struct.Struct(f"={ACKED_SEQ + 1}q")


class StatusFields(NamedTuple):
    """The fields of a page from ``PID`` to ``HOOKS``, and ``ACKED_SEQ``; see ``status_page``."""

    pid: int
    rank: int
    flags: int
    step: int
    phase: int
    hook_monotonic_ns: int
    next_seq: int
    dropped: int
    hook_errors: int
    hook_ns: int
    hooks: int
    acked: int

    @property
    def has_ended(self) -> bool:
        """Whether training ended by itself, or the stream was closed."""
        return bool(self.flags & (TRAIN_ENDED | CLOSED))

    @property
    def closed(self) -> bool:
        """Whether nothing more will be written."""
        return bool(self.flags & CLOSED)

    @property
    def stop_requested(self) -> bool:
        """Whether a SIGTERM was turned into a stop, so that a second one may end the process."""
        return bool(self.flags & STOP_REQUESTED)

    @property
    def phase_name(self) -> str:
        """The phase at the last hook."""
        return PHASES[self.phase] if 0 <= self.phase < len(PHASES) else "unknown"


class StatusPageFile:
    """The status page of another process in ``folder``, opened anew for each use.

    A shipper has thousands of streams, so it keeps no descriptor of any. It uses system calls
    instead of a mapping: a load from, or a store into, the mapping of a file that another process
    cuts short is a SIGBUS. The producer's mapping sees what is written here.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME

    def read(self) -> StatusFields | None:
        """The fields as they are now; None if there is no page, or another user's or damaged."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR:
                raise
            return None
        try:
            data = os.pread(fd, _PAGE.size, 0)
        except OSError:
            return None
        finally:
            os.close(fd)
        if len(data) < _PAGE.size:
            return None
        fields = _PAGE.unpack(data)
        if fields[MAGIC_FIELD] != MAGIC:
            return None
        return StatusFields._make((*fields[PID : HOOKS + 1], fields[ACKED_SEQ]))

    def acknowledge(self, seq: int) -> None:
        """Store that every event before ``seq`` is committed."""
        with contextlib.suppress(OSError):
            self._store(ACKED_SEQ, seq)

    def mark_shipper_alive(self, now_ns: int) -> None:
        """Store that this process ships the stream."""
        with contextlib.suppress(OSError):
            self._store(SHIPPER_PID, os.getpid(), now_ns)

    def set_inbox_bytes(self, size: int) -> None:
        """Store that the producer's inbox holds ``size`` bytes.

        Raises:
            OSError: it cannot be stored.
        """
        self._store(INBOX_BYTES, size)

    def _store(self, field: int, *values: int) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, struct.pack(f"={len(values)}q", *values), field * _FIELD_BYTES)
        finally:
            os.close(fd)


def read_page(folder: Path) -> StatusFields | None:
    """The fields of the page in ``folder``; None if it cannot be read.

    Raises:
        OSError: this process can open no more files, whatever the page is.
    """
    return StatusPageFile(folder).read()


class StreamInfo(NamedTuple):
    """The process that writes a stream, by ``stream.json``, which is written once."""

    pid: int
    host: str

    @classmethod
    def read(cls, folder: Path) -> StreamInfo:
        """The facts of the stream in ``folder``; pid 0 and an empty host if they are missing."""
        try:
            info = json.loads((folder / INFO_NAME).read_bytes())
            return cls(int(info["pid"]), str(info["host"]))
        except (OSError, ValueError, TypeError, KeyError):
            return cls(0, "")

    @property
    def is_local(self) -> bool:
        """Whether the process runs on this machine."""
        return self.pid > 0 and self.host == platform.node()
