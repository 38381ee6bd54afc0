"""What the broker does once a second, and what it has to say of itself on its own stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

from lineside.bus.auth.refusal_log import RefusalLog
from lineside.bus.broker.append_buffer import AppendBuffer
from lineside.bus.broker.retention import Retention
from lineside.bus.protocol.event_kinds import REFUSED
from lineside.bus.protocol.events import AUDIT, Stream, new_attempt
from lineside.bus.protocol.wire import Encoder

log = logging.getLogger("lineside")

_REFUSED_SECONDS = 10.0  # between two events about refused messages
_CURSOR_CHECK_SECONDS = 60.0


class Maintenance:
    """Puts the broker's own events among what is to be committed, and says what is to expire.

    They go on the stream ``_bus/broker/<attempt>``: ``expired`` (``first``, ``end`` as offsets,
    ``records``, ``bytes``, and ``readers``, the durable ones that had not had everything) and
    ``refused`` (``count`` of refused messages since the broker started, and the last reason). Who
    was not allowed what goes on ``audit/broker/<attempt>``, from ``refusal_log``.
    """

    def __init__(self, buffer: AppendBuffer, retention: Retention) -> None:
        self._buffer = buffer
        self._retention = retention
        attempt = new_attempt()
        self._stream = Stream("_bus", "broker", attempt)
        self._audit_stream = Stream(AUDIT, "broker", attempt)
        self.refusal_log = RefusalLog()
        self._encoder = Encoder()
        self._rejected = 0
        self._rejected_reported = 0
        self._last_reason = ""
        self._reported_at = float("-inf")
        self._cursors_checked_at = float("-inf")

    def count_rejected(self, why: str) -> None:
        """Count a refused message."""
        self._rejected += 1
        self._last_reason = why
        if self._rejected - self._rejected_reported < 10:
            log.warning("broker: refused a message: %s", why)

    def maintain(self, connected: Collection[str]) -> int:
        """Take what is to be said; the offset before which entries are to be deleted."""
        now = time.monotonic()
        if self._rejected > self._rejected_reported and now - self._reported_at >= _REFUSED_SECONDS:
            self._rejected_reported, self._reported_at = self._rejected, now
            counts = {"count": self._rejected, "last": self._last_reason}
            self._publish(self._stream, "refused", counts)
        if now - self._cursors_checked_at >= _CURSOR_CHECK_SECONDS:
            self._cursors_checked_at = now
            for name in self._retention.forget_idle_readers(time.time(), connected):
                log.warning("broker: the reader %r was not here for too long, forgotten", name)
        self._retention.release_space()
        expiry = self._retention.next_expiry(time.time())
        if expiry is None:
            return 0
        if expiry.readers:
            log.warning(
                "broker: entries %d to %d expired before %s had them",
                expiry.first,
                expiry.end - 1,
                ", ".join(expiry.readers),
            )
        self._publish(
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

    def publish_refusals(self, now: float) -> None:
        """Take what is to be said, at ``now`` in monotonic seconds, of who was not allowed what."""
        for data in self.refusal_log.take_due(now):
            log.warning("broker: refused %(who)s to %(action)s %(target)s: %(why)s", data)
            self._publish(self._audit_stream, REFUSED, data)

    def _publish(self, stream: Stream, kind: str, data: dict[str, Any]) -> None:
        def encode(seq: int) -> bytes:
            return self._encoder.encode(
                seq, time.time(), time.monotonic_ns(), kind, 0, None, 0, data
            )

        self._buffer.append_own(stream, encode)
