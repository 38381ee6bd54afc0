"""Sends one stream to the broker: chooses the next message and handles the answers."""

from __future__ import annotations

import contextlib
import enum
import logging
from collections import deque
from pathlib import Path
from typing import NamedTuple, TypeAlias

from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import (
    DENIED,
    FULL,
    HOLE,
    INVALID,
    Ack,
    GapMessage,
    Hi,
    Put,
)
from lineside.emitter.shipper.invalid_records import InvalidRecords
from lineside.emitter.spool.backlog import MAX_PLAUSIBLE_GAP, end_seq
from lineside.emitter.spool.segment_reader import SegmentReader
from lineside.emitter.spool.status_reader import StatusFields, StatusPageFile

log = logging.getLogger("lineside")

Outgoing: TypeAlias = "Hi | Put | GapMessage"

# Between reads of a folder whose page shows no new events, or that has no page.
_POLL_SECONDS, _PAGELESS_SECONDS = 2.0, 0.25
_ERROR_SECONDS = 5.0
# First and longest wait after each refusal; twice as long each time until something is accepted.
_BACKOFFS = {FULL: (0.5, 10.0), HOLE: (0.1, 5.0), DENIED: (5.0, 60.0)}


class _State(enum.Enum):
    UNKNOWN = enum.auto()  # the broker does not know the stream on this connection
    HI_SENT = enum.auto()  # HI was sent and not yet answered
    OPEN = enum.auto()  # the answer has given the seq to begin at


class StreamSender:
    """Sends the stream in ``folder`` to the broker.

    Events before ``acked`` are confirmed. ``final``: the producer has ended. ``gaps`` counts the
    events that were reported to the broker as missing, ``invalid`` has those that it cannot read.
    ``refusal`` is why the broker does not take events now, empty if it does. Times are monotonic
    seconds.
    """

    def __init__(self, stream: Stream, folder: Path, acked: int) -> None:
        self.stream = stream
        self.folder = folder
        self.acked = acked
        self.final = False
        self.page = StatusPageFile(folder)
        self.gaps = 0
        self.refusal = ""
        self.invalid = InvalidRecords(stream, folder)
        self._last_fields: StatusFields | None = None
        self._reader = SegmentReader(stream, folder, acked)
        self._state = _State.UNKNOWN
        self._in_flight: deque[_Sent] = deque()
        self._exhausted_at: int | None = None  # the page's next_seq when all was read
        self._unread_from: int | None = None
        self._counted: int | None = None
        self._poll_at = 0.0
        self._retry_at = 0.0
        self._backoff = 0.0
        with contextlib.suppress(OSError):
            self.fields()  # kept if the folder is removed

    @property
    def outstanding(self) -> bool:
        """Whether an answer is due."""
        return bool(self._in_flight) or self._state is _State.HI_SENT

    @property
    def in_flight(self) -> tuple[int, int]:
        """The number of unconfirmed messages, and their bytes."""
        return len(self._in_flight), sum(sent.size for sent in self._in_flight)

    @property
    def is_complete(self) -> bool:
        """Whether the stream has ended and all of it is confirmed."""
        confirmed = not self._in_flight and self.acked >= self._reader.seq
        return confirmed and self._is_exhausted

    @property
    def is_confirmed(self) -> bool:
        """Whether every event written so far is confirmed."""
        if self.is_complete:
            return True
        fields = self.fields()
        return not self.final and fields is not None and self.acked >= fields.next_seq

    @property
    def end_seq(self) -> int:
        """The seq before which the stream is written, as far as known."""
        fields = None if self.is_complete else self.fields()
        return max(fields.next_seq if fields else 0, self._reader.seq)

    def left(self) -> int:
        """The number of unconfirmed events, missing ones included.

        Raises:
            OSError: they have to be counted and cannot be read.
        """
        if self.is_complete:
            return 0
        fields = self.fields()
        if fields is not None and fields.next_seq - self.acked <= MAX_PLAUSIBLE_GAP:
            return max(fields.next_seq - self.acked, int(self.final))
        if self._counted is None or not self.final:
            self._counted = end_seq(self.stream, self.folder, self.acked)
        return self._counted - self.acked

    def fields(self) -> StatusFields | None:
        """The fields of the producer's page, if there is one; the last ones if it was removed."""
        fields = self.page.read()
        if fields is not None or self.folder.exists():
            self._last_fields = fields
        return self._last_fields

    def next(self, now: float) -> Outgoing | None:
        """The next message, if any. Its caller calls ``sent`` or ``not_sent`` with it."""
        if now < self._retry_at or self._state is _State.HI_SENT:
            return None
        if self._state is _State.UNKNOWN:
            return Hi(self.stream)
        if self._in_flight and self.invalid.is_searching:
            return None
        return self._read(now)

    def sent(self, message: Outgoing) -> None:
        """Count ``message`` as on its way."""
        if isinstance(message, Hi):
            self._state = _State.HI_SENT
        elif isinstance(message, Put):
            end = message.first_seq + message.count
            self._in_flight.append(_Sent(end, len(message.blob), 0))
        else:
            self._in_flight.append(_Sent(message.end, 0, message.end - message.first))

    def not_sent(self, message: Outgoing) -> None:
        """Return ``message`` again next time."""
        if not isinstance(message, Hi):
            self._seek(message.first_seq if isinstance(message, Put) else message.first)

    def producer_gone(self) -> None:
        """The producer has ended: the folder holds all its events."""
        self.final = True
        self._poll_at = 0.0

    def producer_back(self) -> None:
        """The producer lives after all."""
        self.final = False
        self._exhausted_at = None
        self._poll_at = 0.0

    def on_disconnect(self) -> None:
        """The connection is lost: send every unconfirmed event again."""
        self._state = _State.UNKNOWN
        self._rewind(self.acked)

    def on_who(self) -> None:
        """The broker has forgotten the stream: begin again with HI."""
        if self._state is _State.OPEN:
            self.on_disconnect()

    def on_ack(self, ack: Ack, now: float) -> None:
        """Handle the broker's answer."""
        hi_sent = self._state is _State.HI_SENT
        if ack.status == INVALID:
            if self._in_flight:  # else it was sent before the HI that is under way
                self._on_invalid(ack, now)
        elif ack.status in (FULL, DENIED) or (ack.status == HOLE and self._state is _State.OPEN):
            self._refused(ack, now)
        elif hi_sent and (ack.text or not self.invalid.is_searching):
            self._begin(ack.next)
        elif ack.next > self.acked:
            self._advance(ack.next)

    def back_off(self, now: float) -> None:
        """Send nothing for some seconds."""
        self._back_off_for(now, _ERROR_SECONDS)

    def check_remaining(self, now: float) -> None:
        """Find out whether an ended stream has unread events, even if no broker answers."""
        is_known = self._unread_from == self.acked or self._is_exhausted
        if self.final and not is_known and self._state is not _State.OPEN:
            found = self._read(now)
            if found is not None:
                self._unread_from = self.acked
                self._seek(self.acked)

    def look_again(self) -> None:
        """Look once more for events of an ended producer: it may have opened its stream again."""
        if self._is_exhausted:
            fields = self.fields()
            if fields is not None and fields.next_seq > (self._exhausted_at or 0):
                self._exhausted_at = None
                self._poll_at = 0.0

    def _read(self, now: float) -> Put | GapMessage | None:
        if self._is_exhausted:
            return None
        fields = self.fields()
        has_new = fields is not None and fields.next_seq > self._reader.seq
        if now < self._poll_at and not has_new:
            return None
        # Decided before reading: a last record might be written in between.
        final = self.final or bool(fields and fields.closed)
        seq = self._reader.seq
        if seq in self.invalid:
            self._reader.seq = seq + 1
            return GapMessage(self.stream, seq, seq + 1)
        try:
            found = self._reader.read(final=final, records=self.invalid.most)
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

    @property
    def _is_exhausted(self) -> bool:
        """Whether an ended stream was read to its end. ``look_again`` checks that once more: a
        producer that only lost its lock goes on writing, and must not be dropped."""
        return self._exhausted_at is not None

    def _trailing_gap(self, fields: StatusFields | None) -> GapMessage | None:
        """The events after the last record, dropped on a full disk or lost with the machine."""
        first = self._reader.seq
        if fields is None or not 0 < fields.next_seq - first <= MAX_PLAUSIBLE_GAP:
            return None
        self._reader.seq = fields.next_seq
        return GapMessage(self.stream, first, fields.next_seq)

    def _begin(self, seq: int) -> None:
        if seq < self.acked:
            log.warning(
                "%s: the broker has %d of %d confirmed events, its journal is another: "
                "the events that are still here are sent again",
                self.stream,
                seq,
                self.acked,
            )
        self._state = _State.OPEN
        self._rewind(seq)
        self._confirm(seq)

    def _advance(self, seq: int) -> None:
        self._backoff = 0.0
        self.refusal = ""
        while self._in_flight and self._in_flight[0].end <= seq:
            self.gaps += self._in_flight.popleft().missing
        self._reader.discard_before(seq)
        if seq > self._reader.seq:
            self._rewind(seq)
        self._confirm(seq)

    def _on_invalid(self, ack: Ack, now: float) -> None:
        end = self._in_flight[-1].end
        if not self.invalid.is_searching:
            self.invalid.search(end)
            # The answer to HI comes after all others, and has a text.
            self._state = _State.UNKNOWN
        else:
            try:
                self.invalid.on_refused(self.acked, end, ack.text)
            except OSError as error:
                log.warning("%s: event %d cannot be set aside: %s", self.stream, self.acked, error)
                self.back_off(now)
                return
        self._rewind(self.acked)

    def _confirm(self, seq: int) -> None:
        self.acked = seq
        self.invalid.on_confirmed(seq)
        self.page.acknowledge(seq)

    def _refused(self, ack: Ack, now: float) -> None:
        if not self._backoff:
            log.log(
                logging.ERROR if ack.status == DENIED else logging.WARNING,
                "%s: the broker answers %s at %d%s; nothing is lost, the events are sent again",
                self.stream,
                ack.status,
                ack.next,
                f" ({ack.text})" if ack.text else "",
            )
        if ack.status != HOLE:
            self.refusal = f"{ack.status} {ack.text}".rstrip()
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
    """A message on its way: the seq after it, its bytes, and the events it reports missing."""

    end: int
    size: int
    missing: int
