"""Compares the notes of a producer with journal and store: each event once, in order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import zmq

from lineside.bus import sockets
from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS, STEP_KINDS
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.protocol.messages import START, Ack, Cur, Evt, GapMessage, Sub, decode
from lineside.bus.protocol.wire import decode_event, record_bodies
from lineside.store.history.history import History
from lineside.store.history.records import EventRow

NotedEvent = tuple[str, int]
"""A kind and a step, as a producer notes an event."""


@dataclass
class Journaled:
    """One stream as the journal holds it, with overlaps."""

    events: list[Event] = field(default_factory=list)
    missing: set[int] = field(default_factory=set)
    next: int = 0
    twice: int = 0

    def add(self, message: Evt | GapMessage) -> None:
        """Add the next entry of this stream."""
        first = message.first_seq if isinstance(message, Evt) else message.first
        end = first + message.count if isinstance(message, Evt) else message.end
        assert first <= self.next, f"a hole without a gap: {self.next} to {first}"
        self.twice += max(0, min(self.next, end) - first)
        found = []
        if isinstance(message, Evt):
            found = [decode_event(body) for body in record_bodies(message.blob)]
            self.events += found
        self.missing |= set(range(max(first, self.next), end)) - {event.seq for event in found}
        self.next = max(self.next, end)


Journal = dict[Stream, Journaled]


def entries(address: str, timeout: float = 20.0) -> Iterator[Evt | GapMessage]:
    """The whole journal, read without the reading client, which would hide a repeat.

    Raises:
        TimeoutError: the broker did not deliver it within ``timeout`` seconds.
    """
    context: sockets.Context = zmq.Context()
    socket = sockets.dealer(context, address)
    socket.setsockopt(zmq.SNDTIMEO, int(timeout * 1000))
    try:
        socket.send_multipart(Sub("", START, 0, (), 64).encode())
        until = time.monotonic() + timeout
        head, offset = None, 0
        while head is None or offset < head:
            if not socket.poll(max(0, int((until - time.monotonic()) * 1000))):
                raise TimeoutError(f"the journal was read up to {offset} of {head}")
            message = decode(socket.recv_multipart())
            if isinstance(message, Ack) and head is None:
                head = message.head
            elif isinstance(message, (Evt, GapMessage)):
                yield message
                offset = message.offset
                socket.send_multipart(Cur(0, 1).encode())
    finally:
        socket.close(linger=0)
        context.term()


def journal(address: str) -> Journal:
    """Every stream in the journal."""
    found: dict[Stream, Journaled] = {}
    for message in entries(address):
        if message.stream is not None:
            found.setdefault(message.stream, Journaled()).add(message)
    return found


def rows(history: History, run: str, kinds: Sequence[str] | None = None) -> list[EventRow]:
    """Every event row of rank 0's streams, in the order they were recorded."""
    found: list[EventRow] = []
    after = 0
    while True:
        page = history.events(run, after=after, kinds=kinds, limit=1000)
        found += [row for row in page.items if row.producer == "rank0"]
        if page.next is None:
            return found
        after = int(page.next)


@dataclass(frozen=True)
class AccountCheck:
    """One run's account: events noted by its producer, found in the store, and the difference."""

    noted: int
    recorded: int
    gaps: int
    lost: int
    twice: int
    surplus: int
    in_order: bool

    def is_exact(self, *, torn: bool = False) -> bool:
        """Whether exactly the noted events are recorded, once and in order.

        ``torn``: the producer was killed, so one more event may be recorded than was noted.
        """
        clean = not (self.lost or self.twice or self.gaps) and self.in_order
        return clean and self.surplus <= torn


def is_recorded(history: History, journaled: Journal, run: str) -> bool:
    """Whether the store holds exactly the events that the journal has of ``run``."""
    streams = {s: j for s, j in journaled.items() if s.run == run}
    known = {(s.producer, s.attempt): s for s in history.streams(run)}
    for stream, found in streams.items():
        account = known.get((stream.producer, stream.attempt))
        if account is None or account.lag or account.recorded + account.gaps != found.next:
            return False
    counted = Counter(event.kind for found in streams.values() for event in found.events)
    return bool(streams) and history.run(run).event_counts == counted


def compare(
    history: History, journaled: Journal, run: str, noted: Sequence[NotedEvent]
) -> AccountCheck:
    """Compare the notes with the journal's and the store's rank 0 streams of ``run``."""
    streams = {s: j for s, j in sorted(journaled.items()) if s.run == run}
    ranked = [j for s, j in streams.items() if s.producer == "rank0"]
    kept = [
        (event.kind, event.step)
        for found in ranked
        for event in found.events
        if event.kind in LIFECYCLE_KINDS
    ]
    stored = [row for row in rows(history, run) if row.kind in LIFECYCLE_KINDS]
    rare = [(row.kind, row.step) for row in stored]
    missing = Counter(noted) - Counter(kept)
    gaps = sum(len(found.missing) for found in ranked)
    positions = Counter((row.attempt, row.seq) for row in stored)
    common = list(kept[: len(noted)]) if not missing else kept
    return AccountCheck(
        noted=len(noted),
        recorded=(Counter(kept) & Counter(noted)).total(),
        gaps=gaps,
        lost=max(0, missing.total() - gaps),
        twice=sum(found.twice for found in streams.values())
        + sum(count - 1 for count in positions.values()),
        surplus=(Counter(kept) - Counter(noted)).total(),
        in_order=(bool(missing) or common == list(noted))
        and rare == [item for item in kept if item[0] not in STEP_KINDS]
        and all(_ascending(found.events) for found in ranked),
    )


def _ascending(events: Sequence[Event]) -> bool:
    return all(one.seq < other.seq for one, other in pairwise(events))
