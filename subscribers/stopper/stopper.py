"""The process that stops runs, and does other things about them, by rules."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import ClassVar

from lineside.bus.client.reader import Batch, Reader
from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import EXPIRES_SECONDS
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.protocol.messages import OFFSET
from lineside.bus.settings import Settings
from lineside.subscribers.base import IDLE_SECONDS, Subscriber
from lineside.subscribers.stopper import outbox
from lineside.subscribers.stopper.course import Firing
from lineside.subscribers.stopper.memory import Memory, MemoryFailed
from lineside.subscribers.stopper.outbox import Outbox
from lineside.subscribers.stopper.rules import Rule
from lineside.subscribers.stopper.watch import RANK_0, Watch

log = logging.getLogger("lineside")

COMMIT_SECONDS = 1.0
"""How often it is written down how far the journal was read; what a crash takes is read again."""
_FORGET_SECONDS = 3600.0
_OVER = frozenset({"train_end", "train_error", "run_end"})  # then nobody takes commands any more
_CATCH_UP_SECONDS = 0.1  # that a turn waits for more until the journal was read to its end


class Stopper(Subscriber):
    """Applies ``rules`` to every run; with ``dry_run`` it only says what it would do.

    It reads from where its own memory is, not from the broker's cursor: both are one transaction.
    What is read again leads to the same commands, by their ids, and what was said already, as the
    journal shows, is not said again: so nothing is said before the journal was read to its end.
    """

    name = "stopper"
    streams: ClassVar[tuple[str, ...]] = (
        f"*/{RANK_0}",
        f"*/{commands.PRODUCER}",
        f"*/{outbox.PRODUCER}",
    )

    def __init__(self, settings: Settings, rules: Sequence[Rule], *, dry_run: bool = False) -> None:
        super().__init__(settings)
        self._rules = rules
        self._dry_run = dry_run
        self._memory: Memory | None = None
        self._outbox = Outbox(settings.broker)
        self._head: int | None = None  # of the journal, when it was first heard of
        self._is_current = False
        self._read = 0  # up to this offset
        self._restarts = 0  # of the reader, as far as taken into account
        self._commit_at = 0.0
        self._forget_at = 0.0

    def startup(self) -> None:
        self._memory = Memory.of(self.settings.home, self._rules, dry_run=self._dry_run)
        self._watch = Watch(self._rules, self._memory)
        super().startup()

    def connect(self) -> Reader:
        journal, self._read = self._memory.position() if self._memory else (None, 0)
        return Reader(
            self.settings.broker,
            start=OFFSET,
            offset=self._read,
            streams=self.streams,
            journal=journal,
        )

    def turn(self) -> None:
        was_connected = self.reader.connected
        batch = self.reader.poll(IDLE_SECONDS if self._is_current else _CATCH_UP_SECONDS)
        if self.reader.restarts != self._restarts:  # another journal, or an older copy of this one
            self._restarts, self._read = self.reader.restarts, 0
            self._head, self._is_current = None, False
        if batch is not None:
            self.take(batch)
            self._read = batch.offset
            self.reader.commit(batch.offset)
        if was_connected and self._is_at_the_end():
            self._outbox.send()
        if self._memory is not None and time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + _FORGET_SECONDS
            self._memory.forget_old()
        if time.monotonic() >= self._commit_at:
            self._commit_at = time.monotonic() + COMMIT_SECONDS
            self._commit()

    def take(self, batch: Batch) -> None:
        for gap in batch.gaps:
            self.missing(gap)
        for event in batch.events:
            if batch.stream is None:
                continue
            try:
                self._take(batch.stream, event)
            except MemoryFailed:
                raise
            except Exception:
                log.exception("stopper: %s of %s, seq %d", event.kind, batch.stream, event.seq)

    def shutdown(self) -> None:
        super().shutdown()
        self._outbox.close()
        if self._memory is not None:
            if hasattr(self, "reader"):
                self._commit()
            self._memory.close()

    def _take(self, stream: Stream, event: Event) -> None:
        self._outbox.hear(event)
        firings = self._watch.take(stream, event)
        if event.kind in _OVER and stream.producer == RANK_0:
            self._outbox.drop(stream)
        if not self._is_current and event.time < time.time() - EXPIRES_SECONDS:
            return  # it would be of no use any more
        for firing in firings:
            self._tell(firing)
            self._outbox.put(outbox.word(firing, dry_run=self._dry_run))
        # A dry run must not be taken for the stopper that a training waits for.
        if event.kind == "evaluate" and stream.producer == RANK_0 and not self._dry_run:
            course = self._watch.course(stream)
            if course.waits > 0 and course.is_training:
                self._outbox.put(outbox.proceed(stream, event))

    def _tell(self, firing: Firing) -> None:
        log.info(
            "stopper: %s of run %s at step %d by rule %s: %s%s",
            firing.action,
            firing.stream.run,
            firing.step,
            firing.rule.name,
            firing.why,
            " (dry run)" if self._dry_run else "",
        )

    def _is_at_the_end(self) -> bool:
        """Whether all was read that the journal had when we began."""
        if not self._is_current and self.reader.connected:
            self._head = self.reader.head if self._head is None else self._head
            self._is_current = self.reader.processed >= self._head
        return self._is_current

    def _commit(self) -> None:
        # What is still to be said is known by reading it again, and by nothing else.
        if self._outbox.is_empty:
            self._watch.commit(self.reader.journal, self._read)
