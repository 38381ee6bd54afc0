"""Sends what subscribers publish: many streams over one connection, each event once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import zmq

from lineside.bus import sockets
from lineside.bus.errors import BadMessage, BusError
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import (
    DENIED,
    FULL,
    INVALID,
    Ack,
    Frames,
    Hi,
    Put,
    Who,
    decode,
)
from lineside.bus.protocol.wire import Encoder
from lineside.bus.wording import plural
from lineside.subscribers.state.state_file import StateFileError
from lineside.subscribers.state.subscriber_state import Pending, SubscriberState

log = logging.getLogger("lineside")

_BATCH = 64  # events in one PUT
_BATCH_BYTES = 256 << 10
_SILENCE_SECONDS = 3.0
_RETRY_SECONDS = 1.0


class _InvalidPutError(Exception):
    """The broker cannot read a record of a PUT."""


class PublicationSender:
    """Sends the publications of ``state_file`` from a thread of its own, until ``close``."""

    def __init__(
        self, address: str, state_file: SubscriberState, on_fatal: Callable[[BaseException], None]
    ) -> None:
        self._address = address
        self._state_file = state_file
        self._on_fatal = on_fatal
        self._encoder = Encoder()
        self._wake = threading.Event()
        self._is_closing = False
        self._last_warning = ""
        self._thread = threading.Thread(target=self._run, name="publications", daemon=True)

    def start(self) -> None:
        """Begin; what an earlier process left is sent at once."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def close(self, timeout: float) -> None:
        """Send what is left, for at most ``timeout`` seconds; the next start sends the rest."""
        self._is_closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        context: sockets.Context = zmq.Context()
        try:
            socket: sockets.Socket | None = None
            opened: dict[Stream, int] = {}
            while True:
                is_closing = self._is_closing
                self._wake.clear()
                try:
                    for stream in self._state_file.pending_streams():
                        if socket is None:
                            socket, opened = sockets.dealer(context, self._address), {}
                        self._send_stream(socket, opened, stream)
                    self._last_warning = ""
                except (BusError, StateFileError, zmq.ZMQError) as error:
                    self._warn(str(error))
                    if socket is not None:
                        socket.close()
                        socket = None
                    self._wake.wait(_RETRY_SECONDS)
                if is_closing:
                    break
                if socket is not None or not self._last_warning:
                    self._wake.wait()
        except BaseException as error:  # noqa: BLE001 - the service's thread raises it
            self._on_fatal(error)
        finally:
            context.destroy(linger=0)

    def _send_stream(
        self, socket: sockets.Socket, opened: dict[Stream, int], stream: Stream
    ) -> None:
        if stream not in opened:
            self._send(socket, Hi(stream).encode())
            next_seq = self._receive_ack(socket, stream)
            if next_seq is None:
                return
            opened[stream] = next_seq
        most = _BATCH
        while pending := self._state_file.pending(stream, opened[stream], most):
            records: list[bytes] = []
            for seq, p in pending:
                record = self._encoder.encode(seq, p.time, 0, p.kind, p.step, p.epoch, 0, p.data)
                if records and sum(map(len, records)) + len(record) > _BATCH_BYTES:
                    break
                records.append(record)
            put = Put(stream, pending[0].seq, len(records), b"".join(records))
            self._send(socket, put.encode())
            try:
                next_seq = self._receive_ack(socket, stream)
            except _InvalidPutError as error:
                most = max(1, len(records) // 2)  # until it is the only one
                if len(records) == 1:
                    self._set_aside(pending[0], str(error))
                continue
            most = min(2 * most, _BATCH)
            if next_seq is None:
                return
            opened[stream] = next_seq

    def _set_aside(self, invalid: Pending, why: str) -> None:
        count = self._state_file.set_aside(invalid, why)
        log.error(
            "the broker cannot read a %s of %s (%s): it is set aside in the table invalid of the "
            "state file, which has %d",
            invalid.publication.kind,
            invalid.publication.stream,
            why,
            count,
        )

    def _send(self, socket: sockets.Socket, frames: Frames) -> None:
        if not socket.poll(int(_SILENCE_SECONDS * 1000), zmq.POLLOUT):
            raise sockets.unreachable_error(self._address, _SILENCE_SECONDS)
        socket.send_multipart(frames, zmq.NOBLOCK)

    def _receive_ack(self, socket: sockets.Socket, stream: Stream) -> int | None:
        """The stream's next seq in the journal; None if the broker refuses the stream."""
        deadline = time.monotonic() + _SILENCE_SECONDS
        while (remaining := deadline - time.monotonic()) > 0:
            if not socket.poll(int(remaining * 1000), zmq.POLLIN):
                break
            try:
                message = decode(socket.recv_multipart())
            except BadMessage:
                continue
            if isinstance(message, Who):
                raise BusError("the broker was restarted")
            if not isinstance(message, Ack) or message.key != str(stream):
                continue
            if message.status == FULL:
                raise BusError(f"the broker's disk is full: {message.text}")
            if message.status == INVALID:
                raise _InvalidPutError(message.text)
            if message.status == DENIED:
                count = self._state_file.discard(stream)
                refused = plural(count, "event")
                log.warning("the broker refused %s on %s: %s", refused, stream, message.text)
                return None
            return message.next
        raise sockets.unreachable_error(self._address, _SILENCE_SECONDS)

    def _warn(self, text: str) -> None:
        if text != self._last_warning:
            log.warning("publications wait: %s", text)
        self._last_warning = text
