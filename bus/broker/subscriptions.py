"""Subscriptions of readers: their places in the journal, and delivery to them."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from enum import Enum

from lineside.bus.broker.storage.journal import FORGOTTEN, Entry, Journal, Scan
from lineside.bus.errors import BadMessage, JournalError
from lineside.bus.protocol.messages import (
    CURSOR,
    LIVE,
    OFFSET,
    START,
    Cur,
    Evt,
    Frames,
    GapMessage,
    Sub,
)
from lineside.bus.protocol.patterns import Patterns

log = logging.getLogger("lineside")

MAX_CREDIT = 4096
"""The largest credit of a reader; more is not counted."""
MAX_IN_FLIGHT = 32 << 20
"""Bytes sent to one reader for which it has not yet granted credit again; more wait (32 MiB)."""
LIVE_LAG = 1024
"""Entries that a live reader may be behind before it is skipped forward."""
NAME_MAX = 257
"""Characters of a durable reader's name: two parts of 128 with a slash between them."""
_TAIL_BYTES = 32 << 20
# Limits of one delivery to one reader.
_DELIVER_MESSAGES = 64
_DELIVER_SCANNED = 1024
_READ_BYTES = 1 << 20
_DELIVER_SECONDS = 0.01  # of one delivery to all readers
_WARN_SECONDS = 10.0
_ENTRY_OVERHEAD_BYTES = 256  # bytes of memory an entry takes besides its blob


class SendResult(Enum):
    """The result of sending a message to a reader."""

    SENT = 1
    BUSY = 2  # its queue is full
    GONE = 3


class Subscription:
    """One connection's place in the journal."""

    def __init__(self, identity: bytes, message: Sub, position: int) -> None:
        self.identity = identity
        self.name = message.name
        self.reader = message.reader
        self.number = message.number
        self.is_live = message.start == LIVE
        self.position = position
        self.last_sent = position  # the newest offset sent; ``position`` may be further
        self.processed = 0  # every matching entry up to here is processed
        self.credit = min(message.credit, MAX_CREDIT)
        try:
            self.streams = Patterns(message.streams)
        except ValueError as error:
            raise BadMessage(str(error)) from None
        self.scan: Scan | None = None  # while it catches up
        self._in_flight: deque[int] = deque()
        self._in_flight_bytes = 0

    @property
    def is_ready(self) -> bool:
        return self.credit > 0 and self._in_flight_bytes < MAX_IN_FLIGHT

    def is_of(self, message: Sub) -> bool:
        """Whether ``message`` comes from the same reader, over this connection or another one."""
        return bool(message.reader) and message.reader == self.reader

    def use_credit(self, size: int) -> None:
        self.credit -= 1
        self._in_flight.append(size)
        self._in_flight_bytes += size

    def add_credit(self, credit: int) -> None:
        self.credit = min(self.credit + credit, MAX_CREDIT)
        for _ in range(min(credit, len(self._in_flight))):
            self._in_flight_bytes -= self._in_flight.popleft()


class Subscriptions:
    """Every reader's subscription, and the newest entries kept in memory for those at the head.

    ``send`` sends frames that begin with the identity, and never blocks.
    """

    def __init__(self, journal: Journal, send: Callable[[Frames], SendResult]) -> None:
        self._journal = journal
        self._send = send
        self._by_identity: dict[bytes, Subscription] = {}
        self._by_name: dict[str, bytes] = {}
        self._tail: dict[int, Entry] = {}
        self._tail_bytes = 0
        self._warned_at = float("-inf")
        self.moved_cursors: dict[str, int] = {}
        """Durable cursors to be committed with the next transaction; ``FORGOTTEN`` removes one."""

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._by_identity

    @property
    def connected_names(self) -> Collection[str]:
        """The names of connected durable readers."""
        return self._by_name.keys()

    def position_of(self, identity: bytes) -> int | None:
        """The offset after which delivery goes on; None if the reader is not known."""
        subscription = self._by_identity.get(identity)
        return subscription.position if subscription else None

    def subscribe(self, identity: bytes, message: Sub) -> bytes | None:
        """Begin delivery; return another reader that lost its name to this one.

        A subscription that the same reader replaced before, over a newer connection, is ignored.

        Raises:
            BadMessage: an invalid name or pattern.
        """
        name = message.name
        if len(name) > NAME_MAX or not name.isprintable():
            raise BadMessage(f"name {name[:NAME_MAX]!r}: at most {NAME_MAX} printable characters")
        head = self._journal.head
        committed = self.cursor(name)
        positions = {
            START: 0,
            LIVE: message.offset or head,
            OFFSET: message.offset,
            CURSOR: committed or 0,
        }
        position = min(head, positions[message.start])
        subscription = Subscription(identity, message, position)
        self.drop(identity)
        previous = self._by_identity.get(self._by_name.get(name, b""))
        if previous is not None:
            if previous.is_of(message) and message.number < previous.number:
                return None
            self.drop(previous.identity)
        self._by_identity[identity] = subscription
        if name:
            self._by_name[name] = identity
            # A reader that returns at a later offset has not committed the entries before it.
            cursor = position if committed is None else min(committed, position)
            if cursor != committed:
                self.moved_cursors[name] = cursor
        is_displaced = previous is not None and not previous.is_of(message)
        return previous.identity if previous is not None and is_displaced else None

    def cursor(self, name: str) -> int | None:
        """The cursor of the durable reader ``name``; None if there is no such reader."""
        cursor = self.moved_cursors.get(name, self._journal.cursors().get(name))
        return None if cursor == FORGOTTEN else cursor

    def names_below(self, name: str) -> tuple[str, ...]:
        """Durable names that begin with ``name/``."""
        names = self._journal.cursors().keys() | self.moved_cursors.keys() if name else ()
        prefix = f"{name}/"
        return tuple(
            sorted(one for one in names if one.startswith(prefix) and self.cursor(one) is not None)
        )

    def cursor_of(self, identity: bytes) -> tuple[str, int]:
        """A reader's name and durable cursor; without a name, the offset it has processed."""
        subscription = self._by_identity.get(identity)
        if subscription is None:
            return "", 0
        name = subscription.name
        return name, (self.cursor(name) or 0) if name else subscription.processed

    def advance(self, identity: bytes, message: Cur) -> None:
        """Take a reader's CUR."""
        subscription = self._by_identity[identity]
        subscription.add_credit(message.credit)
        name, offset = subscription.name, message.offset
        if offset >= subscription.last_sent:
            offset = subscription.position
        subscription.processed = offset
        if name and message.forget:
            self.moved_cursors[name] = FORGOTTEN
            self.drop(identity)
        elif name and offset > (self.cursor(name) or 0):
            self.moved_cursors[name] = offset

    def drop(self, identity: bytes) -> None:
        """Forget a reader; its durable cursor stays."""
        subscription = self._by_identity.pop(identity, None)
        if subscription and self._by_name.get(subscription.name) == identity:
            del self._by_name[subscription.name]

    def cache_entries(self, entries: Sequence[Entry]) -> None:
        """Keep entries just committed in memory, for readers at the head."""
        for entry in entries:
            self._tail[entry.offset] = entry
            self._tail_bytes += _size(entry)
        while self._tail_bytes > _TAIL_BYTES:
            self._tail_bytes -= _size(self._tail.pop(next(iter(self._tail))))

    def deliver(self) -> bool:
        """Send entries to readers with credit, for a bounded time; whether more wait."""
        more = False
        head, deadline = self._journal.head, time.monotonic() + _DELIVER_SECONDS
        for subscription in list(self._by_identity.values()):
            if subscription.position < head and subscription.is_ready:
                if time.monotonic() > deadline:
                    return True
                # Those that are left out have the first turn next time.
                self._by_identity[subscription.identity] = self._by_identity.pop(
                    subscription.identity
                )
                try:
                    more |= self._deliver_to(subscription, head, deadline)
                except JournalError as error:
                    self._warn_waiting(str(error))
        return more

    def _warn_waiting(self, why: str) -> None:
        now = time.monotonic()
        if now - self._warned_at > _WARN_SECONDS:
            self._warned_at = now
            log.warning("broker: a reader has to wait: %s", why)

    def _deliver_to(self, subscription: Subscription, head: int, deadline: float) -> bool:
        oldest = self._journal.first
        if subscription.is_live and head - subscription.position > LIVE_LAG:
            return self._skip(subscription, head)
        if subscription.position + 1 < oldest:
            return self._skip(subscription, oldest - 1)
        entries, reached = self._entries_after(subscription, head, deadline)
        for entry in entries:
            if not subscription.is_ready:
                return False
            if not self._try_send(subscription, entry.offset, _frames(entry), _size(entry)):
                return False
            subscription.position = entry.offset
        subscription.position = reached
        return reached < head

    def _entries_after(
        self, subscription: Subscription, head: int, deadline: float
    ) -> tuple[list[Entry], int]:
        entries: list[Entry] = []
        position = subscription.position
        for offset in range(position + 1, position + 1 + _DELIVER_SCANNED):
            entry = self._tail.get(offset)
            if entry is None or len(entries) == _DELIVER_MESSAGES:
                break
            if entry.stream in subscription.streams:
                entries.append(entry)
            position = offset
        else:
            return entries, position
        if entries or position == head:
            subscription.scan = None
            return entries, position
        if subscription.scan is None:
            subscription.scan = self._journal.scan(subscription.streams)
        return subscription.scan.read(position, head, _READ_BYTES, deadline)

    def _skip(self, subscription: Subscription, position: int) -> bool:
        gap = GapMessage(None, subscription.position + 1, position + 1, position)
        if not self._try_send(subscription, position, gap.encode(), _ENTRY_OVERHEAD_BYTES):
            return False
        subscription.position = position
        return True

    def _try_send(self, subscription: Subscription, offset: int, frames: Frames, size: int) -> bool:
        result = self._send([subscription.identity, *frames])
        if result is SendResult.SENT:
            subscription.last_sent = offset
            subscription.use_credit(size)
        elif result is SendResult.GONE:
            self.drop(subscription.identity)
        return result is SendResult.SENT


def _size(entry: Entry) -> int:
    return _ENTRY_OVERHEAD_BYTES + len(entry.blob or b"")


def _frames(entry: Entry) -> Frames:
    if entry.stream is None or entry.blob is None:
        end = entry.first_seq + entry.records
        return GapMessage(entry.stream, entry.first_seq, end, entry.offset).encode()
    return Evt(entry.offset, entry.stream, entry.first_seq, entry.records, entry.blob).encode()
