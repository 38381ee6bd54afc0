"""The process that writes everything into the run history."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from sqlalchemy import Engine

from lineside.bus.client.reader import Batch, Reader
from lineside.bus.errors import StoreError, StoreRolledBack, StoreUnavailable
from lineside.bus.protocol.messages import OFFSET
from lineside.bus.settings import Settings
from lineside.store.database.engine import open_store
from lineside.store.recording.writer import Writer
from lineside.subscribers.subscriber import IDLE_SECONDS, Subscriber

log = logging.getLogger("lineside")

TRANSACTION_SECONDS = 0.05
"""How long events are gathered for one transaction: a page shows them this much later."""
TRANSACTION_EVENTS = 10_000
"""Events after which a transaction is begun at once."""
RETRY_SECONDS = (0.1, 5.0)
"""The first and the longest pause before a transaction that failed is tried again."""
CREDIT = 256
"""Batches the broker may send ahead."""


class Recorder(Subscriber):
    """Reads from where the store says it is, not from the broker's cursor: that and the rows are
    one transaction, so whatever is killed whenever, each event is recorded once."""

    name = "recorder"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._deferred_batch: Batch | None = None  # polled, and not to follow those before it
        self._engine: Engine | None = None
        self._journal: str | None = None
        self._offset = 0
        self._restarts = 0  # of the reader, as far as taken into account

    def startup(self) -> None:
        self._open()
        self.writer.finish_deletions()
        super().startup()

    def open_reader(self) -> Reader:
        self._journal, self._offset = self.writer.position() or (None, 0)
        self._restarts = 0
        return Reader(
            self.settings.broker,
            name=self.name,
            start=OFFSET,
            offset=self._offset,
            journal=self._journal,
            credit=CREDIT,
        )

    def run_once(self) -> None:
        first = self._deferred_batch or self.reader.poll(IDLE_SECONDS)
        self._deferred_batch = None
        if first is None:
            return
        if self._has_journal_changed():
            self._journal, self._offset = self.reader.journal, 0
            self._restarts = self.reader.restarts
        batches = self._collect(first)
        for gap in (gap for batch in batches if batch.stream is None for gap in batch.gaps):
            self.handle_gap(gap)
        # An offset from before a restart would move the cursor of what is read now.
        if self._write(batches) and not self._has_journal_changed():
            self.reader.commit(self._offset)

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
        """Somebody may have removed the store's file; what there was of it is read again."""
        try:
            open_store(self.settings.store).dispose()
        except StoreUnavailable:
            pass
        except StoreError:
            self._open()

    def _has_journal_changed(self) -> bool:
        """Whether the reader began anew, in another journal or an older copy of this one."""
        return (self.reader.journal, self.reader.restarts) != (self._journal, self._restarts)

    def _collect(self, first: Batch) -> list[Batch]:
        batches, events = [first], len(first.events)
        deadline = time.monotonic() + TRANSACTION_SECONDS
        while events < TRANSACTION_EVENTS:
            batch = self.reader.poll(max(0.0, deadline - time.monotonic()))
            if batch is None:
                break
            if self._has_journal_changed():
                self._deferred_batch = batch
                break
            batches.append(batch)
            events += len(batch.events)
        return batches

    def _write(self, batches: Sequence[Batch]) -> bool:
        """Whether it is done; False when told to exit before the store could be had, and when what
        came before these batches is to be read again."""
        pause, max_pause = RETRY_SECONDS
        while not self.should_exit:
            try:
                self.writer.apply(self._journal or "", batches, after=self._offset)
            except StoreUnavailable as error:
                log.warning("recorder: %s; again in %.1f s", error, pause)
                self._sleep(pause)
                pause = min(pause * 2, max_pause)
                self._recreate_store_if_missing()
            except StoreRolledBack as error:
                log.warning("recorder: %s", error)
                self.reader.close()
                self.reader, self._deferred_batch = self.open_reader(), None
                return False
            else:
                self._offset = batches[-1].offset
                return True
        return False

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.should_exit and time.monotonic() < deadline:
            time.sleep(0.05)
