"""What lies in a spool root: the streams, how far each was confirmed, and what may be removed."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from lineside.bus.errors import StreamNameError
from lineside.bus.protocol.events import Stream
from lineside.emitter.spool.inbox import FILE_NAME as INBOX_NAME
from lineside.emitter.spool.segment_reader import segments
from lineside.emitter.spool.status_page import FILE_NAME as PAGE_NAME
from lineside.emitter.spool.status_reader import read_page
from lineside.emitter.spool.stream_folder import INFO_NAME, LOCK_NAME, SEGMENT_SUFFIX

ACKED_NAME = "acked"
"""Holds how far a stream was confirmed, when its page cannot; its mtime is when that was."""
LOST_NAME = "lost"
"""Says that process_lost was published for this stream."""
_OWN_FILES = frozenset({INFO_NAME, LOCK_NAME, PAGE_NAME, INBOX_NAME, ACKED_NAME, LOST_NAME})


def streams(spool: Path) -> Iterator[tuple[Stream, Path]]:
    """Every stream folder under ``spool``; whatever else lies there is passed over."""
    for run in _folders(spool):
        for producer in _folders(run):
            for attempt in _folders(producer):
                with contextlib.suppress(StreamNameError):
                    yield Stream.parse(f"{run.name}/{producer.name}/{attempt.name}"), attempt


def acked_seq(folder: Path) -> int:
    """The seq up to which the stream in ``folder`` was confirmed, by its page or its file."""
    fields = read_page(folder)
    return max(fields.acked if fields else 0, read_acked_file(folder) or 0)


def read_acked_file(folder: Path) -> int | None:
    """What ``write_acked_file`` put there last; None if nothing readable is there."""
    try:
        return int((folder / ACKED_NAME).read_bytes())
    except (OSError, ValueError):
        return None


def write_acked_file(folder: Path, seq: int) -> None:
    """Keep on disk that everything before ``seq`` is confirmed.

    Raises:
        OSError: it cannot be kept.
    """
    draft = folder / f".{ACKED_NAME}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{seq}\n".encode())
        os.fdatasync(fd)
    finally:
        os.close(fd)
    draft.replace(folder / ACKED_NAME)


def mark_lost(folder: Path) -> None:
    """Keep on disk that process_lost was published. Where that fails it may be published twice."""
    with contextlib.suppress(OSError):
        (folder / LOST_NAME).touch(0o600)


def unmark_lost(folder: Path) -> None:
    """Its process lives: that it is gone is to be published again once it is."""
    with contextlib.suppress(OSError):
        (folder / LOST_NAME).unlink()


def confirmed_segments(folder: Path, acked: int) -> list[Path]:
    """The segments in ``folder`` all of whose events come before ``acked``.

    Not the newest: its writer may still append to it.
    """
    existing = segments(folder)
    return [
        segment.path
        for segment, following in itertools.pairwise(existing)
        if following.first <= acked
    ]


def size(folder: Path) -> int:
    """Bytes of the segments of this stream's producer, all its attempts in this run together."""
    total = 0
    for attempt in _folders(folder.parent):
        with contextlib.suppress(OSError):
            total += sum(segment.path.stat().st_size for segment in segments(attempt))
    return total


def remove_stream(folder: Path) -> None:
    """Remove a stream's folder, and the folders above it that this leaves empty.

    Files that are not Lineside's stay, and their folder with them.

    Raises:
        OSError: something cannot be removed.
    """
    for path in sorted(folder.iterdir()):
        if path.name in _OWN_FILES or path.name.endswith(SEGMENT_SUFFIX):
            path.unlink(missing_ok=True)
    folder.rmdir()
    with contextlib.suppress(OSError):  # other attempts, other producers
        folder.parent.rmdir()
        folder.parents[1].rmdir()


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir(follow_symlinks=False))
    except OSError:
        return []
