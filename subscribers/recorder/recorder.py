"""The process that writes every event into the run history."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import ClassVar

from sqlalchemy import Engine

from lineside.bus.client.reader import Batch
from lineside.bus.errors import StoreDamaged, StoreError, StoreRolledBack, StoreUnavailable
from lineside.bus.settings import Settings
from lineside.store.database import sqlite
from lineside.store.database.engine import open_store, sqlite_path
from lineside.store.recording.writer import Writer
from lineside.subscribers.batch_subscriber import BatchSubscriber
from lineside.subscribers.recorder.unclaimed_log import UnclaimedLog

log = logging.getLogger("lineside")

RETRY_SECONDS = (0.1, 5.0)
"""The first and the longest delay before a failed transaction is tried again."""
CHECK_SECONDS = 5.0
"""Time between two looks at whether the store's file is whole."""


class Recorder(BatchSubscriber):
    """Keeps its offset in the store, in one transaction with the rows.

    So each event is recorded once, whichever process is killed at whichever moment.
    """

    name = "recorder"
    credit: ClassVar[int] = 256
    collect_seconds: ClassVar[float] = 0.05  # a page shows events this much later
    collect_events: ClassVar[int] = 10_000  # in one transaction

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._engine: Engine | None = None
        self._store_path = sqlite_path(settings.store)
        self._truncation = sqlite.TruncationCheck(self._store_path) if self._store_path else None
        self._next_check = 0.0
        self._unclaimed_log = UnclaimedLog()

    def startup(self) -> None:
        self.begin_progress()
        try:
            self._open()
            self.writer.finish_deletions()
            super().startup()
        except StoreDamaged as error:
            self._set_aside(str(error))
            self._open()
            super().startup()

    def position(self) -> tuple[str | None, int]:
        return self.writer.position() or (None, 0)

    def handle(self, batches: Sequence[Batch]) -> bool:
        for gap in (gap for batch in batches if batch.stream is None for gap in batch.gaps):
            self.handle_gap(gap)
        delay, max_delay = RETRY_SECONDS
        while not self.should_exit:
            try:
                self.writer.apply(self.journal or "", batches, after=self.offset)
            except StoreUnavailable as error:
                log.warning("recorder: %s; next try in %.1f s", error, delay)
                self._sleep(delay)
                delay = min(delay * 2, max_delay)
                self._recreate_store_if_missing()
            except StoreDamaged as error:
                self._replace_store(str(error))
                return False
            except StoreRolledBack as error:
                log.warning("recorder: %s", error)
                self.reopen_reader()
                return False
            else:
                return True
        return False

    def tick(self, now: float) -> None:
        """Notice a truncated file: neither the rows in memory nor new ones show that."""
        if self._engine is not None:
            self._unclaimed_log.check(self._engine, now)
        if self._truncation is None or now < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        if self._truncation.is_truncated():
            self._replace_store(f"the store {self._store_path} was truncated")

    def shutdown(self) -> None:
        super().shutdown()
        if self._engine is not None:
            self._engine.dispose()
        if self._truncation is not None:
            self._truncation.close()

    def _open(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
        self._engine = open_store(self.settings.store, create=True)
        self.writer = Writer(self._engine)

    def _set_aside(self, why: str) -> None:
        if self._store_path is not None:
            aside = sqlite.set_aside(self._store_path)
            log.error("recorder: %s; it is now %s", why, aside)

    def _replace_store(self, why: str) -> None:
        """Record what the journal holds into a new store."""
        self._set_aside(why)
        self._open()
        self.reopen_reader()

    def _recreate_store_if_missing(self) -> None:
        """Make the store again if its file was removed; the journal is then read again."""
        try:
            open_store(self.settings.store).dispose()
        except StoreUnavailable:
            pass
        except StoreError:
            self._open()

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.should_exit and time.monotonic() < deadline:
            time.sleep(0.05)
