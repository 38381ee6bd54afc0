"""Processes one run in a thread of its own, so that no run waits for another."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from lineside.bus.client.reader import Batch, Reader
from lineside.bus.errors import ReaderDenied
from lineside.subscribers.handler_runner import HandlerRunner, Setup
from lineside.subscribers.state.offset_tracker import OffsetTracker

log = logging.getLogger("lineside")

MAX_CATCHING_UP = 64
"""Late runs that have a connection at the same moment; the others take turns."""
_IDLE_SECONDS = 5.0  # after which a thread without work ends
_POLL_SECONDS = 0.2
_CREDIT = 16
_DENIED_SECONDS = 30.0


class Waiting(NamedTuple):
    """A batch that waits, since the monotonic time ``since``."""

    tracker: OffsetTracker
    batch: Batch
    since: float


@dataclass
class Bus:
    """State shared by all queues. ``journal`` and ``is_caught_up`` are the shared reader's."""

    address: str
    on_fatal: Callable[[BaseException], None]
    journal: str | None = None
    is_caught_up: bool = False


class RunQueue:
    """The queue and thread of ``run``.

    A run that is late reads from the broker under a durable name of its own, ``reader_name``, and
    batches that the shared reader delivers meanwhile are dropped. It is on time again once it has
    processed what was dropped.
    """

    def __init__(self, setup: Setup, bus: Bus, slots: threading.Semaphore, run: str) -> None:
        self.id = run
        self.reader_name = f"{setup.name}/{run}"
        self.used_at = time.monotonic()
        self._setup = setup
        self._bus = bus
        self._slots = slots
        self._changed = threading.Condition()
        self._queue: deque[Waiting] = deque()
        self._thread: threading.Thread | None = None
        self._runner: HandlerRunner | None = None
        self._is_stopping = self._is_late = self._is_tick_due = False
        self._last_dropped = 0  # the newest offset that the shared reader delivered while late

    @property
    def is_late(self) -> bool:
        return self._is_late

    @property
    def is_idle(self) -> bool:
        return self._thread is None and not self._queue

    @property
    def stays(self) -> bool:
        """Whether the run is to be in memory though no event of it comes."""
        return self._runner is not None and self._runner.run.stays

    @property
    def oldest(self) -> Waiting | None:
        """The batch that is being processed, or waits for longest."""
        with self._changed:
            return self._queue[0] if self._queue else None

    def deliver(self, tracker: OffsetTracker, batch: Batch) -> None:
        """Queue a batch of the shared reader, which ``tracker`` holds open until it is done."""
        tracker.add(batch.offset)
        with self._changed:
            self.used_at = time.monotonic()
            if self._is_late:
                self._last_dropped = batch.offset
                tracker.finish(batch.offset)
            else:
                self._queue.append(Waiting(tracker, batch, self.used_at))
                self._wake()

    def load(self) -> None:
        """Take the run into memory before its first event."""
        self._runner = self._new_runner()

    def tick(self) -> None:
        """Have the subscriber's ``tick`` called, if the run is in memory."""
        with self._changed:
            if self._runner is not None:
                self._is_tick_due = True
                self._wake()

    def start_late(self, last_dropped: int = 0) -> None:
        """Go on with a reader of its own, whose name the broker has."""
        with self._changed:
            self._is_late, self._last_dropped = True, last_dropped
            for waiting in self._queue:
                self._last_dropped = waiting.batch.offset
                waiting.tracker.finish(waiting.batch.offset)
            self._queue.clear()
            self._wake()

    def forget_dropped(self) -> None:
        """Another journal is read from its start: none of its batches was dropped yet."""
        with self._changed:
            self._last_dropped = 0

    def stop(self) -> None:
        """End after the event that is being handled; ``join`` waits for it."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Whether the thread ended within ``timeout`` seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def close(self) -> None:
        """Release the run; its thread has ended."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def _wake(self) -> None:
        if self._thread is None and not self._is_stopping:
            self._thread = threading.Thread(target=self._run, name=f"run {self.id}", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        try:
            while (work := self._next_work()) is not None:
                work()
        except BaseException as error:  # noqa: BLE001 - the service's thread raises it
            with self._changed:
                self._is_stopping = True  # another batch must not start a thread that tries again
                self._thread = None
            self._bus.on_fatal(error)

    def _next_work(self) -> Callable[[], None] | None:
        with self._changed:
            was_idle = False
            while not self._is_stopping:
                if self._is_late:
                    return self._catch_up
                if self._queue:
                    return self._process_oldest
                if self._is_tick_due:
                    return self._tick
                if was_idle:
                    break
                was_idle = not self._changed.wait(_IDLE_SECONDS)  # work may have come since
            self._thread = None
            return None

    def _process(self, batch: Batch) -> bool:
        if self._runner is None:
            self._runner = self._new_runner()
        self._runner.run.is_caught_up = self._bus.is_caught_up and not self._is_late
        if self._is_tick_due:
            self._tick()
        return self._runner.process(batch)

    def _new_runner(self) -> HandlerRunner:
        return HandlerRunner(self._setup, self.id, lambda: self._is_stopping)

    def _process_oldest(self) -> None:
        waiting = self._queue[0]
        if self._process(waiting.batch):
            with self._changed:
                if self._queue and self._queue[0] is waiting:
                    self._queue.popleft()
            waiting.tracker.finish(waiting.batch.offset)
        elif self._runner is not None:
            self._pause(self._runner.retry_delay, until_late=True)

    def _tick(self) -> None:
        self._is_tick_due = False
        if self._runner is not None:
            self._runner.tick(time.time())

    def _pause(self, seconds: float, *, until_late: bool = False) -> None:
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._is_stopping and not (until_late and self._is_late):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)

    def _catch_up(self) -> None:
        """One session with the run's own reader: until on time, stopping, or a failed event."""
        if not self._slots.acquire(timeout=_POLL_SECONDS):
            return
        delay = 0.0
        try:
            delay = self._read_own()
        except ReaderDenied as error:
            log.warning("%s: run %s cannot catch up: %s", self._setup.name, self.id, error)
            delay = _DENIED_SECONDS
        finally:
            self._slots.release()
        self._pause(delay)

    def _read_own(self) -> float:
        """Seconds until the next session."""
        position = restarts = 0
        with Reader(
            self._bus.address, name=self.reader_name, streams=[self.id], credit=_CREDIT
        ) as reader:
            while not self._is_stopping:
                batch = reader.poll(_POLL_SECONDS)
                if reader.restarts != restarts:
                    restarts, position = reader.restarts, 0
                if batch is not None:
                    if not self._process(batch):
                        return self._runner.retry_delay if self._runner else 0.0
                    self._setup.state_file.sync()
                    reader.commit(batch.offset)
                    position = batch.offset
                elif reader.is_subscribed:
                    position = max(position, reader.processed)
                    if self._is_tick_due:
                        self._tick()
                if reader.is_subscribed and self._rejoin(reader.journal, position):
                    reader.forget()
                    break
        return 0.0

    def _rejoin(self, journal: str | None, position: int) -> bool:
        """Take batches of the shared reader again, if none that it dropped is missing."""
        with self._changed:
            if journal != self._bus.journal or position < self._last_dropped:
                return False
            self._is_late = False
        log.info("%s: run %s has caught up", self._setup.name, self.id)
        return True
