"""A network between two processes of one machine, for tests, that can be cut and lose bytes."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from pathlib import Path


class FaultyProxy:
    """A Unix socket in front of another that can be cut and restored: a network for tests.

    Clients connect to ``address``; it forwards to ``target`` (both ``ipc://``). ``cut`` closes
    every connection and refuses new ones. ``swallow`` keeps them open and loses every byte, as a
    network that drops packets. ``restore`` undoes both. It stops with its context.
    """

    def __init__(self, path: Path, target: str) -> None:
        self.address = f"ipc://{path}"
        self._path = path
        self._target = target.removeprefix("ipc://")
        self._lock = threading.Lock()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._swallowed: set[socket.socket] = set()
        self._is_swallowing = False
        self._listener: socket.socket | None = None
        self._wake_sender, self._wake_receiver = socket.socketpair()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="faulty-proxy", daemon=True)

    def __enter__(self) -> FaultyProxy:
        self.restore()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._ended = True
        self._wake_sender.send(b"x")
        self._thread.join()
        self._wake_sender.close()
        self._wake_receiver.close()

    def cut(self) -> None:
        """Close every connection and refuse new ones."""
        with self._lock:
            if self._listener is not None:
                self._listener.close()
                self._listener = None
                self._path.unlink()
            for end in list(self._pairs):
                self._drop(end)
        self._wake_sender.send(b"x")

    def swallow(self) -> None:
        """Keep what is connected, accept what connects, and lose every byte both ways."""
        with self._lock:
            self._is_swallowing = True
            self._swallowed.update(self._pairs)

    def restore(self) -> None:
        """Forward again. A connection that lost bytes stays dead, as one over a network would."""
        with self._lock:
            self._is_swallowing = False
            if self._listener is None:
                self._listener = socket.socket(socket.AF_UNIX)
                self._listener.bind(str(self._path))
                self._listener.listen()
        self._wake_sender.send(b"x")

    def _run(self) -> None:
        while not self._ended:
            with self._lock:
                ends = [self._wake_receiver, *self._pairs]
                if self._listener is not None:
                    ends.append(self._listener)
            with contextlib.suppress(OSError, ValueError):
                # A cut from another thread closes sockets during this call; the next one is right.
                for ready in select.select(ends, [], [], 1.0)[0]:
                    self._on_ready(ready)

    def _on_ready(self, ready: socket.socket) -> None:
        if ready is self._wake_receiver:
            ready.recv(4096)
            return
        with self._lock:
            if ready is self._listener:
                self._accept(ready)
            elif ready in self._pairs:
                self._forward(ready)

    def _accept(self, listener: socket.socket) -> None:
        near, _ = listener.accept()
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(self._target)
        except OSError:
            near.close()
            far.close()
            return
        self._pairs[near], self._pairs[far] = far, near
        if self._is_swallowing:
            self._swallowed |= {near, far}

    def _forward(self, source: socket.socket) -> None:
        try:
            data = source.recv(1 << 16)
            if data and source not in self._swallowed:
                self._pairs[source].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._drop(source)

    def _drop(self, end: socket.socket) -> None:
        other = self._pairs.pop(end, None)
        if other is not None:
            self._pairs.pop(other, None)
            self._swallowed -= {end, other}
            other.close()
        end.close()
