"""Cuts network connections that send more than one message may have.

libzmq keeps the frames of a message until the last one has come, however many there are, and shows
none of them before that. So this compares the bytes that arrived on a connection with the messages
that were received from it.
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
from lineside.bus.protocol.messages import MAX_MESSAGE

log = logging.getLogger("lineside")

SAMPLE_SECONDS = 0.05
"""Seconds between two samples."""
# A message under way, with its framing and encryption.
_BYTES_MAX = MAX_MESSAGE + (256 << 10)
# While the broker lags behind, whole messages wait too.
_LAGGING_BYTES_MAX = (sockets.RECEIVED_MAX + 1) * _BYTES_MAX
# What heartbeats take at most, which are no messages: one a second, 150 bytes when encrypted.
_HEARTBEAT_BYTES = 150
_BYTES_RECEIVED_AT = 128  # in Linux's struct tcp_info
_INFO_SIZE = 136


@dataclass(slots=True)
class _Connection:
    socket: socket.socket  # libzmq's own descriptor, so it is detached and never closed
    peer: object
    arrived: int = 0  # bytes that libzmq had read at the newest sample
    arrived_before: int = 0  # the same when the last message was received, and heartbeats since
    has_received: bool = False  # a message, since the last check


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
                connection.arrived_before = min(
                    connection.arrived_before + heartbeats, connection.arrived
                )
            except OSError:  # closed, and its event is still to come
                self.drop(descriptor)
        self._is_sampled = True

    def mark_received(self, sender: zmq.Frame) -> None:
        """A whole message of the connection that ``sender`` came from was received."""
        connection = self._connections.get(sockets.source_descriptor(sender))
        if connection is not None:
            connection.has_received = True

    def check(self, *, is_drained: bool) -> None:
        """Cut connections; ``is_drained``: every message that had come before was received."""
        if not self._is_sampled:
            return
        self._is_sampled = False
        most = _BYTES_MAX if is_drained else _LAGGING_BYTES_MAX
        for descriptor, connection in list(self._connections.items()):
            if connection.has_received:
                connection.has_received = False
                connection.arrived_before = connection.arrived
            elif connection.arrived - connection.arrived_before > most:
                self._cut(descriptor, connection)

    def close(self) -> None:
        """Let go of the connections, which libzmq closes."""
        for descriptor in list(self._connections):
            self.drop(descriptor)

    def _cut(self, descriptor: int, connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            # The number may be another connection's by now.
            if connection.socket.getpeername() == connection.peer:
                connection.socket.shutdown(socket.SHUT_RDWR)
                self._on_cut(f"a message of more than {MAX_MESSAGE} bytes: the connection is cut")
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
