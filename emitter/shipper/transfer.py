"""One stream's way to the broker: what to send next, and what its answers mean."""

from __future__ import annotations

import enum
import logging
from collections import deque
from pathlib import Path
from typing import NamedTuple, TypeAlias

from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import DENIED, FULL, HOLE, Ack, GapMessage, Hi, Put
from lineside.emitter.spool.tail import Tail
from lineside.emitter.spool.vitals import PageView, Words

log = logging.getLogger("lineside")

Outgoing: TypeAlias = "Hi | Put | GapMessage"

# Between looks into a folder whose page does not say that there is more, or that has none.
_LOOK_SECONDS, _PAGELESS_SECONDS = 2.0, 0.25
_ERROR_SECONDS = 5.0
# First and longest wait after each refusal; twice as long each time until something is taken.
_WAITS = {FULL: (0.5, 10.0), HOLE: (0.1, 5.0), DENIED: (5.0, 60.0)}
_BELIEVABLE_GAP = 10_000_000  # events; a page that says more are missing is damaged


class _State(enum.Enum):
    UNKNOWN = enum.auto()  # the broker has to be told of the stream
    GREETED = enum.auto()  # it was, and has not answered
    OPEN = enum.auto()  # it has said where to begin


class Transfer:
    """Takes the stream in ``folder`` to the broker.

    ``acked`` is how far the broker has confirmed it, at first what was known on disk; ``final``
    whether the producer is gone; ``gaps`` how many events the broker was told it cannot have.
    Times are monotonic seconds.
    """

    def __init__(self, stream: Stream, folder: Path, acked: int) -> None:
        self.stream = stream
        self.folder = folder
        self.acked = acked
        self.final = False
        self.page = PageView.open(folder)
        self.gaps = 0
        self._tail = Tail(stream, folder, acked)
        self._state = _State.UNKNOWN
        self._in_flight: deque[_Sent] = deque()
        self._exhausted_at: int | None = None  # what the page said when there was no more to read
        self._unread_from: int | None = None
        self._counted: int | None = None
        self._look_at = 0.0
        self._held_until = 0.0
        self._wait = 0.0

    @property
    def outstanding(self) -> bool:
        """Whether an answer is due."""
        return bool(self._in_flight) or self._state is _State.GREETED

    @property
    def in_flight(self) -> tuple[int, int]:
        """Messages, and their bytes, that were sent and not confirmed."""
        return len(self._in_flight), sum(sent.size for sent in self._in_flight)

    @property
    def settled(self) -> bool:
        """Whether the stream has ended and all of it is confirmed."""
        confirmed = not self._in_flight and self.acked >= self._tail.seq
        return confirmed and self._is_exhausted(self.words())

    @property
    def delivered(self) -> bool:
        """Whether all that is there now is confirmed."""
        words = self.words()
        return self.settled or (
            not self.final and words is not None and self.acked >= words.next_seq
        )

    @property
    def end(self) -> int:
        """The seq up to which the stream is written, as far as is known."""
        words = self.words()
        return max(words.next_seq if words else 0, self._tail.seq)

    def left(self) -> int:
        """How many events are here, or missing here, and not confirmed.

        Raises:
            OSError: they have to be counted and cannot be read.
        """
        if self.settled:
            return 0
        words = self.words()
        if words is not None and words.next_seq - self.acked <= _BELIEVABLE_GAP:
            return max(words.next_seq - self.acked, int(self.final))
        if self._counted is None or not self.final:
            tail = Tail(self.stream, self.folder, self.acked)
            while tail.read(final=True) is not None:
                pass
            self._counted = tail.seq
        return self._counted - self.acked

    def words(self) -> Words | None:
        """What the producer's page says now, if there is one."""
        return self.page.read() if self.page else None

    def next(self, now: float) -> Outgoing | None:
        """What to send now, if anything. Tell ``sent`` or ``not_sent`` of it."""
        if now < self._held_until or self._state is _State.GREETED:
            return None
        if self._state is _State.UNKNOWN:
            return Hi(self.stream)
        return self._read(now)

    def sent(self, message: Outgoing) -> None:
        """``message`` went out."""
        if isinstance(message, Hi):
            self._state = _State.GREETED
        elif isinstance(message, Put):
            end = message.first_seq + message.count
            self._in_flight.append(_Sent(end, len(message.blob), 0))
        else:
            self._in_flight.append(_Sent(message.end, 0, message.end - message.first))

    def not_sent(self, message: Outgoing) -> None:
        """``message`` could not go out now."""
        if not isinstance(message, Hi):
            self._seek(message.first_seq if isinstance(message, Put) else message.first)

    def producer_gone(self) -> None:
        """What is in the folder is all there will ever be."""
        self.final = True
        self._look_at = 0.0

    def producer_back(self) -> None:
        """It was not gone."""
        self.final = False
        self._exhausted_at = None
        self._look_at = 0.0

    def lost(self) -> None:
        """The connection is gone, and whatever was not confirmed with it."""
        self._state = _State.UNKNOWN
        self._rewind(self.acked)

    def on_who(self) -> None:
        """The broker does not know this connection: it has to be told again."""
        if self._state is _State.OPEN:
            self.lost()

    def on_ack(self, ack: Ack, now: float) -> None:
        """The broker answered."""
        greeted = self._state is _State.GREETED
        if ack.status in (FULL, DENIED) or (ack.status == HOLE and not greeted):
            self._refused(ack, now)
        elif greeted:
            self._begin(ack.next)
        elif ack.next > self.acked:
            self._advance(ack.next)

    def hold(self, now: float) -> None:
        """Something is wrong with it: let it be for some seconds."""
        self._hold(now, _ERROR_SECONDS)

    def check(self, now: float) -> None:
        """Find out whether an ended stream has anything left, even if no broker answers."""
        is_known = self._unread_from == self.acked or self._is_exhausted(self.words())
        if self.final and not is_known and self._state is not _State.OPEN:
            found = self._read(now)
            if found is not None:
                self._unread_from = self.acked
                self._seek(self.acked)

    def reopen_page(self) -> None:
        """Take the page that lies in the folder now: a live producer makes a removed one again."""
        if self.page is None or not self.page.is_at(self.folder):
            page = PageView.open(self.folder)
            if page is not None:
                self.close()
                self.page = page

    def close(self) -> None:
        """Close what is open."""
        if self.page is not None:
            self.page.close()
            self.page = None

    def _read(self, now: float) -> Put | GapMessage | None:
        words = self.words()
        is_news = words is not None and words.next_seq > self._tail.seq
        if self._is_exhausted(words) or (now < self._look_at and not is_news):
            return None
        # Asked before reading: afterwards a last record might have come in between.
        final = self.final or bool(words and words.closed)
        try:
            found = self._tail.read(final=final)
        except OSError as error:
            log.warning("%s cannot be read: %s", self.stream, error)
            self.hold(now)
            return None
        if found is None and final:
            found = self._missing_end(words)
        if found is None:
            if self.final:
                self._exhausted_at = words.next_seq if words else 0
            self._look_at = now + (_LOOK_SECONDS if words else _PAGELESS_SECONDS)
        return found

    def _is_exhausted(self, words: Words | None) -> bool:
        # A producer that lost its lock and not its life goes on writing, and must not be forgotten.
        known = self._exhausted_at
        return known is not None and (words is None or words.next_seq <= known)

    def _missing_end(self, words: Words | None) -> GapMessage | None:
        """Events after the last record: a full disk refused them, or the machine lost them."""
        first = self._tail.seq
        if words is None or not 0 < words.next_seq - first <= _BELIEVABLE_GAP:
            return None
        self._tail.seq = words.next_seq
        return GapMessage(self.stream, first, words.next_seq)

    def _begin(self, seq: int) -> None:
        if seq < self.acked:
            log.warning(
                "%s: the broker has events up to %d of %d confirmed, its journal is another: "
                "what is still here is sent again",
                self.stream,
                seq,
                self.acked,
            )
        self._state = _State.OPEN
        self._rewind(seq)
        self._confirm(seq)

    def _advance(self, seq: int) -> None:
        self._wait = 0.0
        while self._in_flight and self._in_flight[0].end <= seq:
            self.gaps += self._in_flight.popleft().missing
        self._tail.forget(seq)
        if seq > self._tail.seq:
            self._rewind(seq)
        self._confirm(seq)

    def _confirm(self, seq: int) -> None:
        self.acked = seq
        if self.page is not None:
            self.page.acknowledge(seq)

    def _refused(self, ack: Ack, now: float) -> None:
        if not self._wait:
            log.log(
                logging.ERROR if ack.status == DENIED else logging.WARNING,
                "%s: the broker answers %s at %d%s; nothing is lost, it is sent again",
                self.stream,
                ack.status,
                ack.next,
                f" ({ack.text})" if ack.text else "",
            )
        first, longest = _WAITS[ack.status]
        self._wait = min(max(2 * self._wait, first), longest)
        self._state = _State.UNKNOWN
        self._hold(now, self._wait)

    def _hold(self, now: float, seconds: float) -> None:
        self._held_until = now + seconds
        self._rewind(self.acked)

    def _rewind(self, seq: int) -> None:
        self._in_flight.clear()
        self._seek(seq)

    def _seek(self, seq: int) -> None:
        if seq != self._tail.seq:
            self._tail.seek(seq)
            self._exhausted_at = None
        self._look_at = 0.0


class _Sent(NamedTuple):
    """A message on its way: the seq after it, its bytes, and the events it says are missing."""

    end: int
    size: int
    missing: int
