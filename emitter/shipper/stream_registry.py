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
from lineside.emitter.shipper.broker_connection import BrokerConnection
from lineside.emitter.shipper.command_delivery import CommandDelivery
from lineside.emitter.shipper.disk_worker import StreamDiskState
from lineside.emitter.shipper.event_writer import EventWriter
from lineside.emitter.shipper.process_watcher import ProcessWatcher
from lineside.emitter.shipper.stream_sender import StreamSender
from lineside.emitter.spool import directory, liveness_lock, status_reader
from lineside.emitter.spool.segment_reader import segments
from lineside.emitter.spool.stream_folder import LOCK_NAME

log = logging.getLogger("lineside")

_RANK = re.compile(r"rank\d+")
# A heartbeat tells of now: while the broker does not take them, none pile up for later.
_MAX_UNSENT_HEARTBEATS = 5
_LOSS_RETRY_SECONDS = 10.0


class StreamRegistry:
    """Every stream under ``spool``, those that the shipper writes itself included.

    For whoever holds the spool's lock. Times are monotonic seconds.
    """

    def __init__(self, spool: Path, broker_connection: BrokerConnection) -> None:
        self._spool = spool
        self._broker_connection = broker_connection
        self._event_writer = EventWriter(spool)
        self.command_delivery = CommandDelivery(broker_connection, self._event_writer.reject)
        self._senders: dict[Stream, StreamSender] = {}
        self._watchers: dict[Stream, ProcessWatcher] = {}  # of producers that live
        self._loss_checked: set[Stream] = set()  # ended, and process_lost published if it had to be
        self._retry_loss_at: dict[
            Stream, float
        ] = {}  # where it could not be published: when to try
        self._unreadable: set[Stream] = set()  # those that may not be read

    def __iter__(self) -> Iterator[StreamSender]:
        return iter(list(self._senders.values()))

    def __getitem__(self, name: str) -> StreamSender | None:
        """The stream that calls itself ``name``; None if it is not here."""
        try:
            return self._senders.get(Stream.parse(name))
        except StreamNameError:
            return None

    @property
    def other_senders(self) -> list[StreamSender]:
        """All but the streams that the shipper is still writing: a heartbeat always follows."""
        return [t for t in self if not self._event_writer.owns(t.stream)]

    @property
    def has_live_producers(self) -> bool:
        """Whether any producer lives, the shipper itself left out."""
        return bool(self._watchers.keys() - self._unreadable)

    @property
    def is_complete(self) -> bool:
        """Whether every stream that can be looked after has ended and is confirmed."""
        return all(
            stream_sender.is_complete or stream_sender.stream in self._unreadable
            for stream_sender in self
        )

    @property
    def is_confirmed(self) -> bool:
        """Whether everything of the others is confirmed that is there now."""
        return all(stream_sender.is_confirmed for stream_sender in self.other_senders)

    def discover(self, now: float) -> bool:
        """Take charge of streams that are new; whether there is anything to do for one of them."""
        found = False
        for stream, folder in directory.streams(self._spool):
            if stream not in self._senders:
                stream_sender = self._add(stream, folder, now)
                found = found or not stream_sender.is_complete
        return found

    def check_producers(self, now: float, *, beat: bool) -> None:
        """See who still lives, with ``beat`` publish that, and let go of what is done."""
        for stream_sender in self:
            self._check_stream_safely(stream_sender, now, beat=beat)
        active_runs = {stream.run for stream in (*self._watchers, *self._retry_loss_at)}
        for run in self._event_writer.runs - active_runs:
            self._event_writer.close(run)

    def stream_states(self) -> list[StreamDiskState]:
        """What the keeper has to know of each stream; a heartbeat is not worth a sync."""
        stream_states = []
        for stream_sender in self:
            end = 0 if self._event_writer.owns(stream_sender.stream) else stream_sender.end
            has_page = stream_sender.page is not None
            stream_states.append(
                StreamDiskState(
                    stream_sender.folder,
                    end,
                    stream_sender.acked,
                    stream_sender.is_complete,
                    has_page,
                )
            )
        return stream_states

    def close(self) -> None:
        """Let go of everything; what is not confirmed stays for the next shipper."""
        self._event_writer.close_all()
        for watch in self._watchers.values():
            self._unwatch(watch)
        for stream_sender in self:
            stream_sender.close()

    def _add(self, stream: Stream, folder: Path, now: float) -> StreamSender:
        stream_sender = StreamSender(stream, folder, directory.acked_seq(folder))
        self._senders[stream] = stream_sender
        if not self._event_writer.owns(stream):
            self._watch(stream_sender)
        self._check_stream_safely(stream_sender, now, beat=False)
        if stream in self._watchers:  # whatever an earlier shipper took it for
            directory.unmark_lost(folder)
        return stream_sender

    def _watch(self, stream_sender: StreamSender) -> None:
        watch = self._watchers[stream_sender.stream] = ProcessWatcher(stream_sender.folder)
        watch.start()
        if watch.fd is not None:
            self._broker_connection.watch(watch.fd)

    def _check_stream_safely(self, stream_sender: StreamSender, now: float, *, beat: bool) -> None:
        stream = stream_sender.stream
        try:
            self._check_stream(stream_sender, now, beat=beat)
            self._unreadable.discard(stream)
        except OSError as error:  # somebody else's, perhaps; the others go on
            if stream not in self._unreadable:
                self._unreadable.add(stream)
                log.warning("%s cannot be looked after: %s", stream, error)

    def _check_stream(self, stream_sender: StreamSender, now: float, *, beat: bool) -> None:
        stream = stream_sender.stream
        if stream_sender.final and beat and self._is_alive_again(stream_sender):
            stream_sender.producer_back()
            self._loss_checked.discard(stream)
            directory.unmark_lost(stream_sender.folder)
            self._watch(stream_sender)
        if not stream_sender.final:
            self._check_live_stream(stream_sender, now, beat=beat)
        if stream_sender.final:
            stream_sender.check_remaining(now)
            if stream not in self._loss_checked and now >= self._retry_loss_at.get(stream, now):
                self._check_loss(stream_sender, now)
            if stream_sender.is_complete and stream.producer == commands.CONTROL_PRODUCER:
                self.command_delivery.end(stream, stream_sender.folder, stream_sender.acked)
            if stream_sender.is_complete and not stream_sender.folder.exists():
                stream_sender.close()
                del self._senders[stream]
                self._loss_checked.discard(stream)

    def _check_live_stream(self, stream_sender: StreamSender, now: float, *, beat: bool) -> None:
        stream = stream_sender.stream
        watch, fields = self._watchers.get(stream), stream_sender.fields()
        if watch is None:
            if not self._event_writer.owns(stream):
                stream_sender.producer_gone()
        elif watch.is_gone(now, has_closed=fields is None or fields.closed):
            del self._watchers[stream]
            self._unwatch(watch)
            stream_sender.producer_gone()
        else:
            stream_sender.reopen_page()
            if stream_sender.page is not None:
                stream_sender.page.mark_shipper_alive(time.monotonic_ns())
            if stream.producer == commands.CONTROL_PRODUCER and not self._has_unconfirmed_answers(
                stream
            ):
                self.command_delivery.open(stream, stream_sender.folder)
            if beat and _RANK.fullmatch(stream.producer):
                self._heartbeat(stream_sender, watch, now)

    def _is_alive_again(self, stream_sender: StreamSender) -> bool:
        """Whether a producer that was taken for gone has its lock again, and not closed its stream.

        A script may let go of the lock without knowing, and it is taken anew once a second.
        """
        fields = stream_sender.fields()
        if self._event_writer.owns(stream_sender.stream) or fields is None or fields.closed:
            return False
        with contextlib.suppress(FileNotFoundError):
            return liveness_lock.holder_pid(stream_sender.folder / LOCK_NAME) is not None
        return False

    def _has_unconfirmed_answers(self, stream: Stream) -> bool:
        """Whether what earlier trainings of the run answered may not be on the bus yet."""
        return any(
            other.stream.run == stream.run
            and other.stream.producer == commands.CONTROL_PRODUCER
            and other.final
            and not other.is_complete
            for other in self
        )

    def _heartbeat(self, stream_sender: StreamSender, watch: ProcessWatcher, now: float) -> None:
        stream, fields = stream_sender.stream, stream_sender.fields()
        own = self._event_writer.stream(stream.run)
        own_sender = self._senders.get(own) if own else None
        if fields is None or (
            own_sender is not None and own_sender.left() >= _MAX_UNSENT_HEARTBEATS
        ):
            return
        data: dict[str, Any] = {"producer": stream.producer, "attempt": stream.attempt}
        data |= status_reader.heartbeat_data(fields, watch.info, time.monotonic_ns())
        self._report(stream.run, "heartbeat", fields.step, data, now)

    def _check_loss(self, stream_sender: StreamSender, now: float) -> None:
        """A producer has ended: say so if it did not say so itself."""
        stream, folder = stream_sender.stream, stream_sender.folder
        is_lost = (
            _RANK.fullmatch(stream.producer)
            and segments(folder)
            and not (folder / directory.LOST_NAME).exists()
            and not status_reader.has_ended(folder, stream_sender.fields())
        )
        if is_lost:
            data: dict[str, Any] = {"producer": stream.producer, "attempt": stream.attempt}
            fields, info = stream_sender.fields(), status_reader.StreamInfo.read(folder)
            data |= status_reader.process_lost_data(folder, fields, info)
            log.warning("%s: its process %s is gone without an end", stream, data["pid"])
            if not self._report(
                stream.run, "process_lost", fields.step if fields else 0, data, now
            ):
                self._retry_loss_at[stream] = now + _LOSS_RETRY_SECONDS
                return
            directory.mark_lost(folder)
        self._retry_loss_at.pop(stream, None)
        self._loss_checked.add(stream)

    def _report(self, run: str, kind: str, step: int, data: dict[str, Any], now: float) -> bool:
        written = self._event_writer.write(run, kind, step, data)
        own = self._event_writer.stream(run)
        if own is not None and own not in self._senders:
            self._add(own, self._spool.joinpath(*own), now)
        return written

    def _unwatch(self, watch: ProcessWatcher) -> None:
        if watch.fd is not None:
            self._broker_connection.unwatch(watch.fd)
        watch.end()
