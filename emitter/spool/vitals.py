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
from lineside.emitter.spool.folder import FACTS_NAME
from lineside.emitter.spool.page import (
    ACKED_SEQ,
    CLOSED,
    FILE_NAME,
    INBOX,
    MAGIC,
    PHASES,
    SHIPPER_MONOTONIC_NS,
    SHIPPER_PID,
    STOP_ASKED,
    TRAIN_ENDED,
)
from lineside.emitter.spool.tail import segments

_WORDS = struct.Struct(f"={SHIPPER_MONOTONIC_NS + 1}q")
_WORD, _TWO_WORDS = struct.Struct("=q"), struct.Struct("=2q")
_LAST_BYTES = 16 << 20
_END_KINDS = ("train_end", "run_end")
_END_MARKS = tuple(kind.encode() for kind in _END_KINDS)
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


class Words(NamedTuple):
    """A page's words; ``emitter/spool/page.py`` says what each means."""

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
    def ended(self) -> bool:
        """Whether training ended by itself, or the stream was closed."""
        return bool(self.flags & (TRAIN_ENDED | CLOSED))

    @property
    def closed(self) -> bool:
        """Whether nothing more will be written."""
        return bool(self.flags & CLOSED)

    @property
    def stop_asked(self) -> bool:
        """Whether a SIGTERM has become a stop, and another may end the process."""
        return bool(self.flags & STOP_ASKED)


class PageView:
    """The shipper's side of a page.

    Read and written with system calls and not through a mapping: storing to or loading from the
    mapping of a file that somebody cuts short is a SIGBUS. The producer's mapping sees the stores.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def open(cls, folder: Path) -> PageView | None:
        """The page in ``folder``; None if it is missing, damaged or not ours to open."""
        try:
            page = cls(os.open(folder / FILE_NAME, os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            return None
        if page.read() is None:
            page.close()
            return None
        return page

    def read(self) -> Words | None:
        """The words as they stand; None if this is no page (any more)."""
        try:
            data = os.pread(self._fd, _WORDS.size, 0)
        except OSError:
            return None
        if len(data) < _WORDS.size:
            return None
        words = _WORDS.unpack(data)
        return Words._make((*words[1:12], words[ACKED_SEQ])) if words[0] == MAGIC else None

    def acknowledge(self, seq: int) -> None:
        """Tell the producer that everything before ``seq`` is committed."""
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, _WORD.pack(seq), ACKED_SEQ * _WORD.size)

    def stamp(self, now_ns: int) -> None:
        """Tell the producer that a shipper looks after it."""
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, _TWO_WORDS.pack(os.getpid(), now_ns), SHIPPER_PID * _WORD.size)

    def tell_inbox(self, size: int) -> None:
        """Tell the producer that its inbox holds ``size`` bytes.

        Raises:
            OSError: it cannot be told.
        """
        os.pwrite(self._fd, _WORD.pack(size), INBOX * _WORD.size)

    def is_at(self, folder: Path) -> bool:
        """Whether this is still the page that lies in ``folder``."""
        try:
            return os.path.samestat(os.fstat(self._fd), (folder / FILE_NAME).stat())
        except OSError:
            return False

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read_page(folder: Path) -> Words | None:
    """The words of the page in ``folder`` as they stand; None if there is none to read."""
    page = PageView.open(folder)
    if page is None:
        return None
    try:
        return page.read()
    finally:
        page.close()


class Facts(NamedTuple):
    """Which process writes a stream, as ``stream.json`` says. It says it once and may be wrong."""

    pid: int
    host: str

    @classmethod
    def read(cls, folder: Path) -> Facts:
        """Facts of the stream in ``folder``; pid 0 and no host if it does not say."""
        try:
            facts = json.loads((folder / FACTS_NAME).read_bytes())
            return cls(int(facts["pid"]), str(facts["host"]))
        except (OSError, ValueError, TypeError, KeyError):
            return cls(0, "")

    @property
    def is_local(self) -> bool:
        """Whether the process is one of this machine."""
        return self.pid > 0 and self.host == platform.node()


def heartbeat(words: Words, facts: Facts, now_ns: int) -> dict[str, Any]:
    """What is known of a rank now. ``hook_age`` in seconds and ``rss`` in bytes are None when it
    runs on another machine."""
    local = facts.is_local
    return {
        "rank": words.rank,
        "pid": words.pid,
        "host": facts.host,
        "step": words.step,
        "phase": phase(words),
        "hook_age": (now_ns - words.hook_monotonic_ns) / 1e9
        if local and words.hook_monotonic_ns
        else None,
        "rss": _rss(words.pid) if local else None,
        "emitted": words.next_seq,
        "dropped": words.dropped,
        "hook_errors": words.hook_errors,
        "hook_ns": words.hook_ns,
        "hooks": words.hooks,
        "acked": words.acked,
    }


def phase(words: Words) -> str:
    """What the rank was doing at its last hook."""
    return PHASES[words.phase] if 0 <= words.phase < len(PHASES) else "unknown"


def last_words(folder: Path, words: Words | None, facts: Facts) -> dict[str, Any]:
    """What is known of the producer in ``folder``, which is gone; what is not known is None.

    ``alive_at``, seconds since the epoch, is its last sign of life: a shipper that watched it wrote
    into its page about once a second.
    """
    signs = []
    for path in (folder / FILE_NAME, *(segment.path for segment in segments(folder)[-1:])):
        with contextlib.suppress(OSError):
            signs.append(path.stat().st_mtime)
    return {
        "pid": words.pid if words else facts.pid or None,
        "host": facts.host or None,
        "step": words.step if words else None,
        "phase": phase(words) if words else None,
        "emitted": words.next_seq if words else None,
        "alive_at": max(signs, default=None),
    }


def ended(folder: Path, words: Words | None) -> bool:
    """Whether the stream in ``folder`` says itself that it came to an end.

    Its page does, in ``words``; but a process can be killed after its last record and before it
    says so there, so the last records are asked too.

    Raises:
        OSError: they cannot be read.
    """
    if words is not None and words.ended:
        return True
    for segment in reversed(segments(folder)[-2:]):
        data = _last_bytes(segment.path)
        if any(mark in data for mark in _END_MARKS):
            for body in wire.bodies(data):
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
