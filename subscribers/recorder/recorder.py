"""The process that writes every event into the run history."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import ClassVar

from sqlalchemy import Engine

from lineside.bus.client.reader import Batch
from lineside.bus.errors import StoreError, StoreRolledBack, StoreUnavailable
from lineside.bus.settings import Settings
from lineside.store.database.engine import open_store
from lineside.store.recording.writer import Writer
from lineside.subscribers.batch_subscriber import BatchSubscriber

log = logging.getLogger("lineside")

RETRY_SECONDS = (0.1, 5.0)
"""The first and the longest delay before a failed transaction is tried again."""


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

    def startup(self) -> None:
        self._open()
        self.writer.finish_deletions()
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
            except StoreRolledBack as error:
                log.warning("recorder: %s", error)
                self.reopen_reader()
                return False
            else:
                return True
        return False

    def shutdown(self) -> None:
        super().shutdown()
        if self._engine is not None:
            self._engine.dispose()

    def _open(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
        self._engine = open_store(self.settings.store, create=True)
        self.writer = Writer(self._engine)

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
