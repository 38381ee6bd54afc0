"""What the shipper does with the disk that may take long, in a thread of its own.

A disk that is busy with a checkpoint can take seconds for one ``fdatasync``; heartbeats and
confirmations must not wait for it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lineside.emitter.spool import directory
from lineside.emitter.spool.segment_reader import segments
from lineside.emitter.spool.status_page import FILE_NAME as PAGE_NAME

log = logging.getLogger("lineside")

RETENTION_SECONDS = 300.0
_CLEANUP_SECONDS = 5.0
_LEAST_FREE_SHARE, _LEAST_FREE_BYTES = 0.1, 2 << 30


class StreamDiskState(NamedTuple):
    """One stream as it stands: written up to ``end`` as far as is known (0 when it is not worth a
    sync), confirmed before ``acked``, and ``is_complete`` if it has ended so."""

    folder: Path
    end: int
    acked: int
    is_complete: bool
    has_page: bool


class DiskWorker:
    """Puts what is written on disk, and removes what was confirmed.

    New records are synced whenever it is given work. Confirmed segments, and the folders of
    settled streams, are kept ``retention_seconds``; less when the producer's segments have more
    than
    half of ``cap`` bytes or the disk is nearly full.
    """

    def __init__(self, cap: int, retention_seconds: float = RETENTION_SECONDS) -> None:
        self._cap = cap
        self._retention_seconds = retention_seconds
        self._work: Sequence[StreamDiskState] | None = None
        self._submitted: list[tuple[Path, int, bool]] = []
        self._submit_at = 0.0
        self._stopping = False
        self._change = threading.Condition()
        self._synced: dict[Path, int] = {}
        self._confirmed_at: dict[Path, float] = {}
        self._cleanup_at = 0.0
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def submit(self, streams: Sequence[StreamDiskState], now: float) -> None:
        """Let it see to ``streams`` if something was written or a while has passed.

        If it is still at the last ones, it gets these another time.
        """
        ends = [(stream.folder, stream.end, stream.is_complete) for stream in streams]
        with self._change:
            is_due = ends != self._submitted or now >= self._submit_at
            if self._work is None and is_due:
                self._submitted, self._submit_at = ends, now + _CLEANUP_SECONDS
                self._work = streams
                self._change.notify_all()

    def end(self, seconds: float) -> None:
        """Finish what was given last, waiting ``seconds`` for it at most."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._work is not None or self._stopping)
                work = self._work
            if work is None:
                return
            self._process(work)
            with self._change:
                self._work = None

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
                if stream.end and not stream.is_complete:
                    self._sync(stream)
                self._save_acked(stream)
                if due or is_low:
                    self._delete_expired(stream, now, 0.0 if is_low else self._retention_seconds)
            except FileNotFoundError:
                continue  # somebody removed the folder meanwhile
            except OSError as error:
                self._warn_once(f"{stream.folder}: {error}")

    def _sync(self, stream: StreamDiskState) -> None:
        # Two, because the one before the newest may have got its last records since.
        for segment in segments(stream.folder)[-2:]:
            size = segment.path.stat().st_size
            if self._synced.get(segment.path) != size:
                _fdatasync(segment.path)
                self._synced[segment.path] = size

    def _save_acked(self, stream: StreamDiskState) -> None:
        due = stream.is_complete or not stream.has_page
        if due and directory.read_acked_file(stream.folder) != stream.acked:
            directory.write_acked_file(stream.folder, stream.acked)

    def _delete_expired(self, stream: StreamDiskState, now: float, retention: float) -> None:
        if stream.is_complete:
            completed_at = (stream.folder / directory.ACKED_NAME).stat().st_mtime
            if time.time() - completed_at >= retention:
                self._remove(stream)
            return
        confirmed = directory.confirmed_segments(stream.folder, stream.acked)
        old = [
            path
            for path in confirmed
            if now - self._confirmed_at.setdefault(path, now) >= retention
        ]
        if old and stream.has_page:
            _fdatasync(stream.folder / PAGE_NAME)
        for path in old:
            path.unlink(missing_ok=True)
        self._forget(old)

    def _remove(self, stream: StreamDiskState) -> None:
        self._forget([segment.path for segment in segments(stream.folder)])
        directory.remove_stream(stream.folder)

    def _is_low_on_space(self, folder: Path) -> bool:
        disk = os.statvfs(folder)
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        nearly_full = free < min(total * _LEAST_FREE_SHARE, _LEAST_FREE_BYTES)
        return nearly_full or directory.size(folder) > self._cap / 2

    def _forget(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self._synced.pop(path, None)
            self._confirmed_at.pop(path, None)

    def _warn_once(self, what: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.warning("shipper: %s", what)


def _fdatasync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
