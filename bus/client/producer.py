"""The producer: puts events on the bus and keeps each until the broker has acknowledged it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from lineside.bus import sockets
from lineside.bus.client.connection import Connection
from lineside.bus.errors import BusError, KeyRefused
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import (
    DENIED,
    FULL,
    HOLE,
    INVALID,
    Ack,
    GapMessage,
    Hi,
    Message,
    Put,
    Who,
    decode,
)
from lineside.bus.protocol.wire import Encoder

_BATCH = 64  # records in one PUT
_BATCH_BYTES = 256 << 10
_WINDOW = 64  # PUTs without an acknowledgement
# Of the records of a connection's PUTs without an acknowledgement. A broker that was frozen has as
# much in memory for each connection; it cuts one of the network with 64 MiB.
_WINDOW_BYTES = 4 << 20
_SILENCE_SECONDS = 3.0
_FULL_RETRY_SECONDS = 0.2
_DENIED_RETRY_SECONDS = 3.0


class ProducerConnection:
    """One connection to the broker at ``address`` that carries the streams of many producers.

    The broker refuses each stream for itself: a refused stream leaves the others alone. Belongs to
    one thread.

    Raises:
        AddressError: the address cannot be used.
        SettingsError: its key cannot be used.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._connection = Connection(address, _SILENCE_SECONDS)
        self._producers: dict[str, Producer] = {}

    def add(self, producer: Producer) -> None:
        """Carry the stream of ``producer`` too."""
        self._producers[str(producer.stream)] = producer

    def remove(self, producer: Producer) -> None:
        """Carry the stream of ``producer`` no longer; events not acknowledged are lost."""
        self._producers.pop(str(producer.stream), None)

    def poll(self, timeout: float) -> None:
        """Send what may be sent and take one answer if one comes within ``timeout`` seconds.

        Raises:
            BusError: the broker refused a message that it could not read.
            KeyRefused: the broker does not accept the key.
        """
        connection, producers = self._connection, list(self._producers.values())
        if not self._is_waiting():
            connection.waiting_since = None
        window = _WINDOW_BYTES
        for producer in producers:
            window -= producer.in_flight_bytes
        for producer in producers:
            window += producer.in_flight_bytes
            if not producer.send(connection, window):
                break
            window -= producer.in_flight_bytes
        is_waiting = self._is_waiting()
        if is_waiting and connection.waiting_since is None:
            connection.waiting_since = time.monotonic()
        # Until the connection stands, which takes a moment, it is writable when it does.
        needs_hello = any(producer.needs_hello for producer in producers)
        frames = connection.receive(timeout, until_writable=needs_hello)
        if frames is not None:
            self._handle(decode(frames))
        elif connection.is_silent:
            if reason := sockets.key_refusal(self.address):
                raise KeyRefused(self.address, reason)
            connection.reconnect()
            for producer in producers:
                producer.restart()

    def close(self) -> None:
        """Disconnect. Events that were not flushed are lost."""
        self._connection.close()

    def _is_waiting(self) -> bool:
        return any(producer.is_waiting for producer in self._producers.values())

    def _handle(self, message: Message) -> None:
        if isinstance(message, Who):
            if message.stream in self._producers:
                self._producers[message.stream].restart()
        elif isinstance(message, Ack):
            if message.key in self._producers:
                self._producers[message.key].acknowledge(message)
            elif message.status == DENIED and not message.key:
                raise BusError(f"the broker refused: {message.text}")


class Producer:
    """Puts events on one stream and keeps each until the broker has acknowledged it.

    ``emit`` only collects; ``flush`` sends, and sends again over whatever happens to the broker or
    the connection. ``stream`` is ``run/producer/attempt``. With ``connection`` the stream is one of
    those that it carries; otherwise the producer has its own. Belongs to one thread.

    Raises:
        AddressError: the address cannot be used.
        StreamNameError: ``stream`` is not a stream's name.
    """

    def __init__(
        self, address: str, stream: str | Stream, connection: ProducerConnection | None = None
    ) -> None:
        self.stream = Stream.parse(str(stream))
        self.address = address
        self.acked = 0
        """Every seq before this one is in the journal."""
        self._first = 0  # the seq of the first record that is kept
        self._records: list[bytes | None] = []  # None is a gap of one
        self._in_flight: deque[tuple[int, int]] = deque()  # of each PUT its end and its bytes
        self._encoder = Encoder()
        self._paused_until = 0.0
        self._denial = ""
        self.restart()
        self._owns_connection = connection is None
        self._connection = connection or ProducerConnection(address)
        self._connection.add(self)

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def next_seq(self) -> int:
        """The seq the next event will have."""
        return self._first + len(self._records)

    @property
    def needs_hello(self) -> bool:
        """Whether the connection still has to send this stream's HI."""
        return not self._is_hello_sent and time.monotonic() >= self._paused_until

    @property
    def is_waiting(self) -> bool:
        """Whether the broker owes this stream an answer."""
        is_open = self._sent > self.acked or not self._is_hello_acked
        return is_open and time.monotonic() >= self._paused_until

    def emit(
        self, kind: str, *, step: int = 0, data: Mapping[str, Any] | None = None, control: int = 0
    ) -> int:
        """Collect one event, with the time now; return its seq."""
        seq = self.next_seq
        if seq == self.acked:
            self._denial = ""  # an older refusal was not about this event
        self._records.append(
            self._encoder.encode(
                seq, time.time(), time.monotonic_ns(), kind, step, None, control, data
            )
        )
        return seq

    def skip(self, count: int = 1) -> None:
        """Leave out ``count`` seqs; the broker gets a GAP for them."""
        self._records += [None] * count

    def drop_acked(self) -> None:
        """Forget acknowledged events. If the journal is replaced, it gets a GAP for them."""
        count = max(0, self.acked - self._first)  # a journal made anew has less than before
        del self._records[:count]
        self._first += count

    def flush(self, timeout: float = 10.0) -> None:
        """Return once every event is in the journal.

        Raises:
            BrokerUnreachable: it is not, within ``timeout`` seconds.
            KeyRefused: the broker does not accept the key.
            BusError: the broker refuses the stream or its events.
        """
        deadline = time.monotonic() + timeout
        while self.acked < self.next_seq:
            if time.monotonic() > deadline:
                raise sockets.unreachable_error(self.address, timeout)
            self.poll(0.1)

    def poll(self, timeout: float) -> None:
        """Send what may be sent and take one answer if one comes within ``timeout`` seconds.

        Raises:
            BusError: the broker refuses the stream or its events. The next polls try again.
            KeyRefused: the broker does not accept the key.
        """
        if not self._denial:
            self._connection.poll(timeout)
        if self._denial:
            denial, self._denial = self._denial, ""
            raise BusError(f"the broker refused: {denial}")

    def close(self) -> None:
        """Disconnect. Events that were not flushed are lost."""
        self._connection.remove(self)
        if self._owns_connection:
            self._connection.close()

    @property
    def in_flight_bytes(self) -> int:
        """The bytes of the records that were sent and are not acknowledged."""
        return sum(size for _, size in self._in_flight)

    def restart(self) -> None:
        """Begin again with HI, on a new connection or because the broker forgot this one."""
        self._is_hello_sent = self._is_hello_acked = False
        self._go_back(self.acked)

    def _go_back(self, seq: int) -> None:
        """Send again from ``seq`` on."""
        self._sent = seq
        self._in_flight.clear()

    def send(self, connection: Connection, window: int) -> bool:
        """Send what may be sent; False if the connection takes no more now.

        One PUT may always be under way, and more while they have fewer than ``window`` bytes.
        """
        if self.needs_hello:
            self._is_hello_sent = connection.send(Hi(self.stream).encode())
            if not self._is_hello_sent:
                return False
        if not self._is_hello_acked or time.monotonic() < self._paused_until:
            return True
        limit = min(self.next_seq, self.acked + _WINDOW * _BATCH)
        size = self.in_flight_bytes
        while self._sent < limit and (
            not self._in_flight or (len(self._in_flight) < _WINDOW and size < window)
        ):
            message, end = self._next_message(limit)
            if not connection.send(message.encode()):
                return False
            self._sent = end
            self._in_flight.append((end, len(message.blob) if isinstance(message, Put) else 0))
            size += self._in_flight[-1][1]
        return True

    def acknowledge(self, ack: Ack) -> None:
        """Take the broker's answer to a message of this stream."""
        if ack.status in (DENIED, INVALID):
            self._denial = ack.text
            # Its own connection is replaced after the usual silence, perhaps with another key.
            if not self._owns_connection:
                self._paused_until = time.monotonic() + _DENIED_RETRY_SECONDS
                self.restart()
            return
        # A journal made anew has less than was acknowledged before.
        self.acked = ack.next
        while self._in_flight and self._in_flight[0][0] <= ack.next:
            self._in_flight.popleft()
        if not self._is_hello_acked or ack.status in (HOLE, FULL):
            self._go_back(ack.next)
        if ack.status == FULL:
            self._paused_until = time.monotonic() + _FULL_RETRY_SECONDS
        self._is_hello_acked = True

    def _next_message(self, limit: int) -> tuple[Message, int]:
        """The next PUT or GAP, and the seq after it."""
        first = end = self._sent
        if first < self._first:
            return GapMessage(self.stream, first, self._first), self._first
        records = self._records[first - self._first : min(limit, first + _BATCH) - self._first]
        is_gap, size = records[0] is None, 0
        for record in records:
            size += len(record or b"")
            if (record is None) != is_gap or (size > _BATCH_BYTES and end > first):
                break
            end += 1
        if is_gap:
            return GapMessage(self.stream, first, end), end
        blob = b"".join(record or b"" for record in records[: end - first])
        return Put(self.stream, first, end - first, blob), end
