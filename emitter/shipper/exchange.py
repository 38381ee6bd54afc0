"""What goes out over the link and what comes back: many streams, one window, each in its turn."""

from __future__ import annotations

import logging
import time
from collections import deque

from lineside.bus.protocol.messages import Evt, GapMessage, Hi, Put, Who
from lineside.emitter.shipper.charges import Charges
from lineside.emitter.shipper.link import Link
from lineside.emitter.shipper.transfer import Outgoing, Transfer

log = logging.getLogger("lineside")

WINDOW_MESSAGES = 64
WINDOW_BYTES = 4 << 20
SILENCE_SECONDS = 3.0


class Exchange:
    """Sends what ``charges`` have over ``link`` and gives them the answers.

    At most ``WINDOW_MESSAGES`` of at most ``WINDOW_BYTES`` together are on their way. A broker that
    owes an answer for ``SILENCE_SECONDS`` gets a new connection, and everything unconfirmed again.
    """

    def __init__(self, link: Link, charges: Charges) -> None:
        self._link = link
        self._charges = charges
        self._losses = link.losses
        self._first = 0
        self._owed_since: float | None = None

    def send(self, now: float) -> int:
        """Send what the window and the connection take; how many events that were.

        A greeting counts as two: more than one, so that the answer to it finds us awake.
        """
        self._charges.orders.turn(now)
        waiting = deque(self._charges)
        self._first += 1  # so that a full window is not always filled by the same stream
        waiting.rotate(-self._first)
        messages, size = self._in_flight()
        events = 0
        while waiting and messages < WINDOW_MESSAGES and size < WINDOW_BYTES:
            transfer = waiting.popleft()
            message = _next(transfer, now)
            if message is None:
                continue
            if not self._link.send(message):
                transfer.not_sent(message)
                break
            transfer.sent(message)
            waiting.append(transfer)
            if isinstance(message, Hi):
                events += 2
                continue
            messages += 1
            if isinstance(message, Put):
                events += message.count
                size += len(message.blob)
        return events

    def hear(self, seconds: float) -> None:
        """Take the broker's answers, waiting up to ``seconds`` for the first of them."""
        orders = self._charges.orders
        for said in self._link.receive(seconds):
            if isinstance(said, (Evt, GapMessage)):
                orders.on_delivery(said)
            elif isinstance(said, Who):
                # Whoever was forgotten as a producer was forgotten as a reader too.
                orders.on_who()
                transfer = self._charges[said.stream]
                if transfer is not None:
                    transfer.on_who()
            elif not said.key:
                orders.on_ack(said)
            else:
                transfer = self._charges[said.key]
                if transfer is not None:  # else of a stream that was let go meanwhile
                    transfer.on_ack(said, time.monotonic())
        self._mind_silence(time.monotonic())
        if self._losses != self._link.losses:
            self._losses = self._link.losses
            self._owed_since = None
            orders.on_who()
            for transfer in self._charges:
                transfer.lost()

    @property
    def is_full(self) -> bool:
        """Whether only an answer makes room to send more."""
        messages, size = self._in_flight()
        return messages >= WINDOW_MESSAGES or size >= WINDOW_BYTES

    @property
    def outstanding(self) -> bool:
        """Whether the broker owes an answer."""
        return any(transfer.outstanding for transfer in self._charges)

    def _mind_silence(self, now: float) -> None:
        if not self.outstanding:
            self._owed_since = None
        elif self._owed_since is None:
            self._owed_since = now
        elif now - max(self._owed_since, self._link.heard) >= SILENCE_SECONDS:
            log.warning("shipper: no answer for %g s, connecting again", SILENCE_SECONDS)
            self._link.renew()

    def _in_flight(self) -> tuple[int, int]:
        counts = [transfer.in_flight for transfer in self._charges]
        return sum(messages for messages, _ in counts), sum(size for _, size in counts)


def _next(transfer: Transfer, now: float) -> Outgoing | None:
    try:
        return transfer.next(now)
    except Exception:
        # Whatever lies in one folder, the other streams go on.
        log.exception("%s: cannot be read", transfer.stream)
        transfer.hold(now)
        return None
