"""The broker's clients, by connection."""

from __future__ import annotations

from dataclasses import dataclass, field

from lineside.bus.auth.roles import Principal
from lineside.bus.protocol.events import Stream

_STREAMS_MAX = 4096  # open streams of one connection; WHO answers messages of older ones


@dataclass(slots=True)
class Connection:
    """A client's connection."""

    last_seen: float
    public_key: str  # empty over ipc://
    principal: Principal | None  # None once the key is revoked
    streams: dict[Stream, None] = field(default_factory=dict)  # open ones, the newest last
    # Unowned runs whose commands it reads until another key owns them.
    provisional_runs: frozenset[str] = frozenset()

    def add_stream(self, stream: Stream) -> None:
        """Open ``stream``."""
        self.streams.pop(stream, None)
        self.streams[stream] = None
        if len(self.streams) > _STREAMS_MAX:
            del self.streams[next(iter(self.streams))]
