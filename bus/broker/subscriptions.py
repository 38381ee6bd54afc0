"""Subscriptions of readers, and delivery to them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from enum import Enum

from lineside.bus.broker.storage.journal import FORGOTTEN, Cursor, Entry, Journal
from lineside.bus.broker.subscription import InFlight, Subscription
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

log = logging.getLogger("lineside")

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
_ENTRY_OVERHEAD_BYTES = 512  # bytes of memory an entry takes besides its blob


class SendResult(Enum):
    """The result of sending a message to a reader."""

    SENT = 1
    BUSY = 2  # its queue is full
    GONE = 3


class Subscriptions:
    """Every reader's subscription, and the newest entries kept in memory for those at the head.

    ``send`` sends frames that begin with the identity, and never blocks.
    """

    def __init__(self, journal: Journal, send: Callable[[Frames], SendResult]) -> None:
        self._journal = journal
        self._send = send
        self._by_identity: dict[bytes, Subscription] = {}
        self._by_name: dict[str, bytes] = {}
        self._in_flight = InFlight()
        self._tail: dict[int, Entry] = {}
        self._tail_bytes = 0
        self._warned_at = float("-inf")
        self.moved_cursors: dict[str, Cursor] = {}
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
        subscription = Subscription(identity, message, self._in_flight)
        self.drop(identity)
        previous = self._by_identity.get(self._by_name.get(name, b""))
        if previous is not None:
            if previous.is_of(message) and message.number < previous.number:
                return None
            self.drop(previous.identity)
        digest = subscription.streams.digest
        head, committed = self._journal.head, self.cursor(name)
        reached = committed or Cursor(0, 0, digest)
        if reached.streams != digest:
            # What was passed because it was not asked for may be asked for now.
            reached = Cursor(reached.confirmed, reached.confirmed, digest)
        positions = {
            START: 0,
            LIVE: message.offset or head,
            OFFSET: message.offset,
            CURSOR: reached.offset,
        }
        position = min(head, positions[message.start])
        subscription.begin(position)
        self._by_identity[identity] = subscription
        if name:
            self._by_name[name] = identity
            if committed is None:
                reached = Cursor(position, position, digest)
            # A reader that returns at a later offset has not committed the entries before it.
            self._move_cursor(
                name, min(reached.offset, position), min(reached.confirmed, position), digest
            )
        is_displaced = previous is not None and not previous.is_of(message)
        return previous.identity if previous is not None and is_displaced else None

    def cursor(self, name: str) -> Cursor | None:
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
        cursor = self.cursor(subscription.name)
        return subscription.name, cursor.offset if cursor else subscription.processed

    def advance(self, identity: bytes, message: Cur) -> None:
        """Take a reader's CUR."""
        subscription = self._by_identity[identity]
        subscription.add_credit(message.credit)
        name, last_sent = subscription.name, subscription.last_sent
        has_all = message.offset >= last_sent
        subscription.processed = subscription.position if has_all else message.offset
        if name and message.forget:
            self.moved_cursors[name] = FORGOTTEN
            self.drop(identity)
        elif name and (cursor := self.cursor(name)):
            self._move_cursor(
                name,
                max(cursor.offset, subscription.processed),
                max(cursor.confirmed, min(message.offset, last_sent)),
                cursor.streams,
            )

    def drop(self, identity: bytes) -> None:
        """Forget a reader; its durable cursor stays."""
        subscription = self._by_identity.pop(identity, None)
        if subscription:
            subscription.end_delivery()
        if subscription and self._by_name.get(subscription.name) == identity:
            del self._by_name[subscription.name]

    def end_delivery(self, identity: bytes) -> None:
        """Free the memory of a reader that is gone; its last cursor may still come."""
        if subscription := self._by_identity.get(identity):
            subscription.end_delivery()

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

    def _move_cursor(self, name: str, offset: int, confirmed: int, streams: str) -> None:
        cursor = Cursor(offset, confirmed, streams)
        if cursor != self.cursor(name):
            self.moved_cursors[name] = cursor

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
