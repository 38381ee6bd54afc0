"""What the broker does once a second, and what it has to say of itself on its own stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

from lineside.bus.auth.audit import Refusals
from lineside.bus.broker.intake import Intake
from lineside.bus.broker.retention import Retention
from lineside.bus.protocol.events import AUDIT, REFUSED, Stream, new_attempt
from lineside.bus.protocol.wire import Encoder

log = logging.getLogger("lineside")

_REFUSED_SECONDS = 10.0  # between two events about refused messages
_FORGET_SECONDS = 60.0


class Housekeeping:
    """Puts the broker's own events among what is to be committed, and says what is to expire.

    They go on the stream ``_bus/broker/<attempt>``: ``expired`` (``first``, ``end`` as offsets,
    ``records``, ``bytes``, and ``readers``, the durable ones that had not had everything) and
    ``refused`` (``count`` of refused messages since the broker started, and the last reason). Who
    was not allowed what goes on ``audit/broker/<attempt>``, from ``refusals``.
    """

    def __init__(self, intake: Intake, retention: Retention) -> None:
        self._intake = intake
        self._retention = retention
        attempt = new_attempt()
        self._stream = Stream("_bus", "broker", attempt)
        self._audit = Stream(AUDIT, "broker", attempt)
        self.refusals = Refusals()
        self._encoder = Encoder()
        self._refused = 0
        self._told = 0
        self._why = ""
        self._told_at = float("-inf")
        self._forgot_at = float("-inf")

    def refused(self, why: str) -> None:
        """Count a refused message."""
        self._refused += 1
        self._why = why
        if self._refused - self._told < 10:
            log.warning("broker: refused a message: %s", why)

    def turn(self, connected: Collection[str]) -> int:
        """Take what is to be said; the offset before which entries are to be deleted."""
        now = time.monotonic()
        if self._refused > self._told and now - self._told_at >= _REFUSED_SECONDS:
            self._told, self._told_at = self._refused, now
            said = {"count": self._refused, "last": self._why}
            self._say(self._stream, "refused", said)
        if now - self._forgot_at >= _FORGET_SECONDS:
            self._forgot_at = now
            for name in self._retention.forgotten(time.time(), connected):
                log.warning("broker: the reader %r was not here for too long, forgotten", name)
        self._retention.give_back()
        expiry = self._retention.due(time.time())
        if expiry is None:
            return 0
        if expiry.readers:
            log.warning(
                "broker: entries %d to %d expired before %s had them",
                expiry.first,
                expiry.end - 1,
                ", ".join(expiry.readers),
            )
        self._say(
            self._stream,
            "expired",
            {
                "first": expiry.first,
                "end": expiry.end,
                "records": expiry.records,
                "bytes": expiry.size,
                "readers": list(expiry.readers),
            },
        )
        return expiry.end

    def audit(self, now: float) -> None:
        """Take what is to be said, at ``now`` in monotonic seconds, of who was not allowed what."""
        for data in self.refusals.due(now):
            log.warning("broker: refused %(who)s to %(action)s %(target)s: %(why)s", data)
            self._say(self._audit, REFUSED, data)

    def _say(self, stream: Stream, kind: str, data: dict[str, Any]) -> None:
        def encode(seq: int) -> bytes:
            return self._encoder.encode(
                seq, time.time(), time.monotonic_ns(), kind, 0, None, 0, data
            )

        self._intake.own(stream, encode)
