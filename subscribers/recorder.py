"""The process that writes everything into the run history."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from lineside.bus.errors import StoreUnavailable
from lineside.bus.messages import OFFSET
from lineside.bus.reader import Batch, Reader
from lineside.bus.settings import Settings
from lineside.store.database import open_store
from lineside.store.writes import Writer
from lineside.subscribers.base import IDLE_SECONDS, Subscriber

log = logging.getLogger("lineside")

GATHER_SECONDS = 0.05
"""How long events are gathered for one transaction: a page shows them this much later."""
GATHER_EVENTS = 10_000
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
        self._next: Batch | None = None  # polled, and of another journal than those before it

    def startup(self) -> None:
        self._engine = open_store(self.settings.store, create=True)
        self.writer = Writer(self._engine)
        self.writer.finish_deletions()
        super().startup()

    def connect(self) -> Reader:
        position = self.writer.position()
        journal, offset = position or (None, 0)
        return Reader(
            self.settings.broker,
            name=self.name,
            start=OFFSET,
            offset=offset,
            journal=journal,
            credit=CREDIT,
        )

    def turn(self) -> None:
        first = self._next or self.reader.poll(IDLE_SECONDS)
        self._next = None
        if first is None:
            return
        journal = self.reader.journal or ""
        batches = self._gather(first, journal)
        for gap in (gap for batch in batches if batch.stream is None for gap in batch.gaps):
            self.missing(gap)
        # An offset of another journal would move this one's cursor.
        if self._record(journal, batches) and self.reader.journal == journal:
            self.reader.commit(batches[-1].offset)

    def shutdown(self) -> None:
        super().shutdown()
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.dispose()

    def _gather(self, first: Batch, journal: str) -> list[Batch]:
        batches, events = [first], len(first.events)
        until = time.monotonic() + GATHER_SECONDS
        while events < GATHER_EVENTS:
            batch = self.reader.poll(max(0.0, until - time.monotonic()))
            if batch is None:
                break
            if self.reader.journal != journal:
                self._next = batch
                break
            batches.append(batch)
            events += len(batch.events)
        return batches

    def _record(self, journal: str, batches: Sequence[Batch]) -> bool:
        """Whether it is done; False only when told to exit before the store could be had."""
        pause, longest = RETRY_SECONDS
        while not self.should_exit:
            try:
                self.writer.apply(journal, batches)
            except StoreUnavailable as error:
                log.warning("recorder: %s; again in %.1f s", error, pause)
                self._sleep(pause)
                pause = min(pause * 2, longest)
            else:
                return True
        return False

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.should_exit and time.monotonic() < until:
            time.sleep(0.05)
