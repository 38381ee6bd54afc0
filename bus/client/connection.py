"""The connection of a client to the broker: one DEALER, replaced when it stays silent."""

from __future__ import annotations

import time

import zmq

from lineside.bus import sockets
from lineside.bus.protocol.messages import Frames


class Connection:
    """A DEALER socket to the broker at ``address``. Belongs to one thread.

    Raises:
        AddressError: the address cannot be used.
        SettingsError: its key cannot be used.
    """

    def __init__(self, address: str, silence_seconds: float) -> None:
        self.address = address
        self.silence_seconds = silence_seconds
        self.waiting_since: float | None = time.monotonic()
        """Since when an answer is awaited, in monotonic seconds; None if none is."""
        self._context: sockets.Context = zmq.Context()
        try:
            self._socket = sockets.dealer(self._context, address)
        except BaseException:
            self._context.term()
            raise

    @property
    def is_silent(self) -> bool:
        """Whether an answer is overdue by more than ``silence_seconds``."""
        since = self.waiting_since
        return since is not None and time.monotonic() - since > self.silence_seconds

    def send(self, frames: Frames) -> bool:
        """Send a message that has an answer; False if the connection takes none now."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        if self.waiting_since is None:
            self.waiting_since = time.monotonic()
        return True

    def receive(self, timeout: float, *, until_writable: bool = False) -> Frames | None:
        """The next message; None if none comes within ``timeout`` seconds.

        With ``until_writable`` it also returns once the connection takes messages.
        """
        flags = zmq.POLLIN | zmq.POLLOUT if until_writable else zmq.POLLIN
        if not self._socket.poll(int(timeout * 1000), flags) & zmq.POLLIN:
            return None
        self.waiting_since = None
        return self._socket.recv_multipart()

    def reconnect(self) -> None:
        """Replace the socket by a new one. The old one stays if that fails."""
        old_socket, self._socket = self._socket, sockets.dealer(self._context, self.address)
        self.waiting_since = time.monotonic()
        old_socket.close()

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()
        self._context.term()
