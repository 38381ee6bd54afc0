"""The layout of a spool root: the stream folders in it, and how far each was confirmed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lineside.bus.errors import StreamNameError
from lineside.bus.protocol.events import Stream
from lineside.emitter.spool.protected_file import open_private
from lineside.emitter.spool.status_reader import read_page

ACKED_NAME = "acked"
"""Holds how far a stream was confirmed where its page cannot; its mtime is when that was."""
LOST_NAME = "lost"
"""Marks a stream for which process_lost was published."""


def streams(spool: Path, run: str = "") -> Iterator[tuple[Stream, Path]]:
    """Every stream, or those of ``run``, and its folder; other files and folders are skipped."""
    for folder in [spool / run] if run else _folders(spool):
        for producer in _folders(folder):
            for attempt in _folders(producer):
                with contextlib.suppress(StreamNameError):
                    yield Stream.parse(f"{folder.name}/{producer.name}/{attempt.name}"), attempt


def foreign_runs(spool: Path) -> list[Path]:
    """Folders of runs that another user wrote and this one may not read; ``streams`` skips them."""
    return [run for run in _folders(spool) if not os.access(run, os.R_OK | os.X_OK)]


def acked_seq(folder: Path) -> int:
    """The seq before which the stream in ``folder`` was confirmed, by its page or its file."""
    fields = read_page(folder)
    return max(fields.acked if fields else 0, read_acked_file(folder) or 0)


def read_acked_file(folder: Path) -> int | None:
    """The seq that ``write_acked_file`` stored last; None if none can be read."""
    try:
        return int((folder / ACKED_NAME).read_bytes())
    except (OSError, ValueError):
        return None


def write_acked_file(folder: Path, seq: int) -> None:
    """Store on disk that every event before ``seq`` is confirmed.

    Raises:
        OSError: it cannot be stored.
    """
    draft = folder / f".{ACKED_NAME}"
    with open_private(draft, os.O_WRONLY | os.O_TRUNC) as fd:
        os.write(fd, f"{seq}\n".encode())
        os.fdatasync(fd)
    draft.replace(folder / ACKED_NAME)


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir(follow_symlinks=False))
    except OSError:
        return []
