"""Asks broker and spool for events that the store does not have yet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from lineside.bus.client.reader import Reader
from lineside.bus.errors import BrokerUnreachable, KeyRefused, LinesideError
from lineside.bus.protocol.messages import OFFSET
from lineside.dashboard.transit import RecorderLag, SpoolReader, Transit

_TIMEOUT_SECONDS = 0.5  # for the broker's answer
_CACHE_SECONDS, _PROBLEM_CACHE_SECONDS = 1.0, 5.0
_NO_STREAMS = ("_none/_/_",)  # no stream has this name: the broker only answers


class Recorded(Protocol):
    """How far the store is recorded; the ``Writer`` of a store knows."""

    def position(self) -> tuple[str, int] | None:
        """The journal that was recorded last, and its offset."""

    def offset(self, journal: str) -> int:
        """The offset up to which a journal is recorded."""


class TransitReader:
    """Answers from a cache: it asks the broker at ``broker`` at most once a second.

    ``spool`` reads the spool of this machine; without it nothing is known of one. Any thread may
    use it.
    """

    def __init__(
        self,
        recorded: Recorded,
        broker: str,
        spool: SpoolReader | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recorded = recorded
        self._broker = broker
        self._spool = spool
        self._clock = clock
        self._lock = threading.Lock()
        self._lag = self._known_lag = RecorderLag()
        self._asked_at = self._valid_until = float("-inf")

    def recorder_lag(self) -> RecorderLag:
        """How far the recorder is behind.

        Raises:
            StoreError: the store cannot be read.
        """
        with self._lock:
            now = self._clock()
            if now >= self._valid_until:
                self._lag = read_recorder_lag(self._recorded, self._broker)
                if self._lag.is_known:
                    self._known_lag = self._lag
                pause = _CACHE_SECONDS if self._lag.is_known else _PROBLEM_CACHE_SECONDS
                self._asked_at, self._valid_until = now, now + pause
            return self._lag

    def as_of(self) -> float:
        """The time, in seconds since the epoch, up to which the store is recorded.

        It is now if the recorder keeps up. While no broker answers, the recorder is as far behind
        as it was before. Raises as ``recorder_lag``.
        """
        self.recorder_lag()
        behind = self._known_lag.seconds
        if not behind:
            return time.time()
        return time.time() - behind - (self._clock() - self._asked_at)

    def transit(self, run_id: str) -> Transit:
        """The events of a run on their way; raises as ``recorder_lag`` does."""
        return Transit(self.recorder_lag(), self._spool(run_id) if self._spool else {})


def read_recorder_lag(recorded: Recorded, broker: str) -> RecorderLag:
    """Ask the broker how much lies behind the offset in the store.

    Raises:
        StoreError: the store cannot be read.
    """
    journal, offset = recorded.position() or ("", 0)
    try:
        found, lag = _ask(broker, offset)
        if found != journal:
            _, lag = _ask(broker, recorded.offset(found))
    except KeyRefused as error:
        return RecorderLag(None, problem=f"{error}.")
    except BrokerUnreachable:
        return RecorderLag(None, problem=f"no broker answers at {broker}.")
    except LinesideError as error:
        return RecorderLag(None, problem=f"{error}.")
    return lag


def _ask(broker: str, offset: int) -> tuple[str, RecorderLag]:
    """The broker's journal, and what lies after ``offset`` in it."""
    with Reader(broker, start=OFFSET, offset=offset, streams=_NO_STREAMS, credit=1) as reader:
        reader.wait_connected(_TIMEOUT_SECONDS)
        return reader.journal or "", RecorderLag(reader.behind, reader.behind_seconds)
