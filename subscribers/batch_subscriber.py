"""The loop under every subscriber: read batches of all runs, hand them on, keep the offset."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import ClassVar

from lineside.bus.client.reader import SILENCE_SECONDS, Batch, Reader
from lineside.bus.protocol.events import Gap
from lineside.bus.protocol.messages import CURSOR, OFFSET
from lineside.bus.service import Service
from lineside.bus.settings import Settings
from lineside.bus.wording import agree, plural
from lineside.subscribers.state.progress_file import ProgressFile

log = logging.getLogger("lineside")

IDLE_SECONDS = 0.5
"""How long the loop waits for a batch."""
CATCH_UP_SECONDS = 0.1
"""The same until the journal was read to its end."""


class BatchSubscriber(Service):
    """Hands batches of all runs to ``handle``, in the order of the journal.

    A subclass that stores its offset itself, in the transaction of its results, returns it from
    ``position``; without, the broker keeps a cursor under ``name``. ``is_durable`` False keeps no
    place at the broker, so its retention does not wait for this reader. ``streams`` are patterns
    ``run[/producer[/attempt]]``; empty is every stream. Up to ``collect_events`` events that arrive
    within ``collect_seconds`` go to ``handle`` together, fewer if they take ``collect_bytes``.
    """

    name = "subscriber"
    is_durable: ClassVar[bool] = True
    streams: ClassVar[Sequence[str]] = ()
    credit: ClassVar[int] = 64
    collect_seconds: ClassVar[float] = 0.0
    collect_events: ClassVar[int] = 1
    collect_bytes: ClassVar[int] = 2 << 20

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.journal: str | None = None
        """The journal that ``offset`` belongs to."""
        self.offset = 0
        """Everything up to here is processed."""
        self.is_caught_up = False
        """Whether all is processed that the journal held when this process connected."""
        self._restarts = 0  # of the reader, as far as taken into account
        self._head_at_start: int | None = None
        self._deferred: Batch | None = None  # the first batch of another journal
        self._progress: ProgressFile | None = None

    def position(self) -> tuple[str | None, int] | None:
        """The journal and offset to read from; None to use the broker's cursor."""
        return None

    def handle(self, batches: Sequence[Batch]) -> bool:
        """Process ``batches``; whether they are, so that the offset moves behind them."""
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """Called after every pass of the loop, twice a second at least; ``now`` is monotonic."""

    def flush(self) -> None:
        """Store what is pending; called before the reader closes."""

    def handle_gap(self, gap: Gap) -> None:
        """Log events or journal entries that no longer exist."""
        what = plural(gap.count, "journal entry" if gap.stream is None else "event")
        where = "" if gap.stream is None else f" of {gap.stream}"
        log.warning("%s: %s%s %s missing", self.name, what, where, agree(gap.count, "is"))

    def startup(self) -> None:
        self.begin_progress()
        self.reader = self.open_reader()

    def begin_progress(self) -> None:
        """Forget what an earlier process noted; called before anything that may fail."""
        if self._progress is None:
            self._progress = ProgressFile(self.settings.home, self.name)
            self._progress.begin()

    @property
    def is_connected(self) -> bool:
        """Whether the broker answers."""
        reader = self.reader
        return reader.is_subscribed and time.monotonic() - reader.heard_at < SILENCE_SECONDS

    def open_reader(self) -> Reader:
        """A reader at ``position``."""
        position = self.position()
        self.journal, self.offset = position or (None, 0)
        self._restarts, self._deferred = 0, None
        return Reader(
            self.settings.broker,
            name=self.name if self.is_durable else "",
            start=CURSOR if position is None else OFFSET,
            offset=self.offset,
            streams=self.streams,
            credit=self.credit,
            journal=self.journal,
        )

    def reopen_reader(self) -> None:
        """Read again from ``position``."""
        self.reader.close()
        self.reader = self.open_reader()

    def run_once(self) -> None:
        # The head that a connection reports at first is older than the batches behind it.
        was_subscribed = self.reader.is_subscribed
        timeout = IDLE_SECONDS if self.is_caught_up else CATCH_UP_SECONDS
        first = self._deferred or self.reader.poll(timeout)
        self._deferred = None
        if self._has_journal_changed():
            self._restarts, self.offset = self.reader.restarts, 0
            self._head_at_start, self.is_caught_up = None, False
            self.journal = self.reader.journal
            if self._progress is not None:
                self._progress.restart()
            self.on_journal_changed()
        if first is not None:
            self._process(self._collect(first))
        if was_subscribed:
            self._update_caught_up()
        self.tick(time.monotonic())
        self.report_progress()

    @property
    def problem(self) -> str:
        """Why the work cannot be done though the broker answers; empty while it can."""
        return ""

    def report_progress(self) -> None:
        """Note for ``lineside.cli.health`` how far this process is."""
        if self._progress is not None:
            # Of streams that it does not read, only the broker knows that they are passed.
            processed = max(self.offset, self.reader.processed)
            problem = (
                self.problem
                if self.is_connected
                else f"no broker answers at {self.reader.address.partition('?')[0]}"
            )
            self._progress.update(problem=problem, head=self.reader.head, processed=processed)

    def on_journal_changed(self) -> None:
        """Reading begins again: another journal, or an older copy of it, took its place."""

    def shutdown(self) -> None:
        # After a startup that failed there is no reader.
        reader: Reader | None = getattr(self, "reader", None)
        if reader is not None:
            self.flush()
            reader.close()

    def _process(self, batches: Sequence[Batch]) -> None:
        # Gathering may have met another journal: an old offset must not move its cursor.
        if self.handle(batches):
            self.offset = batches[-1].offset
            if not self._has_journal_changed():
                self.reader.commit(self.offset)

    def _has_journal_changed(self) -> bool:
        """Whether the reader began again, in another journal or an older copy of this one."""
        return (self.reader.journal, self.reader.restarts) != (self.journal, self._restarts)

    def _collect(self, first: Batch) -> list[Batch]:
        batches, events, size = [first], len(first.events), first.size
        deadline = time.monotonic() + self.collect_seconds
        while events < self.collect_events and size < self.collect_bytes:
            batch = self.reader.poll(max(0.0, deadline - time.monotonic()))
            if batch is None:
                break
            if self._has_journal_changed():
                self._deferred = batch
                break
            batches.append(batch)
            events += len(batch.events)
            size += batch.size
        return batches

    def _update_caught_up(self) -> None:
        if not self.is_caught_up and self.reader.is_subscribed:
            if self._head_at_start is None:
                self._head_at_start = self.reader.head
            self.is_caught_up = self.reader.processed >= self._head_at_start
