"""The smallest correct producer: for tests, and to show what the protocol asks of one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import zmq

from lineside.bus import sockets
from lineside.bus.errors import BusError, KeyRefused
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import (
    DENIED,
    FULL,
    HOLE,
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
_SILENCE_SECONDS = 3.0
_FULL_RETRY_SECONDS = 0.2


class Producer:
    """Puts events on one stream and keeps each until the broker has acknowledged it.

    ``emit`` only collects; ``flush`` sends, and sends again over whatever happens to the broker or
    the connection. ``stream`` is ``run/producer/attempt``. It belongs to one thread.

    Raises:
        AddressError: the address cannot be used.
        StreamNameError: ``stream`` is not a stream's name.
    """

    def __init__(self, address: str, stream: str | Stream) -> None:
        self.stream = Stream.parse(str(stream))
        self.address = address
        self.acked = 0
        """Every seq before this one is in the journal."""
        self._records: list[bytes | None] = []  # None is a gap of one
        self._encoder = Encoder()
        self._sent = 0
        self._is_hello_sent = self._is_hello_acked = False
        self._context: sockets.Context = zmq.Context()
        try:
            self._connect()
        except BaseException:
            self._context.term()
            raise

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def next_seq(self) -> int:
        """The seq the next event will have."""
        return len(self._records)

    def emit(
        self, kind: str, *, step: int = 0, data: Mapping[str, Any] | None = None, control: int = 0
    ) -> int:
        """Collect one event, now; its seq."""
        seq = self.next_seq
        self._records.append(
            self._encoder.encode(
                seq, time.time(), time.monotonic_ns(), kind, step, None, control, data
            )
        )
        return seq

    def skip(self, count: int = 1) -> None:
        """Leave out ``count`` seqs: the broker is told that they cannot be had."""
        self._records += [None] * count

    def drop_acked(self) -> None:
        """Let go of what was acknowledged. A journal made anew is told that it cannot be had."""
        self._records[: self.acked] = [None] * self.acked

    def flush(self, timeout: float = 10.0) -> None:
        """Return once every event is in the journal.

        Raises:
            BrokerUnreachable: it is not, within ``timeout`` seconds.
            KeyRefused: a broker is there and does not take the key.
            BusError: the broker will never take it.
        """
        deadline = time.monotonic() + timeout
        while self.acked < self.next_seq:
            if time.monotonic() > deadline:
                raise sockets.unreachable_error(self.address, timeout)
            self.poll(0.1)

    def poll(self, timeout: float) -> None:
        """Send what may be sent and take one answer if one comes within ``timeout`` seconds.

        Raises:
            BusError: the broker will never take it.
            KeyRefused: it does not take the key.
        """
        self._send()
        waiting = self._sent > self.acked or not self._is_hello_acked
        # Until the connection is there, which takes a moment, it says when it is.
        poll_flags = zmq.POLLIN if self._is_hello_sent else zmq.POLLIN | zmq.POLLOUT
        if self._socket.poll(int(timeout * 1000), poll_flags) & zmq.POLLIN:
            self._last_received = time.monotonic()
            self._handle(decode(self._socket.recv_multipart()))
        elif waiting and time.monotonic() - self._last_received > _SILENCE_SECONDS:
            if reason := sockets.key_refusal(self.address):
                raise KeyRefused(self.address, reason)
            old_socket = self._socket
            self._connect()  # which may fail, and be tried again
            old_socket.close()

    def close(self) -> None:
        """Disconnect. What was not flushed is lost."""
        self._socket.close()
        self._context.term()

    def _connect(self) -> None:
        self._socket = sockets.dealer(self._context, self.address)
        self._last_received = time.monotonic()
        self._is_hello_sent = self._is_hello_acked = False
        self._sent = self.acked
        self._retry_at = 0.0

    def _send(self) -> None:
        try:
            if not self._is_hello_sent:
                self._socket.send_multipart(Hi(self.stream).encode(), zmq.NOBLOCK)
                self._is_hello_sent = True
            if not self._is_hello_acked or time.monotonic() < self._retry_at:
                return
            limit = min(self.next_seq, self.acked + _WINDOW * _BATCH)
            while self._sent < limit:
                self._sent = self._send_from(self._sent, limit)
        except zmq.Again:
            pass

    def _send_from(self, first: int, limit: int) -> int:
        end, size = first, 0
        gap = self._records[first] is None
        for record in self._records[first : min(limit, first + _BATCH)]:
            size += len(record or b"")
            if (record is None) != gap or (size > _BATCH_BYTES and end > first):
                break
            end += 1
        message: Message = GapMessage(self.stream, first, end)
        if not gap:
            blob = b"".join(record or b"" for record in self._records[first:end])
            message = Put(self.stream, first, end - first, blob)
        self._socket.send_multipart(message.encode(), zmq.NOBLOCK)
        return end

    def _handle(self, message: Message) -> None:
        if isinstance(message, Who):
            self._is_hello_sent = self._is_hello_acked = False
        if not isinstance(message, Ack):
            return
        if message.status == DENIED:
            raise BusError(f"the broker refused: {message.text}")
        # A journal made anew has less than was acknowledged before.
        self.acked = message.next
        if not self._is_hello_acked or message.status in (HOLE, FULL):
            self._sent = message.next
        if message.status == FULL:
            self._retry_at = time.monotonic() + _FULL_RETRY_SECONDS
        self._is_hello_acked = True
