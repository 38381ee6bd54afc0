"""Observes Lineside itself: the broker, the recorder, this machine's spool and its disks."""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from lineside.bus.broker.storage.cursor_lags import read_cursor_lags
from lineside.bus.client.reader import Reader
from lineside.bus.errors import LinesideError
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import LIVE, OFFSET
from lineside.bus.settings import Settings
from lineside.store.database.engine import sqlite_path
from lineside.store.history.curves.new_points import NewPoint
from lineside.subscribers.watchdog.observation import CursorLag, Disk, StackObservation
from lineside.subscribers.watchdog.series import Window

BROKER_SILENCE_SECONDS = 5.0
"""A broker answers each second; one that does not for so long is unreachable."""
SPOOL_SECONDS, DISK_SECONDS, CURSOR_SECONDS = 15.0, 10.0, 15.0
"""How often each is read."""
_NO_STREAMS = ("_none/_/_",)  # no stream has this name: the broker only answers
_DISK_SAMPLES = 360  # an hour
_MAX_HEADS = 1000
_ANSWER_SECONDS = 2.0

SpoolReader = Callable[[], Mapping[Stream, "tuple[int, int]"]]
"""For each stream of this machine's spool, how many events a broker has confirmed, and how many it
has not. It raises no error: streams that cannot be read are left out."""


class Recorded(Protocol):
    """How far the store is recorded; the ``Writer`` of a store knows."""

    def offset(self, journal: str) -> int:
        """The offset up to which a journal is recorded."""


class StackObserver:
    """Watches the stack of ``settings``. Belongs to one thread.

    ``spool`` reads this machine's spool; without it nothing is known of one.
    """

    def __init__(
        self,
        settings: Settings,
        spool: SpoolReader | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._clock = clock
        self._reader: Reader | None = None
        self._began = self._watched_since = time.monotonic()
        self._problem = ""
        self._heads: deque[tuple[float, int]] = deque(maxlen=_MAX_HEADS)
        self._knows_heads = False
        self._disks: dict[str, Window] = {}
        self._disk_facts: dict[str, tuple[list[str], int]] = {}
        self._due: dict[str, float] = {}
        self._spool_stuck: dict[Stream, tuple[int, float]] = {}  # confirmed, and since when
        self._spool_waiting = 0
        self._cursors: tuple[CursorLag, ...] = ()

    def poll(self, timeout: float) -> None:
        """Keep the connection to the broker, for ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        try:
            if self._reader is None:
                self._reader = Reader(self._settings.broker, start=LIVE, streams=_NO_STREAMS)
            while (remaining := deadline - time.monotonic()) > 0:
                self._reader.poll(remaining)
            self._problem = ""
        except LinesideError as error:
            # The broker refused the key or the subscription: it may not tomorrow.
            self._problem = str(error)
            self._close_reader()
            time.sleep(max(0.0, deadline - time.monotonic()))

    def observe(self, recorded: Recorded | None) -> StackObservation:
        """How the stack stands now, without its runs; ``recorded`` is None without a store.

        Raises:
            StoreError: the store cannot be read.
        """
        now = self._clock()
        silence = self._broker_silence()
        entries, lag = self._recorder_lag(now, None if silence else recorded)
        self._read_disks(now)
        self._read_spool(now)
        self._read_cursors(now)
        return StackObservation(
            now,
            self._settings.broker.partition("?")[0],
            broker_silence=silence,
            broker_problem=self._problem,
            watched_for=time.monotonic() - self._watched_since,
            recorder_lag=lag,
            recorder_entries=entries,
            spool=str(self._settings.spool),
            spool_silence=max(
                (now - since for _, since in self._spool_stuck.values()), default=0.0
            ),
            spool_waiting=self._spool_waiting,
            disks=tuple(
                Disk(mount, ", ".join(names), size, self._disks[mount])
                for mount, (names, size) in self._disk_facts.items()
            ),
            cursors=self._cursors,
        )

    def begin_again(self) -> None:
        """The clock was set, or the machine slept: what waits is timed from now on."""
        self._heads.clear()
        self._disks.clear()
        self._spool_stuck.clear()
        self._due.clear()
        self._watched_since = time.monotonic()

    def close(self) -> None:
        """Disconnect."""
        self._close_reader()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _broker_silence(self) -> float:
        """For how many seconds no broker has answered; 0 if one does."""
        heard_at = self._began if self._reader is None else max(self._reader.heard_at, self._began)
        silence = time.monotonic() - heard_at
        is_subscribed = self._reader is not None and self._reader.is_subscribed
        return 0.0 if is_subscribed and silence < BROKER_SILENCE_SECONDS else max(silence, 0.001)

    def _recorder_lag(self, now: float, recorded: Recorded | None) -> tuple[int, float]:
        """The journal entries that are not recorded, and for how long the oldest has waited."""
        reader = self._reader
        if recorded is None or reader is None or reader.journal is None:
            return 0, 0.0
        offset = recorded.offset(reader.journal)
        if self._heads and reader.head < self._heads[-1][1]:
            self._heads.clear()  # another journal
            self._knows_heads = False
        if not self._knows_heads and offset < reader.head:
            self._heads.append((now - self._seconds_behind(offset), offset + 1))
        self._knows_heads = True
        if not self._heads or reader.head > self._heads[-1][1]:
            self._heads.append((now, reader.head))
        while self._heads and self._heads[0][1] <= offset:
            self._heads.popleft()
        entries = max(0, reader.head - offset)
        return entries, now - self._heads[0][0] if entries and self._heads else 0.0

    def _seconds_behind(self, offset: int) -> float:
        """For how long the first entry after ``offset`` has waited, by the broker."""
        try:
            with Reader(
                self._settings.broker, start=OFFSET, offset=offset, streams=_NO_STREAMS, credit=1
            ) as reader:
                reader.wait_connected(_ANSWER_SECONDS)
                return reader.behind_seconds
        except LinesideError:
            return 0.0

    def _is_due(self, what: str, seconds: float, now: float) -> bool:
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + seconds
        return True

    def _read_disks(self, now: float) -> None:
        if not self._is_due("disks", DISK_SECONDS, now):
            return
        self._disk_facts = {}
        for name, folder in self._folders().items():
            try:
                mount = str(_mount_of(folder))
                usage = shutil.disk_usage(mount)
            except OSError:
                continue
            names, _ = self._disk_facts.setdefault(mount, ([], usage.total))
            names.append(name)
            if len(names) == 1:
                window = self._disks.setdefault(mount, Window(_DISK_SAMPLES))
                window.add([NewPoint(0, now, float(usage.free))])

    def _folders(self) -> dict[str, Path]:
        store = sqlite_path(self._settings.store)
        found = {"home": self._settings.home, "spool": self._settings.spool}
        return found if store is None else {**found, "store": store.parent}

    def _read_spool(self, now: float) -> None:
        if self._spool is None or not self._is_due("spool", SPOOL_SECONDS, now):
            return
        streams = self._spool()
        self._spool_waiting = sum(left for _, left in streams.values())
        before, self._spool_stuck = self._spool_stuck, {}
        for stream, (acked, left) in streams.items():
            if left:
                was_acked, since = before.get(stream, (acked, now))
                self._spool_stuck[stream] = (acked, since if acked == was_acked else now)

    def _read_cursors(self, now: float) -> None:
        is_remote = self._settings.broker.startswith("tcp://")
        if is_remote or not self._is_due("cursors", CURSOR_SECONDS, now):
            return
        self._cursors = tuple(
            CursorLag(one.name, max(0.0, now - one.waiting_since), max(0.0, now - one.moved_at))
            for one in read_cursor_lags(self._settings.journal)
            if one.waiting_since is not None
        )


def _mount_of(folder: Path) -> Path:
    """The mount point of ``folder``, or of the nearest folder above it that exists."""
    path = next(one for one in (folder, *folder.parents) if one.exists()).resolve()
    while not os.path.ismount(path):
        path = path.parent
    return path
