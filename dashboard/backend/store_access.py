"""Access to the store, which need not exist when the dashboard starts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lineside.bus.errors import LinesideError
from lineside.store.database import sqlite
from lineside.store.database.engine import open_store, sqlite_path
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer


class StoreAccess:
    """Reader and writer of the store at ``url``, opened at first use.

    The recorder makes and migrates the store; until then each use tries again and raises
    StoreError. ``as_of`` is that of the ``History``.
    """

    def __init__(
        self,
        url: str,
        history: History | None = None,
        writer: Writer | None = None,
        as_of: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._as_of = as_of
        self._history = history
        self._writer = writer
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()

    @property
    def history(self) -> History:
        return self._history or self._open()[0]

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """The writer, for one thread at a time."""
        writer = self._writer or self._open()[1]
        with self._write_lock:
            yield writer

    def alert_counts(self) -> dict[str, int]:
        """The number of open alerts by severity; empty if the store cannot be read."""
        try:
            return self.history.alerts.counts()
        except LinesideError:
            return {}

    def position(self) -> tuple[str, int] | None:
        """The journal that was recorded last, and its offset; None for a new store."""
        return (self._writer or self._open()[1]).position()

    def offset(self, journal: str) -> int:
        """The offset up to which ``journal`` is recorded."""
        return (self._writer or self._open()[1]).offset(journal)

    def files_set_aside(self) -> list[Path]:
        """The damaged files that this store replaces and that are still there, newest first."""
        file = sqlite_path(self._url)
        return sqlite.files_set_aside(file) if file else []

    def _open(self) -> tuple[History, Writer]:
        with self._lock:
            if self._history is None or self._writer is None:
                engine = open_store(self._url)
                self._history = self._history or History(engine, self._as_of)
                self._writer = self._writer or Writer(engine)
            return self._history, self._writer
