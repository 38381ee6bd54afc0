"""What a producer's page and process say of it, read from outside."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import struct
from pathlib import Path
from typing import Any, NamedTuple

from lineside.bus.protocol import wire
from lineside.emitter.spool.segment_reader import segments
from lineside.emitter.spool.status_page import (
    ACKED_SEQ,
    CLOSED,
    FILE_NAME,
    INBOX_BYTES,
    MAGIC,
    PHASES,
    SHIPPER_MONOTONIC_NS,
    SHIPPER_PID,
    STOP_REQUESTED,
    TRAIN_ENDED,
)
from lineside.emitter.spool.stream_folder import INFO_NAME

_FIELDS = struct.Struct(f"={SHIPPER_MONOTONIC_NS + 1}q")
_FIELD, _TWO_FIELDS = struct.Struct("=q"), struct.Struct("=2q")
_LAST_BYTES = 16 << 20
_END_KINDS = ("train_end", "run_end")
_END_MARKS = tuple(kind.encode() for kind in _END_KINDS)
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


class StatusFields(NamedTuple):
    """A page's words; ``emitter/spool/status_page.py`` says what each means."""

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
        """Whether a SIGTERM has become a stop, and another may end the process."""
        return bool(self.flags & STOP_REQUESTED)


class StatusPageFile:
    """The shipper's side of a page.

    Read and written with system calls and not through a mapping: storing to or loading from the
    mapping of a file that somebody cuts short is a SIGBUS. The producer's mapping sees the stores.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def open(cls, folder: Path) -> StatusPageFile | None:
        """The page in ``folder``; None if it is missing, damaged or not ours to open."""
        try:
            page = cls(os.open(folder / FILE_NAME, os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            return None
        if page.read() is None:
            page.close()
            return None
        return page

    def read(self) -> StatusFields | None:
        """The words as they stand; None if this is no page (any more)."""
        try:
            data = os.pread(self._fd, _FIELDS.size, 0)
        except OSError:
            return None
        if len(data) < _FIELDS.size:
            return None
        fields = _FIELDS.unpack(data)
        return (
            StatusFields._make((*fields[1:12], fields[ACKED_SEQ])) if fields[0] == MAGIC else None
        )

    def acknowledge(self, seq: int) -> None:
        """Tell the producer that everything before ``seq`` is committed."""
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, _FIELD.pack(seq), ACKED_SEQ * _FIELD.size)

    def mark_shipper_alive(self, now_ns: int) -> None:
        """Tell the producer that a shipper looks after it."""
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, _TWO_FIELDS.pack(os.getpid(), now_ns), SHIPPER_PID * _FIELD.size)

    def set_inbox_bytes(self, size: int) -> None:
        """Tell the producer that its inbox holds ``size`` bytes.

        Raises:
            OSError: it cannot be told.
        """
        os.pwrite(self._fd, _FIELD.pack(size), INBOX_BYTES * _FIELD.size)

    def is_at(self, folder: Path) -> bool:
        """Whether this is still the page that lies in ``folder``."""
        try:
            return os.path.samestat(os.fstat(self._fd), (folder / FILE_NAME).stat())
        except OSError:
            return False

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read_page(folder: Path) -> StatusFields | None:
    """The words of the page in ``folder`` as they stand; None if there is none to read."""
    page = StatusPageFile.open(folder)
    if page is None:
        return None
    try:
        return page.read()
    finally:
        page.close()


class StreamInfo(NamedTuple):
    """Which process writes a stream, as ``stream.json`` says. It says it once and may be wrong."""

    pid: int
    host: str

    @classmethod
    def read(cls, folder: Path) -> StreamInfo:
        """Facts of the stream in ``folder``; pid 0 and no host if it does not say."""
        try:
            info = json.loads((folder / INFO_NAME).read_bytes())
            return cls(int(info["pid"]), str(info["host"]))
        except (OSError, ValueError, TypeError, KeyError):
            return cls(0, "")

    @property
    def is_local(self) -> bool:
        """Whether the process is one of this machine."""
        return self.pid > 0 and self.host == platform.node()


def heartbeat_data(fields: StatusFields, info: StreamInfo, now_ns: int) -> dict[str, Any]:
    """What is known of a rank now. ``hook_age`` in seconds and ``rss`` in bytes are None when it
    runs on another machine."""
    local = info.is_local
    return {
        "rank": fields.rank,
        "pid": fields.pid,
        "host": info.host,
        "step": fields.step,
        "phase": phase(fields),
        "hook_age": (now_ns - fields.hook_monotonic_ns) / 1e9
        if local and fields.hook_monotonic_ns
        else None,
        "rss": _rss(fields.pid) if local else None,
        "emitted": fields.next_seq,
        "dropped": fields.dropped,
        "hook_errors": fields.hook_errors,
        "hook_ns": fields.hook_ns,
        "hooks": fields.hooks,
        "acked": fields.acked,
    }


def phase(fields: StatusFields) -> str:
    """What the rank was doing at its last hook."""
    return PHASES[fields.phase] if 0 <= fields.phase < len(PHASES) else "unknown"


def process_lost_data(
    folder: Path, fields: StatusFields | None, info: StreamInfo
) -> dict[str, Any]:
    """What is known of the producer in ``folder``, which is gone; what is not known is None.

    ``alive_at``, seconds since the epoch, is its last sign of life: a shipper that watched it wrote
    into its page about once a second.
    """
    signs = []
    for path in (folder / FILE_NAME, *(segment.path for segment in segments(folder)[-1:])):
        with contextlib.suppress(OSError):
            signs.append(path.stat().st_mtime)
    return {
        "pid": fields.pid if fields else info.pid or None,
        "host": info.host or None,
        "step": fields.step if fields else None,
        "phase": phase(fields) if fields else None,
        "emitted": fields.next_seq if fields else None,
        "alive_at": max(signs, default=None),
    }


def has_ended(folder: Path, fields: StatusFields | None) -> bool:
    """Whether the stream in ``folder`` says itself that it came to an end.

    Its page does, in ``fields``; but a process can be killed after its last record and before it
    says so there, so the last records are asked too.

    Raises:
        OSError: they cannot be read.
    """
    if fields is not None and fields.has_ended:
        return True
    for segment in reversed(segments(folder)[-2:]):
        data = _last_bytes(segment.path)
        if any(mark in data for mark in _END_MARKS):
            for body in wire.record_bodies(data):
                with contextlib.suppress(ValueError):
                    if wire.decode_event(body).kind in _END_KINDS:
                        return True
    return False


def _last_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - _LAST_BYTES, 0))
        return file.read()


def _rss(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE_SIZE
    except (OSError, ValueError, IndexError):
        return None
