"""Connections of the HTTP server: time limits for their clients, and room below the descriptors.

uvicorn closes connections without a request, but waits for the rest of a request, and for a client
that does not read its response, without a limit.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 20.0
"""Time for a request from its first byte to its last; real ones are a few kilobytes."""
SEND_SECONDS = 30.0
"""Time for a client to take what was sent before more is sent."""
_OWN_DESCRIPTORS = 64  # of the store, the bus, logs and the event loop
_MAX_CONNECTIONS, _MAX_BACKLOG = 1000, 256


def connection_limits() -> tuple[int, int]:
    """The number of connections, and of those accepted at once, that the descriptors allow."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = max(soft - _OWN_DESCRIPTORS, 32) if soft >= 0 else 2 * _MAX_CONNECTIONS
    # asyncio accepts three times before it reports the first connection to its protocol.
    return min(spare // 2, _MAX_CONNECTIONS), min(spare // 6, _MAX_BACKLOG)


class BoundedConnection(H11Protocol):
    """A connection whose client must complete its requests and take the responses in time.

    At ``limit_concurrency`` connections, a new one takes the place of the one that has waited
    longest for its client. If every other is being answered, uvicorn answers with status 503.
    """

    _request_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch_request()
        limit = self.config.limit_concurrency
        if limit is not None and len(self.connections) >= limit:
            self._take_place()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_timer = self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._request_timer, self._send_timer):
            if timer is not None:
                timer.cancel()
        self._request_timer = None

    def _watch_request(self) -> None:
        """Run the request's timer exactly while the client has to send something."""
        is_waiting = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if is_waiting and self._request_timer is None:
            self._request_timer = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)
        elif not is_waiting and self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _take_place(self) -> None:
        waiting = [
            (other._request_timer.when(), id(other), other)
            for other in self.connections
            if isinstance(other, BoundedConnection)
            and other is not self
            and other._request_timer is not None
        ]
        if waiting:
            _, _, oldest = min(waiting)
            self.connections.discard(oldest)  # the transport reports its end later
            oldest.transport.abort()
