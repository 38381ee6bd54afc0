"""Cuts network connections that send more than one message may have, or than the broker can take.

libzmq keeps the frames of a message until the last one has come, however many there are, and shows
none of them before that; whole messages it keeps without limit. So this compares the bytes that
arrived on a connection with the messages that were received from it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import socket
import struct
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from lineside.bus import sockets
from lineside.bus.protocol.messages import MAX_MESSAGE, MAX_WAITING, Frames

log = logging.getLogger("lineside")

SAMPLE_SECONDS = 0.05
"""Seconds between two samples."""
# A message under way, with its framing and encryption.
_BYTES_MAX = MAX_MESSAGE + (256 << 10)
_FRAME_BYTES = 42  # framing and encryption of one frame
# What heartbeats take at most, which are no messages: one a second, 150 bytes when encrypted.
_HEARTBEAT_BYTES = 150
_BYTES_RECEIVED_AT = 128  # in Linux's struct tcp_info
_INFO_SIZE = 136


@dataclass(slots=True)
class _Connection:
    socket: socket.socket  # libzmq's own descriptor, so it is detached and never closed
    peer: object
    arrived: int = 0  # bytes that libzmq had read at the newest sample
    accounted: int = 0  # of these, those of messages that were received and of heartbeats
    received: int = 0  # bytes of messages that were received since the last check


class ConnectionWatch:
    """Watches network connections; ``on_cut`` is called with the reason for each that it cut."""

    def __init__(self, on_cut: Callable[[str], None]) -> None:
        self._on_cut = on_cut
        self._connections: dict[int, _Connection] = {}
        self._sample_at = float("-inf")
        self._sampled_at = time.monotonic()
        self._is_sampled = False

    def add(self, descriptor: int) -> None:
        """Watch a connection that was accepted."""
        self.drop(descriptor)
        with contextlib.suppress(OSError):  # closed already
            connection = socket.socket(fileno=descriptor)
            try:
                self._connections[descriptor] = _Connection(connection, connection.getpeername())
            except OSError:
                connection.detach()

    def drop(self, descriptor: int) -> None:
        """Let go of a connection, which is closed or cut."""
        connection = self._connections.pop(descriptor, None)
        if connection is not None:
            connection.socket.detach()

    def sample(self, now: float) -> None:
        """Note what has arrived, if it is time; called before messages are received."""
        if now < self._sample_at:
            return
        heartbeats = int((now - self._sampled_at) * _HEARTBEAT_BYTES)
        if heartbeats:
            self._sampled_at = now
        self._sample_at = now + SAMPLE_SECONDS
        for descriptor, connection in list(self._connections.items()):
            try:
                connection.arrived = _bytes_read(connection.socket)
                connection.accounted = min(connection.accounted + heartbeats, connection.arrived)
            except OSError:  # closed, and its event is still to come
                self.drop(descriptor)
        self._is_sampled = True

    def mark_received(self, sender: zmq.Frame, frames: Frames | None) -> None:
        """A whole message of the connection that ``sender`` came from was received.

        ``frames`` is None for one that is too large.
        """
        connection = self._connections.get(sockets.source_descriptor(sender))
        if connection is not None:
            connection.received += (
                MAX_MESSAGE
                if frames is None
                else sum(map(len, frames)) + len(frames) * _FRAME_BYTES
            )

    def check(self, *, is_drained: bool) -> None:
        """Cut connections; ``is_drained``: every message that had come before was received."""
        if not self._is_sampled:
            return
        self._is_sampled = False
        # While the broker lags behind, whole messages wait too.
        most, why = (
            (_BYTES_MAX, f"a message of more than {MAX_MESSAGE} bytes")
            if is_drained
            else (MAX_WAITING, f"more than {MAX_WAITING} bytes that wait for the broker")
        )
        for descriptor, connection in list(self._connections.items()):
            received, connection.received = connection.received, 0
            if received and is_drained:
                connection.accounted = connection.arrived
                continue
            connection.accounted += received
            if connection.arrived - connection.accounted > most:
                self._cut(descriptor, connection, why)

    def close(self) -> None:
        """Let go of the connections, which libzmq closes."""
        for descriptor in list(self._connections):
            self.drop(descriptor)

    def _cut(self, descriptor: int, connection: _Connection, why: str) -> None:
        with contextlib.suppress(OSError):
            # The number may be another connection's by now.
            if connection.socket.getpeername() == connection.peer:
                connection.socket.shutdown(socket.SHUT_RDWR)
                self._on_cut(f"{why}: the connection is cut")
        self.drop(descriptor)


def _bytes_read(connection: socket.socket) -> int:
    """How many bytes were read from a connection; 0 where the system does not count them."""
    info_option = getattr(socket, "TCP_INFO", None)
    if info_option is None:
        return 0
    info = connection.getsockopt(socket.IPPROTO_TCP, info_option, _INFO_SIZE)
    if len(info) < _INFO_SIZE:
        return 0
    (arrived,) = struct.unpack_from("=Q", info, _BYTES_RECEIVED_AT)
    (unread,) = struct.unpack("=i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))
    return int(arrived) - int(unread)
