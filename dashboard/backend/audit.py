"""What the dashboard refused, on its way to the bus."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time

from lineside.bus.auth.audit import Refusal, Refusals
from lineside.bus.client.producer import Producer
from lineside.bus.errors import LinesideError
from lineside.bus.protocol.events import AUDIT, REFUSED, Stream, new_attempt

log = logging.getLogger("lineside")

_TURN_SECONDS = 0.25
_LAST_SECONDS = 1.0
_PAUSE_SECONDS = (4.0, 60.0)
"""How long is waited after the broker took nothing, at first and at most; the producer connects
anew after such a silence."""


class Audit:
    """Says refusals on one stream, ``audit/dashboard/<attempt>``, over the broker at ``broker``, by
    a thread that begins with the first. What no broker takes is kept, and counted on until one
    does."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._stream = Stream(AUDIT, "dashboard", new_attempt())
        self._refusals = Refusals()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._noted = threading.Event()
        self._ending = threading.Event()

    def note(self, refusal: Refusal) -> None:
        """Count a refusal; it is said soon. From any thread, and returns at once."""
        with self._lock:
            self._refusals.note(refusal)
            if self._thread is None and not self._ending.is_set():
                self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
                self._thread.start()
        self._noted.set()

    def close(self) -> None:
        """Say what is left, to a broker that is there."""
        self._ending.set()
        self._noted.set()
        thread = self._thread
        if thread is not None:
            thread.join(2 * _LAST_SECONDS)

    def _run(self) -> None:
        producer = None
        first, longest = _PAUSE_SECONDS
        pause = first
        try:
            while not self._ending.is_set():
                try:
                    producer = producer or Producer(self._broker, self._stream)
                    self._turn(producer)
                    pause = first
                except Exception as error:  # noqa: BLE001 - nobody else would tell the next
                    log.warning("dashboard: refusals cannot be told: %s", error)
                    self._ending.wait(pause)
                    pause = min(2 * pause, longest)
            if producer is not None:
                self._say(producer, math.inf)
                with contextlib.suppress(LinesideError):
                    producer.flush(_LAST_SECONDS)
        finally:
            if producer is not None:
                producer.close()

    def _turn(self, producer: Producer) -> None:
        self._noted.clear()
        self._say(producer, time.monotonic())
        producer.turn(_TURN_SECONDS)
        with self._lock:
            is_done = not self._refusals
        if producer.acked < producer.next_seq or not is_done:
            self._ending.wait(_TURN_SECONDS)
        elif not self._ending.is_set():
            self._noted.wait()

    def _say(self, producer: Producer, now: float) -> None:
        # While nobody takes them they are counted, not collected.
        if producer.acked < producer.next_seq and now < math.inf:
            return
        with self._lock:
            said = self._refusals.due(now)
        if said:
            producer.forget()
        for data in said:
            log.warning("dashboard: refused %(who)s %(target)s: %(why)s", data)
            producer.emit(REFUSED, data=data)
