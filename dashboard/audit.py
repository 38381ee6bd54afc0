"""What the dashboard refused, on its way to the bus."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time

from lineside.bus.audit import Refusal, Refusals
from lineside.bus.errors import LinesideError
from lineside.bus.events import AUDIT, REFUSED, Stream, new_attempt
from lineside.bus.producer import Producer

log = logging.getLogger("lineside")

_TURN_SECONDS = 0.25
_LAST_SECONDS = 1.0


class Audit:
    """Says refusals on ``audit/dashboard/<attempt>`` over the broker at ``broker``, by a thread
    that is there only while there are any. What no broker takes is counted on until one does."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._refusals = Refusals()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()

    def note(self, refusal: Refusal) -> None:
        """Count a refusal; it is said soon. From any thread, and returns at once."""
        with self._lock:
            self._refusals.note(refusal)
            if self._thread is None and not self._ending.is_set():
                self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Say what is left, to a broker that is there."""
        self._ending.set()
        thread = self._thread
        if thread is not None:
            thread.join(2 * _LAST_SECONDS)

    def _run(self) -> None:
        try:
            stream = Stream(AUDIT, "dashboard", new_attempt())
            with Producer(self._broker, stream) as producer:
                while not self._is_done(producer):
                    self._say(producer, time.monotonic())
                    producer.turn(_TURN_SECONDS)
                    self._ending.wait(_TURN_SECONDS)
                self._say(producer, math.inf)
                with contextlib.suppress(LinesideError):
                    producer.flush(_LAST_SECONDS)
        except LinesideError as error:
            log.warning("dashboard: refusals cannot be told: %s", error)
        finally:
            with self._lock:
                self._thread = None

    def _is_done(self, producer: Producer) -> bool:
        is_said = not self._refusals and producer.acked >= producer.next_seq
        return is_said or self._ending.is_set()

    def _say(self, producer: Producer, now: float) -> None:
        # While nobody takes them they are counted, not collected.
        if producer.acked < producer.next_seq and now < math.inf:
            return
        with self._lock:
            said = self._refusals.due(now)
        for data in said:
            log.warning("dashboard: refused %(who)s %(target)s: %(why)s", data)
            producer.emit(REFUSED, data=data)
