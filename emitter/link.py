"""The connection to the broker, seen from a producer."""

from __future__ import annotations

import logging
import math
import struct
import time
from typing import TypeAlias

import zmq

from lineside.bus import sockets
from lineside.bus.errors import BadMessage
from lineside.bus.messages import Ack, Cur, Evt, GapMessage, Sub, Who, decode
from lineside.emitter.transfer import Outgoing

Said: TypeAlias = "Ack | Who | Evt | GapMessage"

log = logging.getLogger("lineside")

_MONITOR_EVENT = struct.Struct("=hi")


class Link:
    """A DEALER to the broker at ``address`` that notices when what it sent may be lost.

    ``losses`` grows by one each time; ``heard`` is when the broker last said something (monotonic
    seconds; at first when the link was made) and ``answered`` whether it ever did; ``alarm`` is set
    when a watched descriptor became readable, which is then watched no more.

    Raises:
        AddressError: ``address`` cannot be used.
    """

    def __init__(self, address: str) -> None:
        self.losses = 0
        self.heard = time.monotonic()
        self.answered = False
        self.alarm = False
        sockets.parse(address)
        self._address = address
        self._watched: set[int] = set()
        self._context: sockets.Context = zmq.Context()
        self._open()

    def send(self, message: Outgoing | Sub | Cur) -> bool:
        """Hand ``message`` to the connection; False if there is none, or none with room, now."""
        try:
            self._socket.send_multipart(message.encode(), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, seconds: float) -> list[Said]:
        """What the broker said. Waits up to ``seconds`` for the first of it, or for a watched
        descriptor."""
        ready = dict(self._poller.poll(math.ceil(max(seconds, 0) * 1000)))
        said = self._drain() if self._socket in ready else []
        if self._monitor in ready:
            self._take_events()
        for fd in self._watched & ready.keys():
            self.unwatch(fd)
            self.alarm = True
        return said

    def watch(self, fd: int) -> None:
        """Return from ``receive`` as soon as ``fd`` is readable."""
        self._watched.add(fd)
        self._poller.register(fd, zmq.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Take no more notice of ``fd``."""
        if fd in self._watched:
            self._watched.discard(fd)
            self._poller.unregister(fd)

    def renew(self) -> None:
        """Begin with a new connection: the old one does not answer."""
        self._shut()
        self.losses += 1
        self._open()

    def close(self) -> None:
        """Close everything; what is not confirmed is not waited for."""
        self._shut()
        self._context.destroy(linger=0)

    def _open(self) -> None:
        self._socket = sockets.dealer(self._context, self._address)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._poller = zmq.Poller()
        for item in (self._socket, self._monitor, *self._watched):
            self._poller.register(item, zmq.POLLIN)

    def _shut(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)

    def _drain(self) -> list[Said]:
        said: list[Said] = []
        while True:
            try:
                message = decode(self._socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                break
            except BadMessage as error:
                log.warning("shipper: the broker sent what is no message: %s", error)
                continue
            if isinstance(message, (Ack, Who, Evt, GapMessage)):
                said.append(message)
        self.heard = time.monotonic()
        self.answered = True
        return said

    def _take_events(self) -> None:
        # libzmq has thrown away what it still held for this connection, and makes another.
        while self._monitor.poll(0):
            event, _ = _MONITOR_EVENT.unpack(self._monitor.recv_multipart()[0])
            if event == zmq.EVENT_DISCONNECTED:
                self.losses += 1
