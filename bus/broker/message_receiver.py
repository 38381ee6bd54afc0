"""Receives whole messages within the limits, and discards larger ones in slices."""

from __future__ import annotations

import time
from collections.abc import Callable

import zmq

from lineside.bus import sockets
from lineside.bus.broker.connection_watch import SAMPLE_SECONDS, ConnectionWatch
from lineside.bus.protocol.messages import MAX_FRAMES, MAX_MESSAGE, Frames

# As plain integers: combining zmq's enums for each frame costs as much as receiving it.
_NOBLOCK = int(zmq.NOBLOCK)
_IDLE_SECONDS = 0.25
# Limits of one call; the loop has other work too.
_RECEIVE_MESSAGES = 2048
_RECEIVE_SECONDS = 0.002
_DISCARD_SECONDS = 0.02
_DISCARD_FRAMES = 1000  # between two looks at the clock


class MessageReceiver:
    """Receives from ``socket``, a ROUTER, whose network connections ``watch`` watches.

    libzmq hands out a message when its last frame has come, and another connection's only after
    that, so the frames beyond the limits have to be received too.
    """

    def __init__(self, socket: sockets.Socket, watch: ConnectionWatch | None) -> None:
        self._socket = socket
        self._watch = watch
        self._discarded_from: zmq.Frame | None = None  # the sender of a message being discarded
        self._last: zmq.Frame | None = None  # the frame of it received last

    @property
    def idle_seconds(self) -> float:
        """How long there may be between two calls of ``receive``."""
        return SAMPLE_SECONDS if self._watch else _IDLE_SECONDS

    def receive(self, handle: Callable[[zmq.Frame, Frames | None, float], bool]) -> None:
        """Hand a bounded number of messages to ``handle``, until it returns False.

        It gets the frame that names the sender, the message's own frames, None for a message that
        is too large, and the monotonic time.
        """
        now = time.monotonic()
        watch = self._watch
        if watch is not None:
            watch.sample(now)
        deadline, is_drained = now + _RECEIVE_SECONDS, False
        for _ in range(_RECEIVE_MESSAGES):
            try:
                sender, frames = self._receive_one()
            except zmq.Again:
                is_drained = self._discarded_from is None
                break
            if watch is not None:
                watch.mark_received(sender, frames)
            if not handle(sender, frames, now) or time.monotonic() > deadline:
                break
        if watch is not None:
            watch.check(is_drained=is_drained)

    def _receive_one(self) -> tuple[zmq.Frame, Frames | None]:
        if self._discarded_from is not None:
            return self._discard(self._discarded_from)
        recv = self._socket.recv
        # Only a frame that is not copied knows its connection's key and whether more follow.
        sender = frame = recv(_NOBLOCK, False)
        frames: Frames = []
        size = 0
        while frame.more:
            frame = recv(_NOBLOCK, False)
            size += len(frame)
            if size > MAX_MESSAGE or len(frames) == MAX_FRAMES:
                self._discarded_from, self._last = sender, frame
                return self._discard(sender)
            frames.append(frame.bytes)
        return sender, frames

    def _discard(self, sender: zmq.Frame) -> tuple[zmq.Frame, None]:
        recv, frame = self._socket.recv, self._last
        deadline = time.monotonic() + _DISCARD_SECONDS
        while time.monotonic() < deadline:
            for _ in range(_DISCARD_FRAMES):
                if frame is None or not frame.more:
                    self._discarded_from = self._last = None
                    return sender, None
                frame = recv(_NOBLOCK, False)
            self._last = frame
        raise zmq.Again
