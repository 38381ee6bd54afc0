"""The streams a shipper has charge of: found, watched, reported on, let go when they are done."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lineside.bus.errors import StreamNameError
from lineside.bus.protocol import commands
from lineside.bus.protocol.events import Stream
from lineside.emitter.shipper.keeper import Kept
from lineside.emitter.shipper.link import Link
from lineside.emitter.shipper.orders import Orders
from lineside.emitter.shipper.reports import Reports
from lineside.emitter.shipper.transfer import Transfer
from lineside.emitter.shipper.watch import Watch
from lineside.emitter.spool import locks, vitals, yard
from lineside.emitter.spool.folder import LOCK_NAME
from lineside.emitter.spool.tail import segments

log = logging.getLogger("lineside")

_RANK = re.compile(r"rank\d+")
# A heartbeat tells of now: while the broker does not take them, none pile up for later.
_HEARTBEATS_AHEAD = 5
_FULL_DISK_SECONDS = 10.0


class Charges:
    """Every stream under ``spool``, those that the shipper writes itself included.

    For whoever holds the spool's lock. Times are monotonic seconds.
    """

    def __init__(self, spool: Path, link: Link) -> None:
        self._spool = spool
        self._link = link
        self._reports = Reports(spool)
        self.orders = Orders(link, self._reports.refuse)
        self._transfers: dict[Stream, Transfer] = {}
        self._watches: dict[Stream, Watch] = {}  # of producers that live
        self._judged: set[Stream] = set()  # ended, and process_lost published if it had to be
        self._ask_again: dict[Stream, float] = {}  # where it could not be published: when to try
        self._barred: set[Stream] = set()  # those that may not be read

    def __iter__(self) -> Iterator[Transfer]:
        return iter(list(self._transfers.values()))

    def __getitem__(self, name: str) -> Transfer | None:
        """The stream that calls itself ``name``; None if it is not here."""
        try:
            return self._transfers.get(Stream.parse(name))
        except StreamNameError:
            return None

    @property
    def others(self) -> list[Transfer]:
        """All but the streams that the shipper is still writing: a heartbeat always follows."""
        return [t for t in self if not self._reports.owns(t.stream)]

    @property
    def live(self) -> bool:
        """Whether any producer lives, the shipper itself left out."""
        return bool(self._watches.keys() - self._barred)

    @property
    def settled(self) -> bool:
        """Whether every stream that can be looked after has ended and is confirmed."""
        return all(transfer.settled or transfer.stream in self._barred for transfer in self)

    @property
    def delivered(self) -> bool:
        """Whether everything of the others is confirmed that is there now."""
        return all(transfer.delivered for transfer in self.others)

    def discover(self, now: float) -> bool:
        """Take charge of streams that are new; whether there is anything to do for one of them."""
        found = False
        for stream, folder in yard.streams(self._spool):
            if stream not in self._transfers:
                transfer = self._add(stream, folder, now)
                found = found or not transfer.settled
        return found

    def look(self, now: float, *, beat: bool) -> None:
        """See who still lives, with ``beat`` publish that, and let go of what is done."""
        for transfer in self:
            self._try_to_look(transfer, now, beat=beat)
        spoken_of = {stream.run for stream in (*self._watches, *self._ask_again)}
        for run in self._reports.runs - spoken_of:
            self._reports.close(run)

    def kept(self) -> list[Kept]:
        """What the keeper has to know of each stream; a heartbeat is not worth a sync."""
        kept = []
        for transfer in self:
            end = 0 if self._reports.owns(transfer.stream) else transfer.end
            has_page = transfer.page is not None
            kept.append(Kept(transfer.folder, end, transfer.acked, transfer.settled, has_page))
        return kept

    def close(self) -> None:
        """Let go of everything; what is not confirmed stays for the next shipper."""
        self._reports.close_all()
        for watch in self._watches.values():
            self._unwatch(watch)
        for transfer in self:
            transfer.close()

    def _add(self, stream: Stream, folder: Path, now: float) -> Transfer:
        transfer = Transfer(stream, folder, yard.position(folder))
        self._transfers[stream] = transfer
        if not self._reports.owns(stream):
            self._watch(transfer)
        self._try_to_look(transfer, now, beat=False)
        if stream in self._watches:  # whatever an earlier shipper took it for
            yard.unmark_lost(folder)
        return transfer

    def _watch(self, transfer: Transfer) -> None:
        watch = self._watches[transfer.stream] = Watch(transfer.folder)
        watch.begin()
        if watch.fd is not None:
            self._link.watch(watch.fd)

    def _try_to_look(self, transfer: Transfer, now: float, *, beat: bool) -> None:
        stream = transfer.stream
        try:
            self._look_at(transfer, now, beat=beat)
            self._barred.discard(stream)
        except OSError as error:  # somebody else's, perhaps; the others go on
            if stream not in self._barred:
                self._barred.add(stream)
                log.warning("%s cannot be looked after: %s", stream, error)

    def _look_at(self, transfer: Transfer, now: float, *, beat: bool) -> None:
        stream = transfer.stream
        if transfer.final and beat and self._lives_on(transfer):
            transfer.producer_back()
            self._judged.discard(stream)
            yard.unmark_lost(transfer.folder)
            self._watch(transfer)
        if not transfer.final:
            self._look_at_living(transfer, now, beat=beat)
        if transfer.final:
            transfer.check(now)
            if stream not in self._judged and now >= self._ask_again.get(stream, now):
                self._judge(transfer, now)
            if transfer.settled and stream.producer == commands.PRODUCER:
                self.orders.end(stream, transfer.folder, transfer.acked)
            if transfer.settled and not transfer.folder.exists():
                transfer.close()
                del self._transfers[stream]
                self._judged.discard(stream)

    def _look_at_living(self, transfer: Transfer, now: float, *, beat: bool) -> None:
        stream = transfer.stream
        watch, words = self._watches.get(stream), transfer.words()
        if watch is None:
            if not self._reports.owns(stream):
                transfer.producer_gone()
        elif watch.is_gone(now, has_closed=words is None or words.closed):
            del self._watches[stream]
            self._unwatch(watch)
            transfer.producer_gone()
        else:
            transfer.reopen_page()
            if transfer.page is not None:
                transfer.page.stamp(time.monotonic_ns())
            if stream.producer == commands.PRODUCER and not self._has_answers_left(stream):
                self.orders.open(stream, transfer.folder)
            if beat and _RANK.fullmatch(stream.producer):
                self._heartbeat(transfer, watch, now)

    def _lives_on(self, transfer: Transfer) -> bool:
        """Whether a producer that was taken for gone has its lock again, and not closed its stream.

        A script may let go of the lock without knowing, and it is taken anew once a second.
        """
        words = transfer.words()
        if self._reports.owns(transfer.stream) or words is None or words.closed:
            return False
        with contextlib.suppress(FileNotFoundError):
            return locks.holder(transfer.folder / LOCK_NAME) is not None
        return False

    def _has_answers_left(self, stream: Stream) -> bool:
        """Whether what earlier trainings of the run answered may not be on the bus yet."""
        return any(
            other.stream.run == stream.run
            and other.stream.producer == commands.PRODUCER
            and other.final
            and not other.settled
            for other in self
        )

    def _heartbeat(self, transfer: Transfer, watch: Watch, now: float) -> None:
        stream, words = transfer.stream, transfer.words()
        own = self._reports.stream(stream.run)
        told = self._transfers.get(own) if own else None
        if words is None or (told is not None and told.left() >= _HEARTBEATS_AHEAD):
            return
        data: dict[str, Any] = {"producer": stream.producer, "attempt": stream.attempt}
        data |= vitals.heartbeat(words, watch.facts, time.monotonic_ns())
        self._report(stream.run, "heartbeat", words.step, data, now)

    def _judge(self, transfer: Transfer, now: float) -> None:
        """A producer has ended: say so if it did not say so itself."""
        stream, folder = transfer.stream, transfer.folder
        is_lost = (
            _RANK.fullmatch(stream.producer)
            and segments(folder)
            and not (folder / yard.LOST_NAME).exists()
            and not vitals.ended(folder, transfer.words())
        )
        if is_lost:
            data: dict[str, Any] = {"producer": stream.producer, "attempt": stream.attempt}
            words, facts = transfer.words(), vitals.Facts.read(folder)
            data |= vitals.last_words(folder, words, facts)
            log.warning("%s: its process %s is gone without an end", stream, data["pid"])
            if not self._report(stream.run, "process_lost", words.step if words else 0, data, now):
                self._ask_again[stream] = now + _FULL_DISK_SECONDS
                return
            yard.mark_lost(folder)
        self._ask_again.pop(stream, None)
        self._judged.add(stream)

    def _report(self, run: str, kind: str, step: int, data: dict[str, Any], now: float) -> bool:
        written = self._reports.write(run, kind, step, data)
        own = self._reports.stream(run)
        if own is not None and own not in self._transfers:
            self._add(own, self._spool.joinpath(*own), now)
        return written

    def _unwatch(self, watch: Watch) -> None:
        if watch.fd is not None:
            self._link.unwatch(watch.fd)
        watch.end()
