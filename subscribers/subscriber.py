"""What every subscriber is: a process that reads the bus and reacts to events by their kind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ClassVar

from lineside.bus.client.reader import Batch, Reader
from lineside.bus.protocol.events import Event, Gap, Stream
from lineside.bus.service import Service
from lineside.bus.settings import Settings

log = logging.getLogger("lineside")

IDLE_SECONDS = 0.5
"""How long a turn waits for something to do."""


class Subscriber(Service):
    """Calls ``on_<kind>(stream, event)`` for every event of a kind it has such a method for.

    A handler that fails is logged and the loop goes on. The broker keeps the cursor under ``name``,
    moved after each batch: what a crash interrupts is delivered again, so a handler must do no harm
    the second time; ``(stream, event.seq)`` is the same then. ``streams`` are patterns
    ``run[/producer[/attempt]]``; empty is everything.
    """

    name = "subscriber"
    streams: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self._handlers: dict[str, Callable[[Stream, Event], None] | None] = {}

    def startup(self) -> None:
        self.reader = self.open_reader()

    def open_reader(self) -> Reader:
        """The reader this subscriber lives on."""
        return Reader(self.settings.broker, name=self.name, streams=self.streams)

    def run_once(self) -> None:
        batch = self.reader.poll(IDLE_SECONDS)
        if batch is not None:
            self.handle(batch)
            self.reader.commit(batch.offset)

    def shutdown(self) -> None:
        reader: Reader | None = getattr(self, "reader", None)
        if reader is not None:
            reader.close()

    def handle(self, batch: Batch) -> None:
        """Hand out a batch: what is missing, then each event."""
        for gap in batch.gaps:
            self.handle_gap(gap)
        for event in batch.events:
            handler = self._handler(event.kind)
            if handler is None or batch.stream is None:
                continue
            try:
                handler(batch.stream, event)
            except Exception:
                log.exception(
                    "%s: %s of %s, seq %d", self.name, event.kind, batch.stream, event.seq
                )

    def handle_gap(self, gap: Gap) -> None:
        """Events that cannot be had; logged unless a subclass knows better."""
        subject = "journal entries" if gap.stream is None else f"events of {gap.stream}"
        log.warning("%s: %d %s cannot be had", self.name, gap.count, subject)

    def _handler(self, kind: str) -> Callable[[Stream, Event], None] | None:
        if kind not in self._handlers:
            self._handlers[kind] = getattr(self, f"on_{kind}", None)
        return self._handlers[kind]
