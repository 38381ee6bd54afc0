"""The reading client: batches in order, each once, with a gap for each missing event."""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

import zmq

from lineside.bus import sockets
from lineside.bus.errors import BadMessage, ReaderDenied
from lineside.bus.protocol.events import Event, Gap, Stream
from lineside.bus.protocol.messages import (
    CURSOR,
    DENIED,
    LIVE,
    OFFSET,
    START,
    Ack,
    Cur,
    Evt,
    Frames,
    GapMessage,
    Message,
    Sub,
    Who,
    decode,
)
from lineside.bus.protocol.wire import decode_event, record_bodies, unreadable_event

log = logging.getLogger("lineside")

CUR_SECONDS = 1.0
"""How often a reader sends its cursor."""
SILENCE_SECONDS = 5.0
"""How long a Sub or Cur may stay unanswered before the reader reconnects."""
_COMMIT_SECONDS = 0.05  # between two Curs; waking libzmq's thread costs more than a Cur
# Of messages received without a Cur, each with an overhead: half of what the broker sends at least
# before it waits for credit.
_RETURN_BYTES, _OVERHEAD_BYTES = 128 << 10, 512
_CLOSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one stream, in order; ``offset`` is what to commit once they are processed.

    ``gaps`` are missing seqs, before or among ``events``. With ``stream`` None there are no events,
    and the gaps are journal offsets that were skipped.
    """

    offset: int
    stream: Stream | None
    events: tuple[Event, ...]
    gaps: tuple[Gap, ...]
    size: int = 0
    """Bytes of the records; decoded they may take a hundred times as much."""


class Reader:
    """Reads the bus; reconnects and resubscribes by itself. Belongs to one thread.

    ``start`` is ``cursor`` (where the durable ``name`` last committed, the start the first time),
    ``start``, ``live`` (from now on; skipped forward when lagging) or ``offset`` (after
    ``offset``). Without a name, ``cursor`` means ``start`` and no cursor is kept. ``streams`` are
    patterns ``run[/producer[/attempt]]`` with ``*`` for any one part; empty is everything.
    ``journal`` is the id of the journal that ``offset`` belongs to. If another one answers, or an
    older copy of it that was put back, reading starts again from the start.

    Raises:
        AddressError: the address cannot be used.
    """

    def __init__(
        self,
        address: str,
        *,
        name: str = "",
        start: str = CURSOR,
        offset: int = 0,
        streams: Sequence[str] = (),
        credit: int = 64,
        journal: str | None = None,
    ) -> None:
        self.address = address
        self.name = name
        self.head = 0
        self.journal = journal
        self.restarts = 0  # how often reading started again from the start
        self.heard_at = -math.inf
        """When the broker last sent something, by the monotonic clock; it answers each second."""
        self._start = START if start == CURSOR and not name else start
        self._offset = offset
        self._streams = tuple(streams)
        self._credit = credit
        self._unreturned_credit = 0  # messages received and not yet returned as credit
        self._unreturned_bytes = 0  # of these messages
        self._cursor = 0
        self._sent_cursor = 0  # the cursor last sent to the broker
        self._acked_cursor = 0  # the cursor as the broker last acknowledged it
        self._delivered = 0  # the newest offset handed out
        self.names_below: tuple[str, ...] = ()
        """Durable names ``name/...`` that the broker knew when it answered the subscription."""
        self.behind: int | None = 0
        """Events that lay after ``offset`` when the subscription was answered; None: not known."""
        self.behind_seconds = 0.0
        """How long the first of them had waited then."""
        self._has_start = False  # whether the offset at which reading began is known
        self._next_seqs: dict[Stream, int] = {}
        self._id = secrets.token_hex(8)
        self._subscriptions = 0  # how often it subscribed
        self._denied = ""
        self._last_warning = ""
        self._context: sockets.Context = zmq.Context()
        try:
            self._connect()
        except BaseException:
            self._context.term()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_subscribed(self) -> bool:
        """Whether the broker has answered the subscription on this connection."""
        return self._is_subscribed

    @property
    def offset(self) -> int:
        """The newest offset received, whether or not it made a batch."""
        return self._delivered

    @property
    def processed(self) -> int:
        """The offset up to which the broker knows every matching entry as committed.

        With a name, by any reader of that name.
        """
        return self._acked_cursor

    def wait_connected(self, timeout: float) -> None:
        """Return once a broker has answered.

        Raises:
            BrokerUnreachable: no answer within ``timeout`` seconds.
            KeyRefused: the broker does not accept the key.
            ReaderDenied: the broker refused the subscription.
        """
        deadline = time.monotonic() + timeout
        while not self._is_subscribed:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise sockets.unreachable_error(self.address, timeout)
            self._poll_once(remaining)

    def poll(self, timeout: float) -> Batch | None:
        """The next batch; None if none comes within ``timeout`` seconds.

        Raises:
            ReaderDenied: the broker refused the subscription, or a newer reader took the name.
        """
        deadline = time.monotonic() + timeout
        while True:
            remaining = deadline - time.monotonic()
            result = self._poll_once(max(remaining, 0.0))
            if isinstance(result, Batch) or (remaining <= 0 and not result):
                return result or None

    def commit(self, offset: int) -> None:
        """Confirm everything up to ``offset``: a durable reader will not get it again.

        The cursor is sent at once, or with one of the next polls if commits are frequent.
        """
        self._cursor = max(self._cursor, offset)
        if self._is_cur_due():
            self._send_cur()

    def close(self) -> None:
        """Disconnect, after the broker has acknowledged the cursor if it answers soon."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        with contextlib.suppress(ReaderDenied):
            while self.name and self._is_subscribed and self._acked_cursor < self._cursor:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._poll_once(remaining)
        self._socket.close()
        self._context.term()

    def forget(self) -> None:
        """End the durable name and disconnect, once the broker has removed its cursor."""
        if self.is_subscribed and self._send(Cur(self._cursor, 0, forget=True).encode()):
            self._acked_cursor, self._cursor, self._sent_cursor = -1, 0, 0
            self._unreturned_credit = self._unreturned_bytes = 0
            self._cur_sent_at = time.monotonic()
        self.close()

    def _connect(self) -> None:
        self._socket = sockets.dealer(self._context, self.address)
        # Since when an answer is awaited; None if none is.
        self._waiting_since: float | None = time.monotonic()
        self._cur_sent_at = 0.0
        self._needs_subscribe = True
        self._is_subscribed = self._has_probed = False

    def _poll_once(self, timeout: float) -> Batch | bool:
        """Receive one message; return its batch, or whether there was a message."""
        if self._denied:
            raise ReaderDenied(self._denied)
        now = time.monotonic()
        if self._needs_subscribe:
            self._subscribe()
        elif not self._is_subscribed and now - self._cur_sent_at >= CUR_SECONDS:
            self._probe()
        elif self._is_cur_due():
            self._send_cur()
        wait = min(
            timeout, _COMMIT_SECONDS if self._sent_cursor < self._cursor else CUR_SECONDS / 2
        )
        poll_flags = zmq.POLLIN | (zmq.POLLOUT if self._needs_subscribe else 0)
        ready = self._socket.poll(int(wait * 1000), poll_flags)
        if not ready & zmq.POLLIN:
            waiting_since = self._waiting_since
            if waiting_since is not None and time.monotonic() - waiting_since > SILENCE_SECONDS:
                self._socket.close()
                self._connect()
                self._warn_unreachable()
            return False
        frames = self._socket.recv_multipart()
        self._waiting_since, self.heard_at = None, time.monotonic()
        try:
            return self._handle(decode(frames)) or True
        except BadMessage:
            return True

    def _warn_unreachable(self) -> None:
        """Log once that no broker answers, or refuses the key; the reader keeps trying."""
        why = str(sockets.unreachable_error(self.address, SILENCE_SECONDS))
        if why != self._last_warning:
            log.warning("%s", why)
        self._last_warning = why

    def _handle(self, message: Message) -> Batch | None:
        if isinstance(message, Ack):
            self._on_ack(message)
        elif isinstance(message, Who):
            # Without a probe, one that comes before the answer belongs to a Cur before the Sub.
            self._needs_subscribe |= self._is_subscribed or self._has_probed
        elif isinstance(message, Evt) and self._is_subscribed:
            self._count_received(len(message.blob))
            return self._on_events(message)
        elif isinstance(message, GapMessage) and self._is_subscribed:
            self._count_received(0)
            return self._on_gap(message)
        return None

    def _count_received(self, size: int) -> None:
        self._unreturned_credit += 1
        self._unreturned_bytes += size + _OVERHEAD_BYTES

    def _on_ack(self, ack: Ack) -> None:
        if ack.status == DENIED:
            self._denied = ack.text
            raise ReaderDenied(ack.text)
        self.head = ack.head
        if not ack.text:
            self._acked_cursor = ack.next
            return
        previous, self.journal = self.journal, ack.text
        if previous is not None and (previous != ack.text or ack.head < self._offset):
            # Offsets of another journal mean nothing in this one. A journal that ends before the
            # offset read is an older copy: its next entries get offsets that were used before.
            self._start = LIVE if self._start == LIVE else START
            self._offset, self._has_start = 0, False
            self._needs_subscribe, self._is_subscribed = True, False
            self.restarts += 1
            return
        self._is_subscribed = True
        self.names_below = ack.names
        self.behind = ack.behind or (None if ack.head > ack.next else 0)
        self.behind_seconds = ack.behind_ms / 1000
        self._last_warning = ""
        self._unreturned_credit = self._unreturned_bytes = 0
        self._start = LIVE if self._start == LIVE else OFFSET
        self._offset = ack.next
        if not self._has_start:
            self._acked_cursor = self._sent_cursor = self._cursor = self._delivered = ack.next
            self._has_start = True

    def _on_events(self, message: Evt) -> Batch | None:
        stream, end = message.stream, message.first_seq + message.count
        expected = self._next_seqs.get(stream, message.first_seq)
        gaps, events = [], []
        for body in record_bodies(message.blob):
            try:
                event = decode_event(body)
            except ValueError as error:
                event = unreadable_event(body, expected, str(error))
            if not expected <= event.seq < end:
                continue
            if event.seq > expected:
                gaps.append(Gap(stream, expected, event.seq))
            events.append(event)
            expected = event.seq + 1
        if expected < end:
            gaps.append(Gap(stream, expected, end))
        return self._batch(message.offset, stream, end, events, gaps, len(message.blob))

    def _on_gap(self, message: GapMessage) -> Batch | None:
        stream = message.stream
        if stream is None:
            if message.offset <= self._delivered:
                return None
            self._offset = self._delivered = message.offset
            return Batch(message.offset, None, (), (Gap(None, message.first, message.end),))
        first = max(self._next_seqs.get(stream, message.first), message.first)
        gaps = [Gap(stream, first, message.end, True)] if first < message.end else []
        return self._batch(message.offset, stream, message.end, [], gaps)

    def _batch(
        self,
        offset: int,
        stream: Stream,
        end: int,
        events: list[Event],
        gaps: list[Gap],
        size: int = 0,
    ) -> Batch | None:
        self._offset = offset
        self.head = max(self.head, offset)
        self._next_seqs[stream] = max(self._next_seqs.get(stream, 0), end)
        has_uncommitted = self._cursor < self._delivered
        self._delivered = max(self._delivered, offset)
        if not events and not gaps:
            # Only duplicates: no caller commits them, so they must not hold the cursor back.
            self._cursor = self._cursor if has_uncommitted else self._delivered
            return None
        return Batch(offset, stream, tuple(events), tuple(gaps), size)

    def _subscribe(self) -> None:
        reader, number = (self._id, self._subscriptions + 1) if self.name else ("", 0)
        sub = Sub(self.name, self._start, self._offset, self._streams, self._credit, reader, number)
        if self._send(sub.encode()):
            self._needs_subscribe = self._is_subscribed = self._has_probed = False
            self._subscriptions = number
            self._cur_sent_at = time.monotonic()

    def _probe(self) -> None:
        """Ask for a Who in case that the Sub was lost with an earlier connection of the socket.

        A second Sub would begin delivery anew in a broker that is only slow.
        """
        if self._send(Cur(0, 0).encode()):
            self._has_probed, self._cur_sent_at = True, time.monotonic()

    def _is_cur_due(self) -> bool:
        pause = CUR_SECONDS if self._sent_cursor == self._cursor else _COMMIT_SECONDS
        return (
            self._unreturned_credit * 2 >= self._credit
            or self._unreturned_bytes >= _RETURN_BYTES
            or time.monotonic() - self._cur_sent_at >= pause
        )

    def _send_cur(self) -> None:
        if self._is_subscribed and self._send(Cur(self._cursor, self._unreturned_credit).encode()):
            self._unreturned_credit = self._unreturned_bytes = 0
            self._sent_cursor, self._cur_sent_at = self._cursor, time.monotonic()

    def _send(self, frames: Frames) -> bool:
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart(frames, zmq.NOBLOCK)
            self._waiting_since = self._waiting_since or time.monotonic()
            return True
        return False
