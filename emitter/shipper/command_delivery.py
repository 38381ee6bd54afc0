"""Reads commands from the bus and delivers them to the inbox of their training.

The ``control`` streams of a run hold all its commands and answers. Read from their start, they show
which commands are still to be delivered, however often shipper and training were restarted.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lineside.bus.protocol import commands, wire
from lineside.bus.protocol.event_kinds import EVALUATION_REVIEWED
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.protocol.messages import DENIED, OFFSET, OK, START, Ack, Cur, Evt, GapMessage, Sub
from lineside.emitter.shipper.broker_connection import BrokerConnection
from lineside.emitter.spool import inbox
from lineside.emitter.spool.status_reader import StatusPageFile

log = logging.getLogger("lineside")

_CREDIT = 256
_SUBSCRIBE_RETRY_SECONDS = 2.0


@dataclass
class _AttemptInbox:
    """The inbox of one attempt, in the folder of its control stream."""

    folder: Path
    read_up_to: int = 0  # its control stream was read before this seq
    delivered: set[str] = field(default_factory=set)
    end_seq: int | None = None  # where its control stream ended
    reviewed_seq: int = -1  # of the last evaluation that the stopper has reviewed
    review: bytes = b""  # the record of that review, until it is delivered

    @property
    def is_open(self) -> bool:
        """Whether it accepts commands: every event before its first one was read."""
        return self.read_up_to > 0 and self.end_seq is None


@dataclass
class _RunCommands:
    """The commands of one run."""

    pending: dict[str, bytes] = field(default_factory=dict)  # records without a final answer
    acknowledged: set[str] = field(default_factory=set)  # a training reported them as received
    answered: set[str] = field(default_factory=set)
    inboxes: dict[str, _AttemptInbox] = field(default_factory=dict)  # by attempt, the newest last

    def mark_answered(self, command_id: str) -> None:
        self.answered.add(command_id)
        self.pending.pop(command_id, None)


class CommandDelivery:
    """Subscribes over ``broker_connection`` to the control streams of the runs trained here.

    ``reject(run, {"id": ..., "why": ...})`` publishes that a command was not applied.
    """

    def __init__(
        self, broker_connection: BrokerConnection, reject: Callable[[str, dict[str, str]], object]
    ) -> None:
        self._broker_connection = broker_connection
        self._reject = reject
        self._runs: dict[str, _RunCommands] = {}
        self._closed_inboxes: set[tuple[str, str]] = set()  # runs and attempts
        self._journal = ""
        self._offset = 0
        self._is_subscribed = self._is_subscribing = False
        self._subscribe_at = 0.0
        self._credit = 0
        self._denial = ""

    def open_inbox(self, stream: Stream, folder: Path) -> None:
        """Deliver commands to the training whose control ``stream`` is in ``folder``."""
        run_commands = self._runs.setdefault(stream.run, _RunCommands())
        if stream.attempt not in run_commands.inboxes:
            run_commands.inboxes[stream.attempt] = _AttemptInbox(folder)
            self._closed_inboxes.discard((stream.run, stream.attempt))  # it seemed to have ended
            self._read_from_start()
        self._deliver(run_commands)  # those that could not be delivered before

    def close_inbox(self, stream: Stream, folder: Path, end_seq: int) -> None:
        """That training has ended, and its control stream is confirmed before ``end_seq``."""
        if (stream.run, stream.attempt) in self._closed_inboxes:
            return
        run_commands = self._runs.setdefault(stream.run, _RunCommands())
        attempt_inbox = run_commands.inboxes.get(stream.attempt)
        if attempt_inbox is None:
            # An earlier shipper opened it; the commands that it received are in the journal.
            attempt_inbox = run_commands.inboxes[stream.attempt] = _AttemptInbox(folder)
            self._read_from_start()
        attempt_inbox.end_seq = end_seq
        self._close_if_read(run_commands, stream.run, stream.attempt, attempt_inbox)

    def poll(self, now: float) -> None:
        """Subscribe where needed, and return credit."""
        if self._is_subscribed:
            self._give_credit()
        elif self._runs and now >= self._subscribe_at:
            runs = tuple(
                f"{run}/{commands.CONTROL_PRODUCER}"
                for run, run_commands in self._runs.items()
                if run_commands.inboxes
            )
            start = OFFSET if self._offset else START
            self._is_subscribing = bool(runs) and self._broker_connection.send(
                Sub("", start, self._offset, runs, _CREDIT)
            )
            self._subscribe_at = now + _SUBSCRIBE_RETRY_SECONDS

    def on_ack(self, ack: Ack) -> None:
        """Handle the answer to a subscription."""
        if self._is_subscribing and ack.status == DENIED and ack.text != self._denial:
            self._denial = ack.text
            log.error("shipper: commands cannot be received: %s", ack.text)
        if not (self._is_subscribing and ack.text and ack.status == OK):
            return
        self._is_subscribing = False
        if self._journal not in ("", ack.text) or ack.head < self._offset:
            self._read_from_start()
        else:
            self._is_subscribed = True
        self._journal = ack.text

    def on_who(self) -> None:
        """Subscribe again: the broker does not know the subscription."""
        self._is_subscribed = self._is_subscribing = False
        self._credit, self._subscribe_at = 0, 0.0

    def on_delivery(self, message: Evt | GapMessage) -> None:
        """Handle entries of a run's control streams."""
        if not self._is_subscribed:
            return
        self._offset = message.offset
        self._credit += 1
        if self._credit >= _CREDIT // 2:  # many entries must not wait for the next ``poll``
            self._give_credit()
        stream = message.stream
        run_commands = self._runs.get(stream.run) if stream else None
        if run_commands is None or stream is None:
            return
        attempt_inbox = run_commands.inboxes.get(stream.attempt)
        if isinstance(message, Evt):
            for body in wire.record_bodies(message.blob):
                with contextlib.suppress(ValueError):
                    self._handle_record(run_commands, attempt_inbox, body)
        if attempt_inbox is not None:
            end = message.first_seq + message.count if isinstance(message, Evt) else message.end
            attempt_inbox.read_up_to = max(attempt_inbox.read_up_to, end)
            self._close_if_read(run_commands, stream.run, stream.attempt, attempt_inbox)
        self._deliver(run_commands)

    def _give_credit(self) -> None:
        if self._credit and self._broker_connection.send(Cur(0, self._credit)):
            self._credit = 0

    def _read_from_start(self) -> None:
        self.on_who()
        self._offset = 0

    def _handle_record(
        self, run_commands: _RunCommands, attempt_inbox: _AttemptInbox | None, body: memoryview
    ) -> None:
        event = wire.decode_event(body)
        command_id = str((event.data or {}).get("id") or "")
        if event.kind == commands.COMMAND:
            if command_id and command_id not in run_commands.answered:
                run_commands.pending.setdefault(command_id, wire.frame(body))
        elif event.kind == EVALUATION_REVIEWED:
            _keep_review(run_commands, event, body)
        elif event.kind == commands.DELIVERED:
            run_commands.acknowledged.add(command_id)
            if attempt_inbox is not None:
                attempt_inbox.delivered.add(command_id)
        elif event.kind in commands.FINAL_KINDS:
            run_commands.mark_answered(command_id)

    def _deliver(self, run_commands: _RunCommands) -> None:
        inboxes, pending = run_commands.inboxes.values(), run_commands.pending
        delivered = run_commands.acknowledged.union(*(one.delivered for one in inboxes))
        new = [command_id for command_id in pending if command_id not in delivered]
        newest = next((one for one in reversed(inboxes) if one.is_open), None)
        if newest is None or not (new or newest.review):
            return
        page = StatusPageFile(newest.folder)
        if page.read() is None:
            return
        # The review comes last: training continues once it has read it.
        records = [pending[command_id] for command_id in new]
        records += [newest.review] if newest.review else []
        try:
            page.set_inbox_bytes(inbox.deliver(newest.folder, records))
            newest.delivered.update(new)
            newest.review = b""
        except OSError as error:
            log.warning("shipper: commands cannot be delivered in %s: %s", newest.folder, error)

    def _close_if_read(
        self, run_commands: _RunCommands, run: str, attempt: str, attempt_inbox: _AttemptInbox
    ) -> None:
        """Reject commands that an ended training received and did not answer.

        The others wait for the next training.
        """
        if attempt_inbox.end_seq is None or attempt_inbox.read_up_to < attempt_inbox.end_seq:
            return
        del run_commands.inboxes[attempt]
        self._closed_inboxes.add((run, attempt))
        received = attempt_inbox.delivered & run_commands.acknowledged
        for command_id in received & run_commands.pending.keys():
            run_commands.mark_answered(command_id)
            why = "training ended without an answer to it; whether it was applied is not known"
            self._reject(run, {"id": command_id, "why": why})


def _keep_review(run_commands: _RunCommands, event: Event, body: memoryview) -> None:
    """Keep a review for the attempt it names. The last one counts, and no answer follows."""
    data = event.data or {}
    attempt_inbox, seq = run_commands.inboxes.get(str(data.get("attempt"))), data.get("seq")
    if attempt_inbox and isinstance(seq, int) and seq > attempt_inbox.reviewed_seq:
        attempt_inbox.reviewed_seq, attempt_inbox.review = seq, wire.frame(body)
