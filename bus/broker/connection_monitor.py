"""Follows the connections of the broker's socket, and lets in no more than it may hold.

Each connection takes memory and a descriptor. Without one libzmq tries to accept a network
connection again and again, and aborts the process at a local one. It cannot stop listening without
cutting the connections that it has, so new ones are held back on their way to its listeners. Those
that come before the broker has seen that it is full take descriptors of the reserve.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import secrets
import socket as plain
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zmq

from lineside.bus import sockets
from lineside.bus.protocol.addresses import ipc_path

log = logging.getLogger("lineside")

CONNECTIONS_MAX = 8192
"""Connections that are accepted, of some 16 KiB of memory each at least."""
_NETWORK_SHARE = 0.5  # clients of the broker's own machine can always connect
_RESERVE_SHARE, _RESERVE_MAX = 0.25, 4096  # descriptors for files and for bursts of connections
_WARN_SECONDS = 60.0
_SILENT_SECONDS = 5  # for which the kernel waits for the first bytes over a connection
_FAILURES = (
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL),
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL),
)
_LISTENING, _ACCEPTED = int(zmq.EVENT_LISTENING), int(zmq.EVENT_ACCEPTED)
_DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # Linux; the socket module has no names for them
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # a program of one instruction: return 0 bytes


class ConnectionMonitor:
    """Reports connections that begin and end, and holds back new ones while there are too many.

    ``follow`` belongs between the creation of the ROUTER and its first bind.
    """

    def __init__(self, context: sockets.Context, address: str) -> None:
        self.on_closed: list[Callable[[int], object]] = []
        """Called with the descriptor of each connection that was closed."""
        self.on_network_accepted: list[Callable[[int], object]] = []
        """Called with the descriptor of each connection over the network."""
        self.on_failed_handshake: list[Callable[[], object]] = []
        """Called for each connection whose handshake failed before it sent a key."""
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._reserve = min(int(self._descriptors * _RESERVE_SHARE), _RESERVE_MAX)
        self._network_max = self._max = self._descriptors
        self._is_network: dict[int, bool] = {}  # by the descriptor of a connection
        self._network_count = 0
        self._network_gate = _NetworkGate()
        self._local_gate = _LocalGate(ipc_path(address))
        self._warned_at = float("-inf")
        self.events: sockets.Socket = context.socket(zmq.PAIR)
        """Readable when a connection began or ended."""
        # With a limit libzmq's I/O thread would wait for room, and every connection with it.
        self.events.setsockopt(zmq.RCVHWM, 0)

    def follow(self, router: sockets.Socket) -> None:
        """Follow the connections of ``router``."""
        address = f"inproc://{secrets.token_hex(8)}"
        router.monitor(address, _LISTENING | _ACCEPTED | _DISCONNECTED | sum(_FAILURES))
        self.events.connect(address)
        # What the kernel holds for the listener is accepted also after new ones are held back.
        router.setsockopt(zmq.BACKLOG, min(100, max(1, self._reserve // 2)))

    def measure_room(self) -> None:
        """Take the descriptors that are open now for those that the broker itself needs."""
        used = len(list(Path("/dev/fd").iterdir()))
        self._max = max(2, min(self._descriptors - used - self._reserve, CONNECTIONS_MAX))
        self._network_max = int(self._max * _NETWORK_SHARE)

    def handle_events(self) -> None:
        """Report what happened to connections, and hold new ones back or let them in."""
        for event, value, endpoint in self._received():
            if event == _ACCEPTED:
                self._on_accepted(value, is_network=endpoint.startswith(b"tcp:"))
            elif event == _DISCONNECTED:
                self._network_count -= self._is_network.pop(value, False)
                for on_closed in self.on_closed:
                    on_closed(value)
            elif event in _FAILURES:
                for on_failed_handshake in self.on_failed_handshake:
                    on_failed_handshake()
            elif endpoint.startswith(b"tcp:"):
                self._network_gate.listen(value)
        is_full = len(self._is_network) >= self._max
        self._local_gate.set_open(not is_full)
        self._network_gate.set_open(not is_full and self._network_count < self._network_max)
        if not (self._network_gate.is_open and self._local_gate.is_open):
            self._warn()

    def close(self) -> None:
        """Remove what holds back new connections."""
        self._local_gate.set_open(True)
        self._network_gate.close()

    def _on_accepted(self, fd: int, *, is_network: bool) -> None:
        self._is_network[fd] = is_network
        if is_network:
            self._network_count += 1
            for on_accepted in self.on_network_accepted:
                on_accepted(fd)

    def _received(self) -> Iterator[tuple[int, int, bytes]]:
        with contextlib.suppress(zmq.Again):
            while True:
                header, endpoint = self.events.recv_multipart(zmq.NOBLOCK)
                event, value = sockets.MONITOR_EVENT.unpack(header)
                yield event, value, endpoint

    def _warn(self) -> None:
        now = time.monotonic()
        if now - self._warned_at > _WARN_SECONDS:
            self._warned_at = now
            log.warning(
                "broker: %d connections are open, %d of them over the network (at most %d and %d): "
                "new ones have to wait; `ulimit -Hn` limits the files that it may open",
                len(self._is_network),
                self._network_count,
                self._max,
                self._network_max,
            )


class _NetworkGate:
    """Makes the kernel drop requests for new connections to a TCP listener; clients repeat them.

    Connections over which nothing was sent never come to the listener.
    """

    def __init__(self) -> None:
        self.is_open = True
        self._listener: plain.socket | None = None

    def listen(self, fd: int) -> None:
        self._listener = plain.socket(fileno=os.dup(fd))
        with contextlib.suppress(AttributeError, OSError):  # Linux only
            self._listener.setsockopt(plain.IPPROTO_TCP, plain.TCP_DEFER_ACCEPT, _SILENT_SECONDS)

    def set_open(self, is_open: bool) -> None:
        if self._listener is None or is_open == self.is_open:
            return
        self.is_open = is_open
        try:
            if is_open:
                self._listener.setsockopt(plain.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            else:
                program = ctypes.create_string_buffer(_DROP_ALL)
                pointer = struct.pack("HP", 1, ctypes.addressof(program))
                self._listener.setsockopt(plain.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
        except OSError as error:
            log.warning("broker: new connections cannot be held back: %s", error)

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()


class _LocalGate:
    """Moves the file of a Unix socket aside, so that clients find no broker; they try again."""

    def __init__(self, path: Path) -> None:
        self.is_open = True
        self._path, self._aside = path, path.with_name(f"{path.name}.full")

    def set_open(self, is_open: bool) -> None:
        if is_open != self.is_open:
            self.is_open = is_open
            source, target = (self._aside, self._path) if is_open else (self._path, self._aside)
            with contextlib.suppress(FileNotFoundError):
                source.rename(target)
