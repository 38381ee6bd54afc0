"""The streams of a spool: found, watched, reported on, and dropped once they are complete."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lineside.bus.errors import StreamNameError
from lineside.bus.protocol import commands
from lineside.bus.protocol.events import Stream
from lineside.emitter.shipper.broker_connection import BrokerConnection
from lineside.emitter.shipper.command_delivery import CommandDelivery
from lineside.emitter.shipper.disk_worker import StreamDiskState
from lineside.emitter.shipper.event_writer import PRODUCER as SHIPPER
from lineside.emitter.shipper.event_writer import EventWriter
from lineside.emitter.shipper.heartbeat import RankReporter
from lineside.emitter.shipper.invalid_records import InvalidRecord
from lineside.emitter.shipper.process_watcher import ProcessWatcher
from lineside.emitter.shipper.stream_sender import StreamSender
from lineside.emitter.spool import directory, liveness_lock
from lineside.emitter.spool.protected_file import file_limit
from lineside.emitter.spool.stream_folder import LOCK_NAME

log = logging.getLogger("lineside")

# A heartbeat is about now: while the broker does not take them, none pile up for later.
_MAX_UNSENT_HEARTBEATS = 5


class StreamRegistry:
    """Every stream under ``spool``, the shipper's own included.

    For the process that holds the spool's lock. Times are monotonic seconds.
    """

    def __init__(self, spool: Path, broker_connection: BrokerConnection) -> None:
        self._spool = spool
        self._broker_connection = broker_connection
        self._event_writer = EventWriter(spool)
        self._rank_reporter = RankReporter(self._event_writer)
        self.command_delivery = CommandDelivery(broker_connection, self._event_writer.reject)
        self._senders: dict[Stream, StreamSender] = {}
        self._watchers: dict[Stream, ProcessWatcher] = {}  # of producers that live
        self._unreadable: set[Stream] = set()

    def __iter__(self) -> Iterator[StreamSender]:
        return iter(list(self._senders.values()))

    def __getitem__(self, name: str) -> StreamSender | None:
        """The stream with this name; None if it is not here."""
        try:
            return self._senders.get(Stream.parse(name))
        except StreamNameError:
            return None

    @property
    def other_senders(self) -> list[StreamSender]:
        """All but the streams that the shipper still writes, where a heartbeat always follows."""
        return [sender for sender in self if not self._event_writer.owns(sender.stream)]

    @property
    def has_live_producers(self) -> bool:
        """Whether any producer lives, the shipper itself left out."""
        return bool(self._watchers.keys() - self._unreadable)

    @property
    def is_complete(self) -> bool:
        """Whether every readable stream has ended and is confirmed."""
        return all(sender.is_complete or sender.stream in self._unreadable for sender in self)

    @property
    def is_confirmed(self) -> bool:
        """Whether every event that other processes have written so far is confirmed."""
        return all(sender.is_confirmed for sender in self.other_senders)

    def discover(self, now: float) -> bool:
        """Add new streams, and look again at ended ones; whether any of them newly needs work."""
        found = False
        for stream, folder in directory.streams(self._spool):
            sender = self._senders.get(stream)
            if sender is None:
                found = not self._add(stream, folder, now).is_complete or found
            elif sender.final:
                with contextlib.suppress(OSError):  # another user's, perhaps
                    found = self._look_again(sender) or found
        return found

    def check_producers(self, now: float, *, beat: bool) -> None:
        """Check producers, publish heartbeats if ``beat``, and drop complete streams."""
        for sender in self:
            self._check_stream_safely(sender, now, beat=beat)
        live_runs = {stream.run for stream in self._watchers}
        for run in self._event_writer.runs - live_runs - self._rank_reporter.retrying_runs:
            self._event_writer.close(run)

    def stream_states(self) -> list[StreamDiskState]:
        """The state of each stream for the disk worker; a heartbeat is not worth a sync."""
        return [
            StreamDiskState(
                sender.folder,
                0 if self._event_writer.owns(sender.stream) else sender.end_seq,
                sender.acked,
                sender.is_complete,
                sender.is_complete or sender.fields() is not None,
            )
            for sender in self
        ]

    def close(self) -> None:
        """Close every stream; unconfirmed events stay for the next shipper."""
        self._event_writer.close_all()
        for watcher in self._watchers.values():
            self._unwatch(watcher)

    def _add(self, stream: Stream, folder: Path, now: float) -> StreamSender:
        sender = StreamSender(stream, folder, directory.acked_seq(folder))
        self._senders[stream] = sender
        if stream.producer != SHIPPER:  # a report on a report could go on for ever
            sender.invalid.on_found = partial(self._report_invalid, sender)
        if not self._event_writer.owns(stream):
            self._watch(sender)
        self._check_stream_safely(sender, now, beat=False)
        if stream in self._watchers:  # an earlier shipper may have reported its loss
            self._rank_reporter.reset(stream, folder)
        return sender

    def _report_invalid(self, sender: StreamSender, record: InvalidRecord) -> None:
        stream, fields = sender.stream, sender.fields()
        data = {
            "first": record.seq,
            "end": record.seq + 1,
            "kinds": {record.kind: 1},
            "why": "invalid",
            "producer": stream.producer,
            "attempt": stream.attempt,
            "error": record.why,
            "kept": str(record.path),
        }
        self._event_writer.write(stream.run, "gap", fields.step if fields else 0, data)
        self._add_own(stream.run, time.monotonic())

    def _add_own(self, run: str, now: float) -> None:
        """Add the shipper's own stream at once: the next ``discover`` may come too late."""
        own = self._event_writer.stream(run)
        if own is not None and own not in self._senders:
            self._add(own, self._spool.joinpath(*own), now)

    def _watch(self, sender: StreamSender) -> None:
        watched = sum(watcher.fd is not None for watcher in self._watchers.values())
        watcher = self._watchers[sender.stream] = ProcessWatcher(sender.folder)
        # The end of any more is noticed within a second, by its lock.
        if watched < file_limit() // 2:
            watcher.start()
        if watcher.fd is not None:
            self._broker_connection.watch_fd(watcher.fd)

    def _unwatch(self, watcher: ProcessWatcher) -> None:
        if watcher.fd is not None:
            self._broker_connection.unwatch_fd(watcher.fd)
        watcher.stop()

    def _check_stream_safely(self, sender: StreamSender, now: float, *, beat: bool) -> None:
        stream = sender.stream
        try:
            self._check_stream(sender, now, beat=beat)
            self._unreadable.discard(stream)
        except OSError as error:  # another user's, perhaps; the other streams go on
            if stream not in self._unreadable:
                self._unreadable.add(stream)
                log.warning("%s cannot be checked: %s", stream, error)

    def _check_stream(self, sender: StreamSender, now: float, *, beat: bool) -> None:
        stream = sender.stream
        if not sender.final:
            self._check_live_stream(sender, now, beat=beat)
        if sender.final:
            sender.check_remaining(now)
            self._rank_reporter.check_loss(sender, now)
            self._add_own(stream.run, now)
            if sender.is_complete and stream.producer == commands.CONTROL_PRODUCER:
                self.command_delivery.close_inbox(stream, sender.folder, sender.acked)
            if sender.is_complete and not sender.folder.exists():
                del self._senders[stream]
                self._rank_reporter.forget(stream)

    def _check_live_stream(self, sender: StreamSender, now: float, *, beat: bool) -> None:
        stream = sender.stream
        watcher, fields = self._watchers.get(stream), sender.fields()
        if watcher is None:
            if not self._event_writer.owns(stream):
                sender.producer_gone()
        elif watcher.is_gone(now, has_closed=fields is None or fields.closed):
            del self._watchers[stream]
            self._unwatch(watcher)
            sender.producer_gone()
        else:
            sender.page.mark_shipper_alive(time.monotonic_ns())
            is_control = stream.producer == commands.CONTROL_PRODUCER
            if is_control and not self._has_unconfirmed_answers(stream):
                self.command_delivery.open_inbox(stream, sender.folder)
            if beat and self._unsent_reports(stream.run) < _MAX_UNSENT_HEARTBEATS:
                self._rank_reporter.publish_heartbeat(sender, watcher.info, time.monotonic_ns())
                self._add_own(stream.run, now)

    def _look_again(self, sender: StreamSender) -> bool:
        """Whether an ended producer has written more, or is back."""
        was_complete = sender.is_complete
        sender.look_again()
        if not self._is_alive_again(sender):
            return was_complete and not sender.is_complete
        sender.producer_back()
        self._rank_reporter.reset(sender.stream, sender.folder)
        self._watch(sender)
        return True

    def _is_alive_again(self, sender: StreamSender) -> bool:
        """Whether an ended producer holds its lock again and has not closed its stream.

        It may have opened its stream again. Or the script released the lock without knowing: then
        the producer takes it again once a second.
        """
        fields = sender.fields()
        if self._event_writer.owns(sender.stream) or fields is None or fields.closed:
            return False
        with contextlib.suppress(FileNotFoundError):
            return liveness_lock.holder_pid(sender.folder / LOCK_NAME) is not None
        return False

    def _has_unconfirmed_answers(self, stream: Stream) -> bool:
        """Whether answers of the run's earlier attempts may not be on the bus yet."""
        return any(
            other.stream.run == stream.run
            and other.stream.producer == commands.CONTROL_PRODUCER
            and other.final
            and not other.is_complete
            for other in self
        )

    def _unsent_reports(self, run: str) -> int:
        own = self._event_writer.stream(run)
        sender = self._senders.get(own) if own else None
        return sender.left() if sender is not None else 0
