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

from lineside.emitter.spool import yard
from lineside.emitter.spool.page import FILE_NAME as PAGE_NAME
from lineside.emitter.spool.tail import segments

log = logging.getLogger("lineside")

KEEP_SECONDS = 300.0
_RETIRE_SECONDS = 5.0
_LEAST_FREE_SHARE, _LEAST_FREE_BYTES = 0.1, 2 << 30


class Kept(NamedTuple):
    """One stream as it stands: written up to ``end`` as far as is known (0 when it is not worth a
    sync), confirmed before ``acked``, and ``settled`` if it has ended so."""

    folder: Path
    end: int
    acked: int
    settled: bool
    has_page: bool


class Keeper:
    """Puts what is written on disk, and removes what was confirmed.

    New records are synced whenever it is given work. Confirmed segments, and the folders of
    settled streams, are kept ``keep_seconds``; less when the producer's segments have more than
    half of ``cap`` bytes or the disk is nearly full.
    """

    def __init__(self, cap: int, keep_seconds: float = KEEP_SECONDS) -> None:
        self._cap = cap
        self._keep_seconds = keep_seconds
        self._work: Sequence[Kept] | None = None
        self._ends: list[tuple[Path, int, bool]] = []
        self._give_at = 0.0
        self._ending = False
        self._change = threading.Condition()
        self._synced: dict[Path, int] = {}
        self._confirmed_at: dict[Path, float] = {}
        self._retire_at = 0.0
        self._complained: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def give(self, streams: Sequence[Kept], now: float) -> None:
        """Let it see to ``streams`` if something was written or a while has passed.

        If it is still at the last ones, it gets these another time.
        """
        ends = [(stream.folder, stream.end, stream.settled) for stream in streams]
        with self._change:
            is_due = ends != self._ends or now >= self._give_at
            if self._work is None and is_due:
                self._ends, self._give_at = ends, now + _RETIRE_SECONDS
                self._work = streams
                self._change.notify_all()

    def end(self, seconds: float) -> None:
        """Finish what was given last, waiting ``seconds`` for it at most."""
        with self._change:
            self._ending = True
            self._change.notify_all()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._work is not None or self._ending)
                work = self._work
            if work is None:
                return
            self._see_to(work)
            with self._change:
                self._work = None

    def _see_to(self, streams: Sequence[Kept]) -> None:
        now = time.monotonic()
        due = now >= self._retire_at
        if due:
            self._retire_at = now + _RETIRE_SECONDS
        for stream in streams:
            try:
                pressed = self._is_pressed(stream.folder)
                if stream.settled and pressed:
                    self._remove(stream)
                    continue
                if stream.end and not stream.settled:
                    self._sync(stream)
                self._remember(stream)
                if due or pressed:
                    self._retire(stream, now, 0.0 if pressed else self._keep_seconds)
            except FileNotFoundError:
                continue  # somebody removed the folder meanwhile
            except OSError as error:
                self._complain(f"{stream.folder}: {error}")

    def _sync(self, stream: Kept) -> None:
        # Two, because the one before the newest may have got its last records since.
        for segment in segments(stream.folder)[-2:]:
            size = segment.path.stat().st_size
            if self._synced.get(segment.path) != size:
                _fdatasync(segment.path)
                self._synced[segment.path] = size

    def _remember(self, stream: Kept) -> None:
        due = stream.settled or not stream.has_page
        if due and yard.saved_position(stream.folder) != stream.acked:
            yard.save_position(stream.folder, stream.acked)

    def _retire(self, stream: Kept, now: float, keep: float) -> None:
        if stream.settled:
            settled_at = (stream.folder / yard.POSITION_NAME).stat().st_mtime
            if time.time() - settled_at >= keep:
                self._remove(stream)
            return
        confirmed = yard.confirmed_segments(stream.folder, stream.acked)
        old = [path for path in confirmed if now - self._confirmed_at.setdefault(path, now) >= keep]
        if old and stream.has_page:
            _fdatasync(stream.folder / PAGE_NAME)
        for path in old:
            path.unlink(missing_ok=True)
        self._forget(old)

    def _remove(self, stream: Kept) -> None:
        self._forget([segment.path for segment in segments(stream.folder)])
        yard.remove(stream.folder)

    def _is_pressed(self, folder: Path) -> bool:
        disk = os.statvfs(folder)
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        nearly_full = free < min(total * _LEAST_FREE_SHARE, _LEAST_FREE_BYTES)
        return nearly_full or yard.size(folder) > self._cap / 2

    def _forget(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self._synced.pop(path, None)
            self._confirmed_at.pop(path, None)

    def _complain(self, what: str) -> None:
        if what not in self._complained:
            self._complained.add(what)
            log.warning("shipper: %s", what)


def _fdatasync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
