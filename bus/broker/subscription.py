"""One connection's place in the journal, and what was sent to it."""

from __future__ import annotations

from collections import deque

from lineside.bus.broker.storage.journal import Scan
from lineside.bus.errors import BadMessage
from lineside.bus.protocol.messages import LIVE, Sub
from lineside.bus.protocol.patterns import Patterns

MAX_CREDIT = 4096
"""The largest credit of a reader; more is not counted."""
MAX_IN_FLIGHT = 4 << 20
"""Bytes sent to one reader for which it has not yet granted credit again; more wait (4 MiB)."""
MAX_TOTAL = 32 << 20
"""Bytes sent to all readers; beyond it each one gets ``MIN_IN_FLIGHT``."""
MIN_IN_FLIGHT = 256 << 10


class InFlight:
    """Bytes that were sent to all readers and are not confirmed: libzmq holds them in memory."""

    total = 0


class Subscription:
    """One connection's place in the journal."""

    def __init__(self, identity: bytes, message: Sub, in_flight: InFlight) -> None:
        self.identity = identity
        self.name = message.name
        self.reader = message.reader
        self.number = message.number
        self.is_live = message.start == LIVE
        self.position = self.last_sent = 0
        # The newest offset sent is ``last_sent``; ``position`` may be further.
        self.processed = 0  # every matching entry up to here is processed
        self.credit = min(message.credit, MAX_CREDIT)
        try:
            self.streams = Patterns(message.streams)
        except ValueError as error:
            raise BadMessage(str(error)) from None
        self.scan: Scan | None = None  # while it catches up
        self._sizes: deque[int] = deque()  # of what is in flight
        self._size = 0
        self._in_flight = in_flight
        self._has_ended = False

    @property
    def is_ready(self) -> bool:
        """Whether more may be sent."""
        most = MAX_IN_FLIGHT if self._in_flight.total < MAX_TOTAL else MIN_IN_FLIGHT
        return self.credit > 0 and self._size < most and not self._has_ended

    def begin(self, position: int) -> None:
        """Deliver what comes after ``position``."""
        self.position = self.last_sent = position

    def is_of(self, message: Sub) -> bool:
        """Whether ``message`` comes from the same reader, over this connection or another one."""
        return bool(message.reader) and message.reader == self.reader

    def use_credit(self, size: int) -> None:
        """Count a message of ``size`` bytes that was sent."""
        self.credit -= 1
        self._sizes.append(size)
        self._count(size)

    def add_credit(self, credit: int) -> None:
        """Take credit that the reader grants for messages that it has received."""
        self.credit = min(self.credit + credit, MAX_CREDIT)
        for _ in range(min(credit, len(self._sizes))):
            self._count(-self._sizes.popleft())

    def end_delivery(self) -> None:
        """Free the memory of a reader that is gone."""
        self._has_ended = True
        self.streams, self.scan = Patterns(), None
        self._sizes.clear()
        self._count(-self._size)

    def _count(self, size: int) -> None:
        self._size += size
        self._in_flight.total += size
