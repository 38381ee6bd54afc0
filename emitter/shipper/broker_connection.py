"""The shipper's connection to the broker."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import TypeAlias

import zmq

from lineside.bus import sockets
from lineside.bus.errors import BadMessage, LinesideError
from lineside.bus.protocol import addresses
from lineside.bus.protocol.messages import Ack, Cur, Evt, GapMessage, Sub, Who, decode
from lineside.emitter.shipper.stream_sender import Outgoing

Incoming: TypeAlias = "Ack | Who | Evt | GapMessage"

log = logging.getLogger("lineside")

_KEY_CHECK_SECONDS = 5.0  # between attempts with a key that was refused or replaced


class BrokerConnection:
    """A DEALER to the broker at ``address`` that notices when sent messages may be lost.

    ``disconnects`` counts lost connections. ``last_received`` is when the last message arrived
    (monotonic seconds; at first when this object was made), ``has_answered`` whether any did.
    ``fd_ready`` is set when a watched descriptor became readable; it is then no longer watched.
    ``refusal`` is the broker's reason for refusing the key, empty if it accepts it or does not run.
    A changed key file is used within seconds.

    Raises:
        AddressError: ``address`` cannot be used.
        SettingsError: the key in it cannot be used.
    """

    def __init__(self, address: str) -> None:
        self.disconnects = 0
        self.last_received = time.monotonic()
        self.has_answered = False
        self.fd_ready = False
        self.refusal = ""
        self._address = address
        self._key = addresses.parse(address).key
        self._key_version: tuple[int, int] | None = None
        self._check_key_at = math.inf
        self._watched_fds: set[int] = set()
        self._context: sockets.Context = zmq.Context()
        try:
            self._open(sockets.dealer(self._context, address))
        except BaseException:
            self._context.term()
            raise

    def send(self, message: Outgoing | Sub | Cur) -> bool:
        """Send ``message`` without waiting; False if there is no connection or no room."""
        try:
            self._socket.send_multipart(message.encode(), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, seconds: float) -> list[Incoming]:
        """The messages that arrived; waits ``seconds`` at most for one or a watched descriptor."""
        if time.monotonic() >= self._check_key_at:
            self._check_key()
        ready = dict(self._poller.poll(math.ceil(max(seconds, 0) * 1000)))
        received = self._drain() if self._socket in ready else []
        if self._monitor in ready:
            self._read_monitor()
        for fd in self._watched_fds & ready.keys():
            self.unwatch_fd(fd)
            self.fd_ready = True
        return received

    def watch_fd(self, fd: int) -> None:
        """Return from ``receive`` as soon as ``fd`` is readable."""
        self._watched_fds.add(fd)
        self._poller.register(fd, zmq.POLLIN)

    def unwatch_fd(self, fd: int) -> None:
        """Stop watching ``fd``."""
        if fd in self._watched_fds:
            self._watched_fds.discard(fd)
            self._poller.unregister(fd)

    def reconnect(self) -> None:
        """Replace a connection that does not answer."""
        try:
            socket = sockets.dealer(self._context, self._address)
        except LinesideError as error:  # the key file is gone or damaged
            self._on_refusal(str(error))
            return
        self._close_socket()
        self.disconnects += 1
        self._open(socket)

    def close(self) -> None:
        """Close everything without waiting for confirmations."""
        self._close_socket()
        self._context.destroy(linger=0)

    def _open(self, socket: sockets.Socket) -> None:
        self._socket = socket
        wanted = int(zmq.EVENT_DISCONNECTED)
        if self._key is not None:
            wanted |= sockets.HANDSHAKE_EVENTS
            self._key_version = _file_version(self._key)
            self._check_key_at = time.monotonic() + _KEY_CHECK_SECONDS
        self._monitor = socket.get_monitor_socket(wanted)
        self._poller = zmq.Poller()
        for item in (self._socket, self._monitor, *self._watched_fds):
            self._poller.register(item, zmq.POLLIN)

    def _close_socket(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    def _drain(self) -> list[Incoming]:
        received: list[Incoming] = []
        while True:
            try:
                message = decode(self._socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                break
            except BadMessage as error:
                log.warning("shipper: the broker sent an invalid message: %s", error)
                continue
            if isinstance(message, (Ack, Who, Evt, GapMessage)):
                received.append(message)
        self.last_received = time.monotonic()
        self.has_answered = True
        return received

    def _read_monitor(self) -> None:
        # On a disconnect libzmq drops unsent messages and connects again by itself.
        while self._monitor.poll(0):
            received = self._monitor.recv_multipart()[0]
            event, _ = sockets.MONITOR_EVENT.unpack(received)
            if event == zmq.EVENT_DISCONNECTED:
                self.disconnects += 1
            elif why := sockets.handshake_error(received):
                self._on_refusal(why)
            elif self.refusal:
                self.refusal = ""
                log.info("shipper: %s accepts the key now", self._address)

    def _on_refusal(self, why: str) -> None:
        if why != self.refusal:
            self.refusal = why
            log.error(
                "shipper: %s refuses the key: %s; events stay in the spool and are sent once "
                "LINESIDE_KEY names a file with a valid key",
                self._address,
                why,
            )

    def _check_key(self) -> None:
        """Connect again with a key that was refused or replaced; libzmq does not do so itself."""
        self._check_key_at = time.monotonic() + _KEY_CHECK_SECONDS
        if self.refusal or (self._key and _file_version(self._key) != self._key_version):
            self.reconnect()


def _file_version(key: Path) -> tuple[int, int] | None:
    try:
        found = key.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
