"""Replies to clients that wait for the next commit."""

from __future__ import annotations

from collections.abc import Callable

from lineside.bus.broker.storage.journal import Journal
from lineside.bus.broker.subscriptions import Subscriptions
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import FULL, OK, Ack, Frames, Who


class PendingReplies:
    """At most one reply for each client and subject, however many messages it answers.

    ``send`` sends frames that begin with the identity, and never blocks.
    """

    def __init__(
        self, journal: Journal, subscriptions: Subscriptions, send: Callable[[Frames], object]
    ) -> None:
        self._journal = journal
        self._subscriptions = subscriptions
        self._send = send
        self.hellos: set[tuple[bytes, Stream]] = set()
        """Streams that were opened."""
        self.acks: dict[tuple[bytes, Stream], str] = {}
        """The status of what was appended to a stream."""
        self.whos: set[tuple[bytes, str]] = set()
        """Streams that are not open; empty for a subscription that is not known."""
        self.cursors: set[bytes] = set()
        """Readers that sent their cursor."""

    def send_all(self, failure: str) -> None:
        """Send what waits; ``failure`` is why the commit failed, or an empty string."""
        head = self._journal.head
        for identity, stream in self.hellos:
            ack = Ack(str(stream), self._journal.next_seq(stream), OK, head, self._journal.id)
            self._send([identity, *ack.encode()])
        for (identity, stream), status in self.acks.items():
            next_seq = self._journal.next_seq(stream)
            ack = Ack(str(stream), next_seq, FULL if failure else status, head, failure)
            self._send([identity, *ack.encode()])
        for identity, name in self.whos:
            self._send([identity, *Who(name).encode()])
        for identity in self.cursors:
            name, cursor = self._subscriptions.cursor_of(identity)
            self._send([identity, *Ack(name, cursor, OK, head).encode()])
        self.hellos.clear()
        self.acks.clear()
        self.whos.clear()
        self.cursors.clear()
