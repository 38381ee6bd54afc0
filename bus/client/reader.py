"""The reading client: batches in order, each once, and a word about everything that is missing."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

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
from lineside.bus.protocol.wire import bodies, decode_event

log = logging.getLogger("lineside")

CUR_SECONDS = 1.0
"""How often a reader says how far it is."""
SILENCE_SECONDS = 5.0
"""How long a Sub or Cur may stay unanswered before the reader connects anew."""
_COMMIT_SECONDS = 0.05  # between two Curs; each wakes libzmq's thread, which costs more than it
_CLOSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one stream, in order; ``offset`` is what to commit once they are processed.

    ``gaps`` are seqs that cannot be had, before or among ``events``. With ``stream`` None there are
    no events, and the gaps are journal offsets that were skipped.
    """

    offset: int
    stream: Stream | None
    events: tuple[Event, ...]
    gaps: tuple[Gap, ...]


class Reader:
    """Reads the bus; reconnects and resubscribes by itself. Belongs to one thread.

    ``start`` says where: ``cursor`` (where the durable ``name`` last committed, the start the first
    time), ``start``, ``live`` (from now on; skipped forward when lagging), ``offset`` (after
    ``offset``). Without a name, ``cursor`` means ``start`` and nothing is kept. ``streams`` are
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
        self.restarts = 0  # how often reading began again from the start
        self._start = START if start == CURSOR and not name else start
        self._offset = offset
        self._streams = tuple(streams)
        self._credit = credit
        self._taken = 0  # messages received and not yet given back as credit
        self._committed = 0
        self._said = 0  # what the broker was told of it
        self._kept = 0  # the durable cursor, or the like without a name, as the broker last said
        self._delivered = 0  # the newest offset handed out
        self._began = False  # whether it is known behind which offset reading began
        self._next: dict[Stream, int] = {}
        self._denied = ""
        self._complaint = ""
        self._context: sockets.Context = zmq.Context()
        try:
            self._connect()
        except BaseException:
            self._context.term()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether a broker has answered the subscription on this connection."""
        return self._subscribed

    @property
    def offset(self) -> int:
        """The newest offset that was taken in, whether or not a batch came of it."""
        return self._delivered

    @property
    def processed(self) -> int:
        """Up to this offset, as the broker last said, all was committed that was asked for; with a
        name, by any reader of it."""
        return self._kept

    def wait_connected(self, timeout: float) -> None:
        """Return once a broker has answered.

        Raises:
            BrokerUnreachable: none did within ``timeout`` seconds.
            KeyRefused: one is there and does not take the key.
            ReaderDenied: it refused.
        """
        until = time.monotonic() + timeout
        while not self._subscribed:
            left = until - time.monotonic()
            if left <= 0:
                raise sockets.unreachable(self.address, timeout)
            self._turn(left)

    def poll(self, timeout: float) -> Batch | None:
        """The next batch; None if there was none within ``timeout`` seconds.

        Raises:
            ReaderDenied: the broker refused the subscription, or a newer reader took the name.
        """
        until = time.monotonic() + timeout
        while True:
            left = until - time.monotonic()
            heard = self._turn(max(left, 0.0))
            if isinstance(heard, Batch) or (left <= 0 and not heard):
                return heard or None

    def commit(self, offset: int) -> None:
        """Everything up to ``offset`` is processed: a durable reader will not get it again.

        The broker is told at once, or within the next polls when commits come thick and fast.
        """
        self._committed = max(self._committed, offset)
        if self._cur_due():
            self._say_cur()

    def close(self) -> None:
        """Disconnect, once a broker that is there has kept what was committed."""
        until = time.monotonic() + _CLOSE_SECONDS
        with contextlib.suppress(ReaderDenied):
            while self.name and self._subscribed and self._kept < self._committed:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._turn(left)
        self._socket.close()
        self._context.term()

    def _connect(self) -> None:
        self._socket = sockets.dealer(self._context, self.address)
        # Since when an answer is waited for; None if none is.
        self._asked_at: float | None = time.monotonic()
        self._cur_at = 0.0
        self._must_subscribe = True
        self._subscribed = False

    def _turn(self, timeout: float) -> Batch | bool:
        """One message: its batch, or whether there was one at all."""
        if self._denied:
            raise ReaderDenied(self._denied)
        now = time.monotonic()
        if self._must_subscribe or (not self._subscribed and now - self._cur_at >= CUR_SECONDS):
            self._subscribe()
        elif self._cur_due():
            self._say_cur()
        wait = min(timeout, _COMMIT_SECONDS if self._said < self._committed else CUR_SECONDS / 2)
        wanted = zmq.POLLIN | (zmq.POLLOUT if self._must_subscribe else 0)
        ready = self._socket.poll(int(wait * 1000), wanted)
        if not ready & zmq.POLLIN:
            asked = self._asked_at
            if asked is not None and time.monotonic() - asked > SILENCE_SECONDS:
                self._socket.close()
                self._connect()
                self._complain()
            return False
        frames = self._socket.recv_multipart()
        self._asked_at = None
        try:
            return self._take(decode(frames)) or True
        except BadMessage:
            return True

    def _complain(self) -> None:
        """Say once that nobody answers, or not to this key; it is tried on, because that may be put
        in order."""
        why = str(sockets.unreachable(self.address, SILENCE_SECONDS))
        if why != self._complaint:
            log.warning("%s", why)
        self._complaint = why

    def _take(self, message: Message) -> Batch | None:
        if isinstance(message, Ack):
            self._on_ack(message)
        elif isinstance(message, Who):
            self._must_subscribe = True
        elif isinstance(message, Evt) and self._subscribed:
            self._taken += 1
            return self._on_events(message)
        elif isinstance(message, GapMessage) and self._subscribed:
            self._taken += 1
            return self._on_gap(message)
        return None

    def _on_ack(self, ack: Ack) -> None:
        if ack.status == DENIED:
            self._denied = ack.text
            raise ReaderDenied(ack.text)
        self.head = ack.head
        if not ack.text:
            self._kept = ack.next
            return
        known, self.journal = self.journal, ack.text
        if known is not None and (known != ack.text or ack.head < self._offset):
            # Offsets of another journal mean nothing in this one, and one that ends before what was
            # read of it is an older copy: what it gets from now on bears offsets that were seen.
            self._start = LIVE if self._start == LIVE else START
            self._offset, self._began = 0, False
            self._must_subscribe, self._subscribed = True, False
            self.restarts += 1
            return
        self._subscribed = True
        self._complaint = ""
        self._taken = 0
        self._start = LIVE if self._start == LIVE else OFFSET
        self._offset = ack.next
        if not self._began:
            self._kept = self._said = self._committed = self._delivered = ack.next
            self._began = True

    def _on_events(self, message: Evt) -> Batch | None:
        stream, end = message.stream, message.first_seq + message.count
        expected = self._next.get(stream, message.first_seq)
        gaps, events = [], []
        for body in bodies(message.blob):
            try:
                event = decode_event(body)
            except ValueError:
                continue
            if not expected <= event.seq < end:
                continue
            if event.seq > expected:
                gaps.append(Gap(stream, expected, event.seq))
            events.append(event)
            expected = event.seq + 1
        if expected < end:
            gaps.append(Gap(stream, expected, end))
        return self._batch(message.offset, stream, end, events, gaps)

    def _on_gap(self, message: GapMessage) -> Batch | None:
        stream = message.stream
        if stream is None:
            if message.offset <= self._delivered:
                return None
            self._offset = self._delivered = message.offset
            return Batch(message.offset, None, (), (Gap(None, message.first, message.end),))
        first = max(self._next.get(stream, message.first), message.first)
        gaps = [Gap(stream, first, message.end)] if first < message.end else []
        return self._batch(message.offset, stream, message.end, [], gaps)

    def _batch(
        self, offset: int, stream: Stream, end: int, events: list[Event], gaps: list[Gap]
    ) -> Batch | None:
        self._offset = offset
        self.head = max(self.head, offset)
        self._next[stream] = max(self._next.get(stream, 0), end)
        behind = self._committed < self._delivered
        self._delivered = max(self._delivered, offset)
        if not events and not gaps:
            # Had before; nobody will commit it, so it must not hold the cursor back.
            self._committed = self._committed if behind else self._delivered
            return None
        return Batch(offset, stream, tuple(events), tuple(gaps))

    def _subscribe(self) -> None:
        sub = Sub(self.name, self._start, self._offset, self._streams, self._credit)
        if self._tell(sub.encode()):
            self._must_subscribe, self._subscribed = False, False
            self._cur_at = time.monotonic()

    def _cur_due(self) -> bool:
        pause = CUR_SECONDS if self._said == self._committed else _COMMIT_SECONDS
        return self._taken * 2 >= self._credit or time.monotonic() - self._cur_at >= pause

    def _say_cur(self) -> None:
        if self._subscribed and self._tell(Cur(self._committed, self._taken).encode()):
            self._taken, self._said = 0, self._committed
            self._cur_at = time.monotonic()

    def _tell(self, frames: Frames) -> bool:
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart(frames, zmq.NOBLOCK)
            self._asked_at = self._asked_at or time.monotonic()
            return True
        return False
