"""A request to a monitor elsewhere at intervals: its absence reports the end of this machine."""

from __future__ import annotations

import logging
import threading
import time

from lineside.subscribers.http.request import RequestFailed, Timeouts, request
from lineside.subscribers.watchdog.notification.message import duration

log = logging.getLogger("lineside")

MAX_SILENCE = 30.0
"""Seconds after the last ``beat`` from which on nothing is sent."""
_RETRY_SECONDS = 10.0


class Heartbeat:
    """GETs ``url`` every ``interval`` seconds, from ``start`` until ``close``.

    It is sent only if ``beat`` was called within ``max_silence`` seconds: by the watchdog, each
    time that it could judge all runs. So a watchdog that hangs, or reads nothing, is silent.
    """

    def __init__(self, url: str, interval: float, max_silence: float = MAX_SILENCE) -> None:
        self._url = url
        self._interval = interval
        self._max_silence = max_silence
        self._beat_at: float | None = None
        self._is_silent = self._is_failing = False
        self._condition = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Send the first one after the first ``beat``."""
        self._thread.start()

    def beat(self) -> None:
        """The watchdog can read the store and the broker now."""
        is_first = self._beat_at is None
        self._beat_at = time.monotonic()
        if is_first or self._is_silent:
            with self._condition:
                self._condition.notify()

    def close(self, timeout: float) -> None:
        """Stop; a request on its way gets ``timeout`` seconds."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._is_closing:
            delay = self._send() if self._is_due() else None
            with self._condition:
                if delay is None:
                    self._condition.wait_for(lambda: self._is_closing or self._is_alive())
                else:
                    self._condition.wait_for(lambda: self._is_closing, delay)

    def _is_alive(self) -> bool:
        at = self._beat_at
        return at is not None and time.monotonic() - at <= self._max_silence

    def _is_due(self) -> bool:
        is_alive = self._is_alive()
        if self._beat_at is not None and is_alive == self._is_silent:
            self._is_silent = not is_alive
            if is_alive:
                log.info("watchdog: the heartbeat is sent again")
            else:
                log.warning(
                    "watchdog: no heartbeat is sent: the runs could not be judged for %s",
                    duration(self._max_silence),
                )
        return is_alive

    def _send(self) -> float:
        """Send one; the seconds until the next."""
        seconds = min(self._interval, 10.0)
        try:
            request(self._url, timeouts=Timeouts(seconds, seconds))
        except RequestFailed as error:
            if not self._is_failing:
                log.warning("watchdog: the heartbeat does not arrive: %s", error)
            self._is_failing = True
            return min(self._interval, max(_RETRY_SECONDS, error.retry_after or 0.0))
        if self._is_failing:
            log.info("watchdog: the heartbeat arrives again")
        self._is_failing = False
        return self._interval
