"""Calls the handlers of one run, and keeps what they did."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lineside.bus.client.reader import Batch
from lineside.bus.errors import LinesideError
from lineside.bus.protocol.event_kinds import METRICS, SUBSCRIBER_ERROR
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.wording import agree, plural
from lineside.subscribers.backoff import Backoff, RetryLater
from lineside.subscribers.context import RunContext, TrackedRun
from lineside.subscribers.event_types import typed_event
from lineside.subscribers.handlers import Handlers
from lineside.subscribers.state.subscriber_state import Publication, SubscriberState
from lineside.subscribers.subscriber import SKIP, STOP, Subscriber

log = logging.getLogger("lineside")

REPORT_TRIES = 5
"""Failed tries of one event after which the run's page shows that it is being retried."""
REPORT_SECONDS = 60.0
"""A delay from which on the page shows it at once."""
_SAVE_SECONDS = 1.0  # between two saves of nothing but the run's latest state
_FLUSH_SECONDS = 1.0  # after which a batch of slow handlers is flushed and saved in its middle


class SubscriberStopped(LinesideError):
    """A handler raised, and ``on_error`` is ``stop``; or it raised this itself."""


@dataclass(frozen=True)
class Setup:
    """What the runs of one subscriber share. ``wait_for`` returns the result of an awaitable.

    ``on_replay`` receives the events that an earlier process has handled, where they come again.
    What handlers did is kept every ``flush_seconds`` of a batch.
    """

    name: str
    on_error: str
    subscriber: type[Subscriber]
    factory: Callable[[], Subscriber]
    handlers: Handlers
    state_file: SubscriberState
    is_wanted: Callable[[RunContext], bool]
    wait_for: Callable[[Awaitable[Any]], Any]
    on_published: Callable[[], None]
    on_replay: Callable[[RunContext, Stream, Event], None] | None = None
    flush_seconds: float = _FLUSH_SECONDS


class HandlerRunner:
    """Handles the events of ``run`` one by one, each until it succeeds or is given up.

    Once ``should_stop`` returns True, the events left of a batch are not handled.
    """

    def __init__(
        self, setup: Setup, run: str, should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._setup = setup
        self._should_stop = should_stop
        saved = setup.state_file.load(run)
        self.run = TrackedRun(run, setup.name, setup.state_file.attempt, saved)
        self.run.on_save(self._save_now)
        self._next_seqs = saved.next_seqs
        self._touched: set[Stream] = set()  # streams read since the last save
        self._instance: Subscriber | None = None
        self._has_changed = self._needs_flush = False
        self._saved_at = 0.0
        self._backoff = Backoff(*setup.subscriber.retry_seconds)  # of the event that fails now
        self._tick_tries, self._tick_at = 0, 0.0
        self.retry_delay = 0.0
        """Seconds after which a batch that failed is to be processed again."""

    def process(self, batch: Batch) -> bool:
        """Handle the events of a batch that are new; False if it is to be processed again.

        Raises:
            SubscriberStopped: a handler raised, and that stops the subscriber.
            StateFileError: what handlers did cannot be kept.
        """
        stream = batch.stream
        for gap in batch.gaps:
            what, are = plural(gap.count, "event"), agree(gap.count, "is")
            log.warning("%s: %s of %s %s missing", self._setup.name, what, stream, are)
        if stream is None:
            return True
        next_seq, last = self._next_seqs.get(stream, 0), None
        flush_at = time.monotonic() + self._setup.flush_seconds
        for event in batch.events:
            if event.seq >= next_seq:
                if time.monotonic() >= flush_at:
                    if not self._flush_and_save(stream, last, is_end=True):
                        return False
                    flush_at = time.monotonic() + self._setup.flush_seconds
                if self._should_stop() or not self._handle(stream, event):
                    self._flush_and_save(stream, last, is_end=False)
                    return False
                self._next_seqs[stream] = event.seq + 1
                self._touched.add(stream)
            elif self._setup.on_replay is not None:
                self._setup.on_replay(self.run, stream, event)
            last = event
        return self._flush_and_save(stream, last, is_end=True)

    def tick(self, now: float) -> None:
        """Call the subscriber's ``tick``, unless the last one asked for more time."""
        if time.monotonic() < self._tick_at:
            return
        try:
            self._publish_metrics(self._call("tick", now), "tick")
            self._has_changed |= self.run.keep()
        except Exception as error:  # noqa: BLE001 - as of a handler
            self.run.discard()
            self._on_tick_failure(error)
        else:
            self._tick_tries = 0
            if self.run.is_tick_failing:
                self.report("recovered", "tick", 0, None)
                self.run.is_tick_failing, self._has_changed = False, True
        self._save()

    def close(self) -> None:
        """Call the subscriber's ``close`` and keep what is known of the run."""
        if self._instance is not None:
            try:
                self._call("close")
            except Exception:
                log.exception("%s: close of run %s", self._setup.name, self.run.id)
            self._instance = None
        self._save(is_last=True)

    def _handle(self, stream: Stream, event: Event) -> bool:
        setup, run = self._setup, self.run
        run.observe(stream, event)
        method = setup.handlers.method(event.kind)
        if method is None or stream.producer == setup.name or not setup.is_wanted(run):
            return True
        part = setup.handlers.frequency(event.kind)
        if not run.is_due(event.kind, part):
            return True
        if not self.perform(f"{stream}, seq {event.seq}", method, typed_event(stream, event)):
            return False
        run.note_call(event.kind, part)
        self._needs_flush = setup.handlers.has_flush
        return True

    def perform(self, place: str, method: str, *arguments: Any) -> bool:
        """Call a method; whether to go on: it succeeded, or is given up.

        Raises:
            SubscriberStopped: it raised, and that stops the subscriber.
        """
        try:
            self._publish_metrics(self._call(method, *arguments), method)
            self._has_changed |= self.run.keep()
        except SubscriberStopped:
            self.run.discard()
            raise
        except Exception as error:  # noqa: BLE001 - what a handler raises is a failed try
            self.run.discard()
            return self._on_failure(place, method, error)
        self._on_success(method)
        return True

    def _flush_and_save(self, stream: Stream, event: Event | None, *, is_end: bool) -> bool:
        """``event`` is the last that succeeded; behind it comes a failed one unless ``is_end``."""
        if self._needs_flush and event is not None:
            try:
                self._call("flush")
                self._has_changed |= self.run.keep()
            except Exception as error:  # noqa: BLE001 - as of a handler
                self.run.discard()
                if not self._on_failure(f"{stream}, seq {event.seq}", "flush", error):
                    return False
            else:
                if is_end:
                    self._on_success("flush")
            self._needs_flush = False
        self._save()
        return True

    def _call(self, method: str, *arguments: Any) -> Any:
        if self._instance is None:
            self._instance = self._setup.factory()
        self.run.begin_call(method)
        result = getattr(self._instance, method)(self.run, *arguments)
        return self._setup.wait_for(result) if inspect.isawaitable(result) else result

    def _publish_metrics(self, result: Any, method: str) -> None:
        if result is None:
            return
        if not isinstance(result, Mapping):
            raise TypeError(
                f"{method} returned {type(result).__name__}: expected a dict of metrics or None"
            )
        prefix = self._setup.subscriber.log_key_prefix
        metrics = {f"{prefix}{name}": value for name, value in result.items()}
        self.run.publish(METRICS, {"metrics": metrics})

    def _on_failure(self, place: str, method: str, error: Exception) -> bool:
        """Whether to go on behind the event."""
        self.retry_delay = self._backoff.fail(error)
        tries = self._backoff.tries
        place = f"{method} of {place}"
        self._log_failure(place, tries, error)
        if isinstance(error, RetryLater):
            pass  # it asks for that, whatever the policy
        elif self._setup.on_error == SKIP:
            count = self.run.count_skipped(method, type(error).__name__)
            self._has_changed = True
            if is_reported_count(count):
                self.report("skipped", method, tries, error, errors=count)
            self._backoff.succeed()
            return True
        elif self._setup.on_error == STOP:
            self.report("stopped", method, tries, error)
            raise SubscriberStopped(
                f"{self._setup.name}: {place} raised {type(error).__name__}: {error}; mend the "
                "handler and start the subscriber again: it goes on at this event"
            ) from error
        if not self.run.is_failing and _is_long(tries, self.retry_delay):
            self.report("retrying", method, tries, error)
            self.run.is_failing = self._has_changed = True
        return False

    def _on_tick_failure(self, error: Exception) -> None:
        self._tick_tries += 1
        delay = error.seconds if isinstance(error, RetryLater) else 0.0
        self._tick_at = time.monotonic() + delay
        self._log_failure(f"tick of run {self.run.id}", self._tick_tries, error)
        if not self.run.is_tick_failing and _is_long(self._tick_tries, delay):
            self.report("retrying", "tick", self._tick_tries, error)
            self.run.is_tick_failing = self._has_changed = True

    def _log_failure(self, place: str, tries: int, error: Exception) -> None:
        text = "%s: %s failed, try %d"
        if isinstance(error, RetryLater):  # expected: no traceback
            log.warning(f"{text}: %s", self._setup.name, place, tries, error)
        else:
            log.warning(text, self._setup.name, place, tries, exc_info=error)

    def _on_success(self, method: str) -> None:
        if self.run.is_failing:
            self.report("recovered", method, self._backoff.tries, None)
            self.run.is_failing, self._has_changed = False, True
        self._backoff.succeed()

    def report(
        self, action: str, method: str, tries: int, error: Exception | None, **more: Any
    ) -> None:
        """Publish an event that the run's page shows; ``more`` is added to its data."""
        run, now = self.run, time.time()
        data = run.error_data(action, method, tries, error) | more
        self._setup.state_file.publish(
            Publication(run.own_stream, SUBSCRIBER_ERROR, run.step, run.epoch, now, data)
        )
        self._setup.on_published()

    def _save(self, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if self._needs_flush or not (self._touched or self._has_changed):
            return
        if not (self._has_changed or is_last or now >= self._saved_at + _SAVE_SECONDS):
            return
        self._write(now)

    def _save_now(self) -> None:
        """What ``RunContext.save`` does."""
        self._has_changed |= self.run.keep()
        if self._has_changed:
            self._write(time.monotonic())

    def _write(self, now: float) -> None:
        publications = self.run.collected
        self._setup.state_file.save(
            self.run.id,
            self.run.state_text,
            self.run.to_dict(),
            {stream: self._next_seqs[stream] for stream in self._touched},
            publications,
        )
        # Not before: what cannot be kept now may be kept by another try.
        self.run.forget_collected()
        self._touched.clear()
        self._has_changed, self._saved_at = False, now
        if publications:
            self._setup.on_published()


def _is_long(tries: int, delay: float) -> bool:
    """Whether people are to know that something is being retried."""
    return tries >= REPORT_TRIES or delay >= REPORT_SECONDS


def is_reported_count(count: int) -> bool:
    """Whether the run's page shows that something happened ``count`` times: 1, 10, 100, ..."""
    while count % 10 == 0:
        count //= 10
    return count == 1
