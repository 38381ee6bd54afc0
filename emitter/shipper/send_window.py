"""Sends many streams through one window, and passes the answers to them."""

from __future__ import annotations

import logging
import time
from collections import deque

from lineside.bus.protocol.messages import Evt, GapMessage, Hi, Put, Who
from lineside.emitter.shipper.broker_connection import BrokerConnection
from lineside.emitter.shipper.stream_registry import StreamRegistry
from lineside.emitter.shipper.stream_sender import Outgoing, StreamSender

log = logging.getLogger("lineside")

WINDOW_MESSAGES = 64
WINDOW_BYTES = 4 << 20
SILENCE_SECONDS = 3.0


class SendWindow:
    """Sends the streams of ``stream_registry`` over ``broker_connection``.

    At most ``WINDOW_MESSAGES`` are unconfirmed, of about ``WINDOW_BYTES`` together. If an answer is
    missing for ``SILENCE_SECONDS``, it connects again and sends every unconfirmed event again.
    """

    def __init__(
        self, broker_connection: BrokerConnection, stream_registry: StreamRegistry
    ) -> None:
        self._broker_connection = broker_connection
        self._stream_registry = stream_registry
        self._disconnects = broker_connection.disconnects
        self._rotation = 0
        self._waiting_since: float | None = None

    def send(self, now: float) -> int:
        """Send as much as the window and the connection take; the number of events.

        A HI counts as two events, so that the shipper looks for its answer soon.
        """
        self._stream_registry.command_delivery.poll(now)
        waiting = deque(self._stream_registry)
        self._rotation += 1  # or one stream would fill the window every time
        waiting.rotate(-self._rotation)
        messages, size = self._in_flight()
        events = 0
        while waiting and messages < WINDOW_MESSAGES and size < WINDOW_BYTES:
            stream_sender = waiting.popleft()
            message = _next_message(stream_sender, now)
            if message is None:
                continue
            if not self._broker_connection.send(message):
                stream_sender.not_sent(message)
                break
            stream_sender.sent(message)
            waiting.append(stream_sender)
            if isinstance(message, Hi):
                events += 2
                continue
            messages += 1
            if isinstance(message, Put):
                events += message.count
                size += len(message.blob)
        return events

    def receive(self, seconds: float) -> None:
        """Handle the broker's answers, waiting up to ``seconds`` for the first."""
        command_delivery = self._stream_registry.command_delivery
        for received in self._broker_connection.receive(seconds):
            if isinstance(received, (Evt, GapMessage)):
                command_delivery.on_delivery(received)
            elif isinstance(received, Who):
                # A broker that has forgotten the producer has forgotten the reader too.
                command_delivery.on_who()
                stream_sender = self._stream_registry[received.stream]
                if stream_sender is not None:
                    stream_sender.on_who()
            elif not received.key:
                command_delivery.on_ack(received)
            else:
                stream_sender = self._stream_registry[received.key]
                if stream_sender is not None:  # else the stream was dropped meanwhile
                    stream_sender.on_ack(received, time.monotonic())
        self._check_silence(time.monotonic())
        if self._disconnects != self._broker_connection.disconnects:
            self._disconnects = self._broker_connection.disconnects
            self._waiting_since = None
            command_delivery.on_who()
            for stream_sender in self._stream_registry:
                stream_sender.on_disconnect()

    @property
    def is_full(self) -> bool:
        """Whether only an answer makes room to send more."""
        messages, size = self._in_flight()
        return messages >= WINDOW_MESSAGES or size >= WINDOW_BYTES

    @property
    def outstanding(self) -> bool:
        """Whether the broker owes an answer."""
        return any(stream_sender.outstanding for stream_sender in self._stream_registry)

    def _check_silence(self, now: float) -> None:
        if not self.outstanding:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        elif (
            now - max(self._waiting_since, self._broker_connection.last_received) >= SILENCE_SECONDS
        ):
            log.warning("shipper: no answer for %g s, connecting again", SILENCE_SECONDS)
            self._broker_connection.reconnect()

    def _in_flight(self) -> tuple[int, int]:
        counts = [stream_sender.in_flight for stream_sender in self._stream_registry]
        return sum(messages for messages, _ in counts), sum(size for _, size in counts)


def _next_message(stream_sender: StreamSender, now: float) -> Outgoing | None:
    try:
        return stream_sender.next(now)
    except Exception:
        # A failure in one folder must not stop the other streams.
        log.exception("%s: cannot be read", stream_sender.stream)
        stream_sender.back_off(now)
        return None
