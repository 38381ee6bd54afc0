"""One stream's way to the broker: what to send next, and what its answers mean."""

from __future__ import annotations

import enum
import logging
from collections import deque
from pathlib import Path
from typing import NamedTuple, TypeAlias

from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import DENIED, FULL, HOLE, Ack, GapMessage, Hi, Put
from lineside.emitter.spool.segment_reader import SegmentReader
from lineside.emitter.spool.status_reader import StatusFields, StatusPageFile

log = logging.getLogger("lineside")

Outgoing: TypeAlias = "Hi | Put | GapMessage"

# Between looks into a folder whose page does not say that there is more, or that has none.
_POLL_SECONDS, _PAGELESS_SECONDS = 2.0, 0.25
_ERROR_SECONDS = 5.0
# First and longest wait after each refusal; twice as long each time until something is taken.
_BACKOFFS = {FULL: (0.5, 10.0), HOLE: (0.1, 5.0), DENIED: (5.0, 60.0)}
_MAX_PLAUSIBLE_GAP = 10_000_000  # events; a page that says more are missing is damaged


class _State(enum.Enum):
    UNKNOWN = enum.auto()  # the broker has to be told of the stream
    HI_SENT = enum.auto()  # it was, and has not answered
    OPEN = enum.auto()  # it has said where to begin


class StreamSender:
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
        self.page = StatusPageFile.open(folder)
        self.gaps = 0
        self._reader = SegmentReader(stream, folder, acked)
        self._state = _State.UNKNOWN
        self._in_flight: deque[_Sent] = deque()
        self._exhausted_at: int | None = None  # what the page said when there was no more to read
        self._unread_from: int | None = None
        self._counted: int | None = None
        self._poll_at = 0.0
        self._retry_at = 0.0
        self._backoff = 0.0

    @property
    def outstanding(self) -> bool:
        """Whether an answer is due."""
        return bool(self._in_flight) or self._state is _State.HI_SENT

    @property
    def in_flight(self) -> tuple[int, int]:
        """Messages, and their bytes, that were sent and not confirmed."""
        return len(self._in_flight), sum(sent.size for sent in self._in_flight)

    @property
    def is_complete(self) -> bool:
        """Whether the stream has ended and all of it is confirmed."""
        confirmed = not self._in_flight and self.acked >= self._reader.seq
        return confirmed and self._is_exhausted(self.fields())

    @property
    def is_confirmed(self) -> bool:
        """Whether all that is there now is confirmed."""
        fields = self.fields()
        return self.is_complete or (
            not self.final and fields is not None and self.acked >= fields.next_seq
        )

    @property
    def end(self) -> int:
        """The seq up to which the stream is written, as far as is known."""
        fields = self.fields()
        return max(fields.next_seq if fields else 0, self._reader.seq)

    def left(self) -> int:
        """How many events are here, or missing here, and not confirmed.

        Raises:
            OSError: they have to be counted and cannot be read.
        """
        if self.is_complete:
            return 0
        fields = self.fields()
        if fields is not None and fields.next_seq - self.acked <= _MAX_PLAUSIBLE_GAP:
            return max(fields.next_seq - self.acked, int(self.final))
        if self._counted is None or not self.final:
            segment_reader = SegmentReader(self.stream, self.folder, self.acked)
            while segment_reader.read(final=True) is not None:
                pass
            self._counted = segment_reader.seq
        return self._counted - self.acked

    def fields(self) -> StatusFields | None:
        """What the producer's page says now, if there is one."""
        return self.page.read() if self.page else None

    def next(self, now: float) -> Outgoing | None:
        """What to send now, if anything. Tell ``sent`` or ``not_sent`` of it."""
        if now < self._retry_at or self._state is _State.HI_SENT:
            return None
        if self._state is _State.UNKNOWN:
            return Hi(self.stream)
        return self._read(now)

    def sent(self, message: Outgoing) -> None:
        """``message`` went out."""
        if isinstance(message, Hi):
            self._state = _State.HI_SENT
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
        self._poll_at = 0.0

    def producer_back(self) -> None:
        """It was not gone."""
        self.final = False
        self._exhausted_at = None
        self._poll_at = 0.0

    def on_disconnect(self) -> None:
        """The connection is gone, and whatever was not confirmed with it."""
        self._state = _State.UNKNOWN
        self._rewind(self.acked)

    def on_who(self) -> None:
        """The broker does not know this connection: it has to be told again."""
        if self._state is _State.OPEN:
            self.on_disconnect()

    def on_ack(self, ack: Ack, now: float) -> None:
        """The broker answered."""
        hi_sent = self._state is _State.HI_SENT
        if ack.status in (FULL, DENIED) or (ack.status == HOLE and not hi_sent):
            self._refused(ack, now)
        elif hi_sent:
            self._begin(ack.next)
        elif ack.next > self.acked:
            self._advance(ack.next)

    def back_off(self, now: float) -> None:
        """Something is wrong with it: let it be for some seconds."""
        self._back_off_for(now, _ERROR_SECONDS)

    def check_remaining(self, now: float) -> None:
        """Find out whether an ended stream has anything left, even if no broker answers."""
        is_known = self._unread_from == self.acked or self._is_exhausted(self.fields())
        if self.final and not is_known and self._state is not _State.OPEN:
            found = self._read(now)
            if found is not None:
                self._unread_from = self.acked
                self._seek(self.acked)

    def reopen_page(self) -> None:
        """Take the page that lies in the folder now: a live producer makes a removed one again."""
        if self.page is None or not self.page.is_at(self.folder):
            page = StatusPageFile.open(self.folder)
            if page is not None:
                self.close()
                self.page = page

    def close(self) -> None:
        """Close what is open."""
        if self.page is not None:
            self.page.close()
            self.page = None

    def _read(self, now: float) -> Put | GapMessage | None:
        fields = self.fields()
        has_new = fields is not None and fields.next_seq > self._reader.seq
        if self._is_exhausted(fields) or (now < self._poll_at and not has_new):
            return None
        # Asked before reading: afterwards a last record might have come in between.
        final = self.final or bool(fields and fields.closed)
        try:
            found = self._reader.read(final=final)
        except OSError as error:
            log.warning("%s cannot be read: %s", self.stream, error)
            self.back_off(now)
            return None
        if found is None and final:
            found = self._trailing_gap(fields)
        if found is None:
            if self.final:
                self._exhausted_at = fields.next_seq if fields else 0
            self._poll_at = now + (_POLL_SECONDS if fields else _PAGELESS_SECONDS)
        return found

    def _is_exhausted(self, fields: StatusFields | None) -> bool:
        # A producer that lost its lock and not its life goes on writing, and must not be forgotten.
        known = self._exhausted_at
        return known is not None and (fields is None or fields.next_seq <= known)

    def _trailing_gap(self, fields: StatusFields | None) -> GapMessage | None:
        """Events after the last record: a full disk refused them, or the machine lost them."""
        first = self._reader.seq
        if fields is None or not 0 < fields.next_seq - first <= _MAX_PLAUSIBLE_GAP:
            return None
        self._reader.seq = fields.next_seq
        return GapMessage(self.stream, first, fields.next_seq)

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
        self._backoff = 0.0
        while self._in_flight and self._in_flight[0].end <= seq:
            self.gaps += self._in_flight.popleft().missing
        self._reader.discard_before(seq)
        if seq > self._reader.seq:
            self._rewind(seq)
        self._confirm(seq)

    def _confirm(self, seq: int) -> None:
        self.acked = seq
        if self.page is not None:
            self.page.acknowledge(seq)

    def _refused(self, ack: Ack, now: float) -> None:
        if not self._backoff:
            log.log(
                logging.ERROR if ack.status == DENIED else logging.WARNING,
                "%s: the broker answers %s at %d%s; nothing is lost, it is sent again",
                self.stream,
                ack.status,
                ack.next,
                f" ({ack.text})" if ack.text else "",
            )
        first, longest = _BACKOFFS[ack.status]
        self._backoff = min(max(2 * self._backoff, first), longest)
        self._state = _State.UNKNOWN
        self._back_off_for(now, self._backoff)

    def _back_off_for(self, now: float, seconds: float) -> None:
        self._retry_at = now + seconds
        self._rewind(self.acked)

    def _rewind(self, seq: int) -> None:
        self._in_flight.clear()
        self._seek(seq)

    def _seek(self, seq: int) -> None:
        if seq != self._reader.seq:
            self._reader.seek(seq)
            self._exhausted_at = None
        self._poll_at = 0.0


class _Sent(NamedTuple):
    """A message on its way: the seq after it, its bytes, and the events it says are missing."""

    end: int
    size: int
    missing: int
