"""The broker's work of once a second: retention, and the events that it publishes itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

from lineside.bus.auth.refusal_log import RefusalLog
from lineside.bus.broker.storage.append_buffer import AppendBuffer
from lineside.bus.broker.storage.retention import Retention
from lineside.bus.protocol.event_kinds import REFUSED
from lineside.bus.protocol.events import AUDIT, Stream, new_attempt
from lineside.bus.protocol.wire import Encoder

log = logging.getLogger("lineside")

_CURSOR_CHECK_SECONDS = 60.0


class Maintenance:
    """Appends the broker's own events to the buffer, and decides which entries expire.

    ``expired`` goes to the stream ``_bus/broker/<attempt>``, and ``refused``, from ``refusal_log``,
    to ``audit/broker/<attempt>``. PROTOCOL.md lists their data.
    """

    def __init__(self, buffer: AppendBuffer, retention: Retention) -> None:
        self._buffer = buffer
        self._retention = retention
        attempt = new_attempt()
        self._stream = Stream("_bus", "broker", attempt)
        self._audit_stream = Stream(AUDIT, "broker", attempt)
        self.refusal_log = RefusalLog()
        self._encoder = Encoder()
        self._cursors_checked_at = float("-inf")

    def maintain(self, connected: Collection[str]) -> int:
        """Forget idle readers and release space; the offset before which entries are to expire."""
        now = time.monotonic()
        if now - self._cursors_checked_at >= _CURSOR_CHECK_SECONDS:
            self._cursors_checked_at = now
            for name in self._retention.forget_idle_readers(time.time(), connected):
                log.warning("broker: the reader %r was away for too long and is forgotten", name)
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
        """Publish the refusals that are due at ``now``, in monotonic seconds."""
        for data in self.refusal_log.take_due(now):
            who, target = data["who"] or "a client", data["target"]
            log.warning(
                "broker: refused %s by %s (%s): %s", data["action"], who, target, data["why"]
            )
            self._publish(self._audit_stream, REFUSED, data)

    def _publish(self, stream: Stream, kind: str, data: dict[str, Any]) -> None:
        def encode(seq: int) -> bytes:
            return self._encoder.encode(
                seq, time.time(), time.monotonic_ns(), kind, 0, None, 0, data
            )

        self._buffer.append_own(stream, encode)
