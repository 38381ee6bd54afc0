"""The process that runs a ``Subscriber``: one instance for each run, none delayed by another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from lineside.bus.auth.roles import is_reserved_producer
from lineside.bus.client.reader import Batch, Reader
from lineside.bus.errors import ReaderDenied, UsageError
from lineside.bus.protocol.event_kinds import REFUSED
from lineside.bus.protocol.events import AUDIT, Stream, is_run_id
from lineside.bus.protocol.messages import OFFSET
from lineside.bus.settings import Settings
from lineside.subscribers.batch_subscriber import BatchSubscriber
from lineside.subscribers.context import RunFilter
from lineside.subscribers.event_loop import EventLoop
from lineside.subscribers.handler_runner import Setup
from lineside.subscribers.handlers import Handlers
from lineside.subscribers.publication_sender import PublicationSender
from lineside.subscribers.run_queue import MAX_CATCHING_UP, Bus, RunQueue
from lineside.subscribers.state.offset_tracker import OffsetTracker
from lineside.subscribers.state.subscriber_state import SubscriberState
from lineside.subscribers.subscriber import ON_ERROR, Subscriber

log = logging.getLogger("lineside")

FROM_START, FROM_LIVE = "start", "live"
LATE_SECONDS = 5.0
"""How long the shared cursor waits for a batch of one run; then the run gets its own."""
MAX_WAITING_BATCHES = 1_000
"""Batches of all runs that may wait before the shared reader stops reading."""
_COMMIT_SECONDS = 0.2
_LATE_CHECK_SECONDS = 0.1
_TICK_SECONDS = 1.0
_IDLE_RUN_SECONDS = 3600.0  # after which a run leaves memory
_PRUNE_SECONDS = 3600.0
_SHUTDOWN_SECONDS = 5.0
_NEWEST = 2**62  # an offset beyond every journal's


class SubscriberService(BatchSubscriber):
    """Runs ``subscriber`` for every run that ``run_filter`` lets through.

    ``factory`` makes the instance of a run. ``begin`` is where a name that was never used begins:
    ``start`` or ``live``. A run that fails, or is slow, for ``LATE_SECONDS`` gets a durable reader
    and cursor of its own at the broker, ``name/run``, and gives them up when it has caught up.

    Raises:
        UsageError: the class or an option cannot be used.
    """

    credit: ClassVar[int] = 256

    def __init__(
        self,
        settings: Settings,
        subscriber: type[Subscriber],
        factory: Callable[[], Subscriber] | None = None,
        *,
        name: str = "",
        run_filter: RunFilter | None = None,
        on_error: str = "",
        begin: str = FROM_START,
    ) -> None:
        super().__init__(settings)
        self.name = name or subscriber.name
        self._subscriber = subscriber
        self._factory = factory or subscriber
        self._handlers = Handlers(subscriber)
        self._run_filter = run_filter or RunFilter()
        self._on_error = on_error or subscriber.on_error
        self._begin = begin
        is_own = subscriber.__module__.startswith(f"{__package__}.")  # the archiver
        if not is_run_id(self.name) or (is_reserved_producer(self.name) and not is_own):
            raise UsageError(
                f"name {self.name!r}: expected 1 to 128 of A-Z a-z 0-9 . _ - not beginning with . "
                "or -, and no name of a rank or a process of Lineside"
            )
        if self._on_error not in ON_ERROR:
            raise UsageError(f"on_error {self._on_error!r}: expected one of {', '.join(ON_ERROR)}")
        if begin not in (FROM_START, FROM_LIVE):
            raise UsageError(f"from {begin!r}: expected {FROM_START} or {FROM_LIVE}")
        self._queues: dict[str, RunQueue] = {}
        self._openings: dict[str, Reader] = {}  # readers of runs that are becoming late
        self._tracker = OffsetTracker()
        self._slots = threading.Semaphore(MAX_CATCHING_UP)
        self._bus = Bus(settings.broker, self._set_fatal)
        self._fatal: BaseException | None = None
        self._knows_late_runs = False
        self._late_check_at = self._commit_at = self._tick_at = self._prune_at = 0.0
        self._state_file: SubscriberState | None = None
        self._loop = EventLoop()

    def startup(self) -> None:
        self.begin_progress()
        self._state_file = SubscriberState.of(self.settings.home, self.name)
        self._sender = PublicationSender(self.settings.broker, self._state_file, self._set_fatal)
        self._sender.start()
        self._setup = Setup(
            self.name,
            self._on_error,
            self._subscriber,
            self._factory,
            self._handlers,
            self._state_file,
            self._run_filter.matches,
            self._loop.wait_for,
            self._sender.wake,
        )
        super().startup()
        for run in self._state_file.staying():
            self._queue(run).load()

    def position(self) -> tuple[str | None, int] | None:
        is_new = self._state_file is not None and self._state_file.is_new
        return (None, _NEWEST) if is_new and self._begin == FROM_LIVE else None

    def run_once(self) -> None:
        if self._tracker.open_count > MAX_WAITING_BATCHES:
            time.sleep(0.05)
            self.tick(time.monotonic())
            self.report_progress()
        else:
            super().run_once()

    def handle(self, batches: Sequence[Batch]) -> bool:
        if not self._knows_late_runs:
            self._knows_late_runs = True
            self._start_late_runs(batches[0].offset - 1)
        self._bus.journal, self._bus.is_caught_up = self.journal, self.is_caught_up
        for batch in batches:
            stream = batch.stream
            if stream is None:
                for gap in batch.gaps:
                    self.handle_gap(gap)
            if stream is None or not self._is_handled(stream):
                self._tracker.add(batch.offset)
                self._tracker.finish(batch.offset)
            else:
                self._queue(stream.run).deliver(self._tracker, batch)
        return False  # ``tick`` moves the cursor

    def on_journal_changed(self) -> None:
        self._tracker = OffsetTracker()
        for queue in self._queues.values():
            queue.forget_dropped()
        while self._openings:
            self._openings.popitem()[1].close()

    def tick(self, now: float) -> None:
        if self._fatal is not None:
            raise self._fatal
        self._bus.journal, self._bus.is_caught_up = self.journal, self.is_caught_up
        if self.reader.is_subscribed and self._state_file is not None:
            self._state_file.mark_used()
        if self.reader.is_subscribed and not self._knows_late_runs:
            self._knows_late_runs = True
            self._start_late_runs(self.reader.offset)
        if now >= self._late_check_at:
            self._late_check_at = now + _LATE_CHECK_SECONDS
            self._open_late_readers(now)
        self._start_opened()
        if now >= self._commit_at:
            self._commit_at = now + _COMMIT_SECONDS
            self._commit()
        if now >= self._tick_at:
            self._tick_at = now + _TICK_SECONDS
            self._tick_runs(now)
        if self._state_file is not None and now >= self._prune_at:
            self._prune_at = now + _PRUNE_SECONDS
            self._state_file.prune()

    def flush(self) -> None:
        for queue in self._queues.values():
            queue.stop()
        deadline = time.monotonic() + _SHUTDOWN_SECONDS
        for queue in self._queues.values():
            if queue.join(max(0.0, deadline - time.monotonic())):
                queue.close()
            else:
                log.warning("%s: run %s is in a handler that does not end", self.name, queue.id)
        self._commit()

    def shutdown(self) -> None:
        super().shutdown()
        self.on_journal_changed()  # closes what is being opened
        if self._state_file is not None:
            self._sender.close(_SHUTDOWN_SECONDS)
            self._loop.close()
            self._state_file.close()

    def _queue(self, run: str) -> RunQueue:
        queue = self._queues.get(run)
        if queue is None:
            queue = self._queues[run] = RunQueue(self._setup, self._bus, self._slots, run)
        return queue

    def _commit(self) -> None:
        processed = self._tracker.processed
        if processed > self.offset and not self._has_journal_changed():
            if self._state_file is not None:
                self._state_file.sync()
            self.offset = processed
            self.reader.commit(processed)

    def _start_late_runs(self, offset: int) -> None:
        """Go on with the runs that were late when the last process of this name ended."""
        for name in self.reader.names_below:
            run = name.removeprefix(f"{self.name}/")
            if is_run_id(run):
                self._queue(run).start_late(offset)

    def _open_late_readers(self, now: float) -> None:
        """Give late runs their cursors: the shared one may pass once the broker has them."""
        for run, queue in self._queues.items():
            oldest = queue.oldest
            if oldest is None or queue.is_late or run in self._openings:
                continue
            if now - oldest.since > LATE_SECONDS:
                self._openings[run] = Reader(
                    self.settings.broker,
                    name=queue.reader_name,
                    start=OFFSET,
                    offset=oldest.batch.offset - 1,
                    streams=[run],
                    journal=self.journal,
                    credit=1,
                )

    def _start_opened(self) -> None:
        for run, reader in list(self._openings.items()):
            queue = self._queues[run]
            try:
                reader.poll(0)
            except ReaderDenied as error:
                log.warning("%s: run %s delays the others: %s", self.name, run, error)
                self._openings.pop(run).close()
                continue
            if reader.is_subscribed:
                del self._openings[run]
                if queue.oldest is None:  # it has recovered meanwhile
                    reader.forget()
                else:
                    reader.close()
                    queue.start_late()
                    log.warning("%s: run %s is late and goes on by itself", self.name, run)

    def _tick_runs(self, now: float) -> None:
        for run, queue in list(self._queues.items()):
            is_used = now - queue.used_at <= _IDLE_RUN_SECONDS or queue.is_late or queue.stays
            if is_used:
                if self._handlers.has_tick:
                    queue.tick()
            elif queue.is_idle and run not in self._openings:
                queue.close()
                del self._queues[run]

    def _is_handled(self, stream: Stream) -> bool:
        """Whether the stream is a run's, or the audit's for a subscriber that handles it."""
        if stream.run == AUDIT:
            return self._handlers.method(REFUSED) is not None
        return not stream.run.startswith("_")

    def _set_fatal(self, error: BaseException) -> None:
        self._fatal = error
