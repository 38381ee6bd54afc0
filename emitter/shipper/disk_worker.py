"""Syncs and removes files in a thread of its own.

A disk that is busy with a checkpoint can take seconds for one ``fdatasync``. Heartbeats and
confirmations must not wait for it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lineside.emitter.spool import directory, liveness_lock
from lineside.emitter.spool.backlog import MAX_PLAUSIBLE_GAP
from lineside.emitter.spool.inbox import FILE_NAME as INBOX_NAME
from lineside.emitter.spool.segment_reader import segments
from lineside.emitter.spool.status_page import FILE_NAME as PAGE_NAME
from lineside.emitter.spool.status_reader import read_page
from lineside.emitter.spool.stream_folder import (
    INFO_NAME,
    LOCK_NAME,
    SEGMENT_SUFFIX,
    producer_bytes,
)

log = logging.getLogger("lineside")

RETENTION_SECONDS = 300.0
_CLEANUP_SECONDS = 5.0
_LEAST_FREE_SHARE, _LEAST_FREE_BYTES = 0.1, 2 << 30
_OWN_FILES = frozenset(
    {INFO_NAME, LOCK_NAME, PAGE_NAME, INBOX_NAME, directory.ACKED_NAME, directory.LOST_NAME}
)


class StreamDiskState(NamedTuple):
    """One stream: written up to ``end_seq`` as far as known, confirmed before ``acked``.

    ``end_seq`` is 0 if the stream is not worth a sync. ``is_complete``: it has ended and is
    confirmed.
    """

    folder: Path
    end_seq: int
    acked: int
    is_complete: bool
    has_page: bool


class DiskWorker:
    """Syncs new records, and removes confirmed ones.

    New records are synced with each batch. Confirmed segments and the folders of complete streams
    are kept ``retention_seconds``; less when the producer's segments have more than half of ``cap``
    bytes, or the disk is nearly full.
    """

    def __init__(self, cap: int, retention_seconds: float = RETENTION_SECONDS) -> None:
        self._cap = cap
        self._retention_seconds = retention_seconds
        self._thread: threading.Thread | None = None
        self._submitted: list[tuple[Path, int, bool]] = []
        self._submit_at = 0.0
        self._synced: dict[Path, int] = {}
        self._confirmed_at: dict[Path, float] = {}
        self._cleanup_at = 0.0
        self._warned: set[str] = set()

    @property
    def is_busy(self) -> bool:
        """Whether the last batch is still worked on."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, streams: Sequence[StreamDiskState], now: float) -> None:
        """Work on ``streams`` if something was written or some seconds have passed.

        Does nothing while the last batch is worked on.
        """
        ends = [(stream.folder, stream.end_seq, stream.is_complete) for stream in streams]
        if self.is_busy or (ends == self._submitted and now < self._submit_at):
            return
        self._submitted, self._submit_at = ends, now + _CLEANUP_SECONDS
        thread = threading.Thread(target=self._process, args=(streams,), name="disk", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the limit of processes is reached
            self._warn_once(str(error))
        else:
            self._thread = thread

    def shutdown(self, seconds: float) -> None:
        """Wait up to ``seconds`` for the last batch."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _process(self, streams: Sequence[StreamDiskState]) -> None:
        now = time.monotonic()
        due = now >= self._cleanup_at
        if due:
            self._cleanup_at = now + _CLEANUP_SECONDS
        for stream in streams:
            try:
                is_low = self._is_low_on_space(stream.folder)
                if stream.is_complete and is_low:
                    self._remove(stream)
                    continue
                if stream.end_seq and not stream.is_complete:
                    self._sync(stream)
                self._save_acked(stream)
                if due or is_low:
                    self._delete_expired(stream, now, 0.0 if is_low else self._retention_seconds)
            except FileNotFoundError:
                continue  # the folder was removed meanwhile
            except OSError as error:
                self._warn_once(f"{stream.folder}: {error}")

    def _sync(self, stream: StreamDiskState) -> None:
        # Two, because the last but one may have got its last records since.
        for segment in segments(stream.folder)[-2:]:
            size = segment.path.stat().st_size
            if self._synced.get(segment.path) != size:
                _fdatasync(segment.path)
                self._synced[segment.path] = size

    def _save_acked(self, stream: StreamDiskState) -> None:
        due = stream.is_complete or not stream.has_page
        # Not written again when equal: its mtime is when the stream became complete.
        if due and directory.read_acked_file(stream.folder) != stream.acked:
            directory.write_acked_file(stream.folder, stream.acked)

    def _delete_expired(self, stream: StreamDiskState, now: float, retention: float) -> None:
        if stream.is_complete:
            completed_at = (stream.folder / directory.ACKED_NAME).stat().st_mtime
            if time.time() - completed_at >= retention:
                self._remove(stream)
            return
        confirmed = confirmed_segments(stream.folder, stream.acked)
        old = [
            path
            for path in confirmed
            if now - self._confirmed_at.setdefault(path, now) >= retention
        ]
        if old and stream.has_page:
            _fdatasync(stream.folder / PAGE_NAME)  # it holds the confirmed seq
        for path in old:
            path.unlink(missing_ok=True)
        self._forget(old)

    def _remove(self, stream: StreamDiskState) -> None:
        # Its producer may open it again at any time; it takes the lock for that.
        lock = liveness_lock.acquire(stream.folder / LOCK_NAME)
        if lock is None:
            return
        try:
            fields = read_page(stream.folder)
            if fields is None or not 0 < fields.next_seq - stream.acked <= MAX_PLAUSIBLE_GAP:
                self._forget([segment.path for segment in segments(stream.folder)])
                remove_stream(stream.folder)
        finally:
            os.close(lock)

    def _is_low_on_space(self, folder: Path) -> bool:
        disk = os.statvfs(folder)
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        nearly_full = free < min(total * _LEAST_FREE_SHARE, _LEAST_FREE_BYTES)
        return nearly_full or producer_bytes(folder.parent) > self._cap / 2

    def _forget(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self._synced.pop(path, None)
            self._confirmed_at.pop(path, None)

    def _warn_once(self, what: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.warning("shipper: %s", what)


def confirmed_segments(folder: Path, acked: int) -> list[Path]:
    """The segments in ``folder`` whose events all come before ``acked``.

    The newest is never among them: its writer may still append to it.
    """
    return [
        segment.path
        for segment, following in itertools.pairwise(segments(folder))
        if following.first <= acked
    ]


def remove_stream(folder: Path) -> None:
    """Remove a stream's folder, and the folders above it that are then empty.

    Files that are not Lineside's stay, and their folder with them.

    Raises:
        OSError: something cannot be removed.
    """
    # The lock comes last: a producer makes a new one, and must then find the folder empty.
    for path in sorted(folder.iterdir(), key=lambda path: path.name == LOCK_NAME):
        if path.name in _OWN_FILES or path.name.endswith(SEGMENT_SUFFIX):
            path.unlink(missing_ok=True)
    folder.rmdir()
    with contextlib.suppress(OSError):  # other attempts, other producers
        folder.parent.rmdir()
        folder.parents[1].rmdir()


def _fdatasync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
