"""Publishes the dashboard's refusals on the bus."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time

from lineside.bus.auth.refusal_log import Refusal, RefusalLog
from lineside.bus.client.producer import Producer
from lineside.bus.errors import LinesideError
from lineside.bus.protocol.event_kinds import REFUSED
from lineside.bus.protocol.events import AUDIT, Stream, new_attempt

log = logging.getLogger("lineside")

_POLL_SECONDS = 0.25
_FLUSH_SECONDS = 1.0
_BACKOFF_SECONDS = (4.0, 60.0)
"""The pause after an error, at first and at most. The producer reconnects meanwhile."""


class RefusalPublisher:
    """Publishes refusals over the broker at ``broker``, on one stream ``audit/dashboard/...``.

    A thread does that; it starts with the first refusal. While no broker takes them, refusals are
    counted on.
    """

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._stream = Stream(AUDIT, "dashboard", new_attempt())
        self._refusal_log = RefusalLog()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._has_refusals = threading.Event()
        self._stopping = threading.Event()

    def add(self, refusal: Refusal) -> None:
        """Count a refusal, to be published soon. Any thread may call this; it returns at once."""
        with self._lock:
            self._refusal_log.add(refusal)
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
                self._thread.start()
        self._has_refusals.set()

    def close(self) -> None:
        """Publish the refusals that are left, if a broker answers at once."""
        self._stopping.set()
        self._has_refusals.set()
        thread = self._thread
        if thread is not None:
            thread.join(2 * _FLUSH_SECONDS)

    def _run(self) -> None:
        producer = None
        first, longest = _BACKOFF_SECONDS
        delay = first
        try:
            while not self._stopping.is_set():
                try:
                    producer = producer or Producer(self._broker, self._stream)
                    self._publish_due(producer)
                    delay = first
                except Exception as error:  # noqa: BLE001 - the thread must go on
                    log.warning("dashboard: refusals cannot be published: %s", error)
                    self._stopping.wait(delay)
                    delay = min(2 * delay, longest)
            if producer is not None:
                self._publish(producer, math.inf)
                with contextlib.suppress(LinesideError):
                    producer.flush(_FLUSH_SECONDS)
        finally:
            if producer is not None:
                producer.close()

    def _publish_due(self, producer: Producer) -> None:
        self._has_refusals.clear()
        self._publish(producer, time.monotonic())
        producer.poll(_POLL_SECONDS)
        with self._lock:
            is_done = not self._refusal_log
        if producer.acked < producer.next_seq or not is_done:
            self._stopping.wait(_POLL_SECONDS)
        elif not self._stopping.is_set():
            self._has_refusals.wait()

    def _publish(self, producer: Producer, now: float) -> None:
        # While no broker takes them they are counted, not collected.
        if producer.acked < producer.next_seq and now < math.inf:
            return
        with self._lock:
            payloads = self._refusal_log.take_due(now)
        if payloads:
            producer.drop_acked()
        for data in payloads:
            log.warning("dashboard: refused %(target)s to %(who)s: %(why)s", data)
            producer.emit(REFUSED, data=data)
