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
from lineside.subscribers.context import RunContext, TrackedRun
from lineside.subscribers.events import typed_event
from lineside.subscribers.handlers import Handlers
from lineside.subscribers.state.subscriber_state import Publication, SubscriberState
from lineside.subscribers.subscriber import SKIP, STOP, Subscriber

log = logging.getLogger("lineside")

REPORT_TRIES = 5
"""Failed tries of one event after which the run's page shows that it is being retried."""
_SAVE_SECONDS = 1.0  # between two saves of nothing but the run's latest state
_FLUSH_SECONDS = 1.0  # after which a batch of slow handlers is flushed and saved in its middle
_MESSAGE_LENGTH = 1000


class SubscriberStopped(LinesideError):
    """A handler raised, and ``on_error`` is ``stop``."""


@dataclass(frozen=True)
class Setup:
    """What the runs of one subscriber share. ``wait_for`` returns the result of an awaitable."""

    name: str
    on_error: str
    subscriber: type[Subscriber]
    factory: Callable[[], Subscriber]
    handlers: Handlers
    state_file: SubscriberState
    is_wanted: Callable[[RunContext], bool]
    wait_for: Callable[[Awaitable[Any]], Any]
    on_published: Callable[[], None]


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
        self._next_seqs = saved.next_seqs
        self._touched: set[Stream] = set()  # streams read since the last save
        self._instance: Subscriber | None = None
        self._has_changed = self._needs_flush = False
        self._saved_at = 0.0
        self._tries = 0  # of the event that fails now
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
        flush_at = time.monotonic() + _FLUSH_SECONDS
        for event in batch.events:
            if event.seq >= next_seq:
                if time.monotonic() >= flush_at:
                    if not self._flush_and_save(stream, last, is_end=True):
                        return False
                    flush_at = time.monotonic() + _FLUSH_SECONDS
                if self._should_stop() or not self._handle(stream, event):
                    self._flush_and_save(stream, last, is_end=False)
                    return False
                self._next_seqs[stream] = event.seq + 1
                self._touched.add(stream)
            last = event
        return self._flush_and_save(stream, last, is_end=True)

    def tick(self, now: float) -> None:
        """Call the subscriber's ``tick``; an exception is logged, and the next one is on time."""
        try:
            self._publish_metrics(self._call("tick", now), "tick")
            self._has_changed |= self.run.keep()
        except Exception:
            self.run.discard()
            log.exception("%s: tick of run %s", self._setup.name, self.run.id)
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
        try:
            self._publish_metrics(self._call(method, typed_event(stream, event)), method)
            self._has_changed |= run.keep()
        except Exception as error:  # noqa: BLE001 - what a handler raises is a failed try
            run.discard()
            return self._on_failure(stream, event, method, error)
        run.note_call(event.kind, part)
        self._needs_flush = setup.handlers.has_flush
        self._on_success(stream, event, method)
        return True

    def _flush_and_save(self, stream: Stream, event: Event | None, *, is_end: bool) -> bool:
        """``event`` is the last that succeeded; behind it comes a failed one unless ``is_end``."""
        if self._needs_flush and event is not None:
            try:
                self._call("flush")
                self._has_changed |= self.run.keep()
            except Exception as error:  # noqa: BLE001 - as of a handler
                self.run.discard()
                if not self._on_failure(stream, event, "flush", error):
                    return False
            else:
                if is_end:
                    self._on_success(stream, event, "flush")
            self._needs_flush = False
        self._save()
        return True

    def _call(self, method: str, *arguments: Any) -> Any:
        if self._instance is None:
            self._instance = self._setup.factory()
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

    def _on_failure(self, stream: Stream, event: Event, method: str, error: Exception) -> bool:
        """Whether to go on behind ``event``."""
        self._tries += 1
        place = f"{method} of {stream}, seq {event.seq}"
        log.warning("%s: %s failed, try %d", self._setup.name, place, self._tries, exc_info=error)
        if self._setup.on_error == SKIP:
            self._report("skipped", stream, event, method, error)
            self._tries = 0
            return True
        if self._setup.on_error == STOP:
            self._report("stopped", stream, event, method, error)
            raise SubscriberStopped(
                f"{self._setup.name}: {place} raised {type(error).__name__}: {error}; mend the "
                "handler and start the subscriber again: it goes on at this event"
            ) from error
        if self._tries == REPORT_TRIES:
            self._report("retrying", stream, event, method, error)
            self.run.is_failing = self._has_changed = True
        first, longest = self._setup.subscriber.retry_seconds
        self.retry_delay = min(first * 2.0 ** min(self._tries - 1, 30), longest)
        return False

    def _on_success(self, stream: Stream, event: Event, method: str) -> None:
        if self.run.is_failing:
            self._report("recovered", stream, event, method, None)
            self.run.is_failing, self._has_changed = False, True
        self._tries = 0

    def _report(
        self, action: str, stream: Stream, event: Event, method: str, error: Exception | None
    ) -> None:
        """Publish an event that the run's page shows."""
        message = str(error)[:_MESSAGE_LENGTH]
        data = {
            "subscriber": self._setup.name,
            "action": action,
            "method": method,
            "kind": event.kind,
            "producer": stream.producer,
            "seq": event.seq,
            "tries": self._tries,
            "error": None if error is None else {"type": type(error).__name__, "message": message},
        }
        own, now = self.run.own_stream, time.time()
        self._setup.state_file.publish(
            Publication(own, SUBSCRIBER_ERROR, event.step, event.epoch, now, data)
        )
        self._setup.on_published()

    def _save(self, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if self._needs_flush or not (self._touched or self._has_changed):
            return
        if not (self._has_changed or is_last or now >= self._saved_at + _SAVE_SECONDS):
            return
        publications = self.run.take_publications()
        self._setup.state_file.save(
            self.run.id,
            self.run.state_text,
            self.run.to_dict(),
            {stream: self._next_seqs[stream] for stream in self._touched},
            publications,
        )
        self._touched.clear()
        self._has_changed, self._saved_at = False, now
        if publications:
            self._setup.on_published()
