"""The way to the store, which need not be there yet when the dashboard starts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lineside.store.database.engine import open_store
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer


class StoreAccess:
    """``history`` and writer of the store at ``url``, opened when first asked for.

    The recorder makes the store and brings it up to date; until it has, asking raises StoreError
    with a sentence that says so, and asking again tries again.
    """

    def __init__(self, url: str, history: History | None = None, writer: Writer | None = None):
        self._url = url
        self._history = history
        self._writer = writer
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()

    @property
    def history(self) -> History:
        return self._history or self._open()[0]

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """The writer, which takes one thread at a time."""
        writer = self._writer or self._open()[1]
        with self._write_lock:
            yield writer

    def offset(self, journal: str) -> int:
        """How far the journal of that id is recorded."""
        return (self._writer or self._open()[1]).offset(journal)

    def _open(self) -> tuple[History, Writer]:
        with self._lock:
            if self._history is None or self._writer is None:
                engine = open_store(self._url)
                self._history = self._history or History(engine)
                self._writer = self._writer or Writer(engine)
            return self._history, self._writer
