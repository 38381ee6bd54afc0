"""Commands on their way in: read off the bus, put into the inbox of the training they are for.

The whole conversation about a run, commands and answers, lies in its ``control`` streams. So who
reads them from their start knows what is still to be done, however often anybody was restarted.
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
    read_up_to: int = 0  # up to this seq of its own control stream everything has been read
    delivered: set[str] = field(default_factory=set)
    end: int | None = None  # the seq at which its control stream ended
    reviewed_seq: int = -1  # of the last evaluation that the stopper has reviewed
    review: bytes = b""  # that event, until it is delivered

    @property
    def is_open(self) -> bool:
        """Whether it takes commands: what was said before it began has been read by now."""
        return self.read_up_to > 0 and self.end is None


@dataclass
class _RunCommands:
    """What was said about one run."""

    pending: dict[str, bytes] = field(default_factory=dict)  # commands without a final answer
    acknowledged: set[str] = field(default_factory=set)  # by a training, as it said
    answered: set[str] = field(default_factory=set)
    inboxes: dict[str, _AttemptInbox] = field(default_factory=dict)  # by attempt, the newest last

    def mark_answered(self, command_id: str) -> None:
        self.answered.add(command_id)
        self.pending.pop(command_id, None)


class CommandDelivery:
    """Subscribes over ``link`` to the control streams of the runs that are trained here.

    ``reject`` publishes for a run that a command, of which it is given ``id`` and ``why``, was not
    applied.
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

    def open(self, stream: Stream, folder: Path) -> None:
        """Training takes commands in ``folder``, that of its control ``stream``."""
        run_commands = self._runs.setdefault(stream.run, _RunCommands())
        if stream.attempt not in run_commands.inboxes:
            run_commands.inboxes[stream.attempt] = _AttemptInbox(folder)
            self._closed_inboxes.discard((stream.run, stream.attempt))  # it was taken for gone
            self._read_from_start()
        self._deliver(run_commands)  # what could not be handed over before

    def end(self, stream: Stream, folder: Path, seq: int) -> None:
        """That training is over, and its control stream, ``seq`` events long, confirmed."""
        if (stream.run, stream.attempt) in self._closed_inboxes:
            return
        run_commands = self._runs.setdefault(stream.run, _RunCommands())
        attempt_inbox = run_commands.inboxes.get(stream.attempt)
        if attempt_inbox is None:
            # It went together with the shipper that had opened it; what it took is in the journal.
            attempt_inbox = run_commands.inboxes[stream.attempt] = _AttemptInbox(folder)
            self._read_from_start()
        attempt_inbox.end = seq
        self._close_inbox(run_commands, stream.run, stream.attempt, attempt_inbox)

    def poll(self, now: float) -> None:
        """Ask for what is to be read, and give back credit."""
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
        """The answer to a subscription."""
        if self._is_subscribing and ack.status == DENIED and ack.text != self._denial:
            self._denial = ack.text
            log.error("shipper: no commands can be taken: %s", ack.text)
        if not (self._is_subscribing and ack.text and ack.status == OK):
            return
        self._is_subscribing = False
        if self._journal not in ("", ack.text) or ack.head < self._offset:
            self._read_from_start()
        else:
            self._is_subscribed = True
        self._journal = ack.text

    def on_who(self) -> None:
        """The broker does not know the subscription (any more)."""
        self._is_subscribed = self._is_subscribing = False
        self._credit, self._subscribe_at = 0, 0.0

    def on_delivery(self, message: Evt | GapMessage) -> None:
        """What was said about a run."""
        if not self._is_subscribed:
            return
        self._offset = message.offset
        self._credit += 1
        if self._credit >= _CREDIT // 2:  # a long conversation is not to wait for our turns
            self._give_credit()
        stream = message.stream
        run_commands = self._runs.get(stream.run) if stream else None
        if run_commands is None or stream is None:
            return
        attempt_inbox = run_commands.inboxes.get(stream.attempt)
        if isinstance(message, Evt):
            for body in wire.record_bodies(message.blob):
                with contextlib.suppress(ValueError):
                    self._handle_event(run_commands, attempt_inbox, wire.decode_event(body))
        if attempt_inbox is not None:
            if isinstance(message, Evt):
                attempt_inbox.read_up_to = max(
                    attempt_inbox.read_up_to, message.first_seq + message.count
                )
            else:
                attempt_inbox.read_up_to = max(attempt_inbox.read_up_to, message.end)
            self._close_inbox(run_commands, stream.run, stream.attempt, attempt_inbox)
        self._deliver(run_commands)

    def _give_credit(self) -> None:
        if self._credit and self._broker_connection.send(Cur(0, self._credit)):
            self._credit = 0

    def _read_from_start(self) -> None:
        self.on_who()
        self._offset = 0

    def _handle_event(
        self, run_commands: _RunCommands, attempt_inbox: _AttemptInbox | None, event: Event
    ) -> None:
        command_id = str((event.data or {}).get("id") or "")
        if (
            event.kind == commands.COMMAND
            and command_id
            and command_id not in run_commands.answered
        ):
            run_commands.pending.setdefault(command_id, _encode_record(event))
        elif event.kind == EVALUATION_REVIEWED:
            _keep_review(run_commands, event)
        elif event.kind == commands.DELIVERED:
            run_commands.acknowledged.add(command_id)
            if attempt_inbox is not None:
                attempt_inbox.delivered.add(command_id)
        elif event.kind in commands.FINAL_KINDS:
            run_commands.mark_answered(command_id)

    def _deliver(self, run_commands: _RunCommands) -> None:
        delivered_sets = [
            run_commands.acknowledged,
            *(attempt_inbox.delivered for attempt_inbox in run_commands.inboxes.values()),
        ]
        new = [
            command_id
            for command_id in run_commands.pending
            if not any(command_id in command_ids for command_ids in delivered_sets)
        ]
        attempt_inbox = next(
            (
                attempt_inbox
                for attempt_inbox in reversed(run_commands.inboxes.values())
                if attempt_inbox.is_open
            ),
            None,
        )
        if attempt_inbox is None or not (new or attempt_inbox.review):
            return
        page = StatusPageFile.open(attempt_inbox.folder)
        if page is None:
            return
        # The review comes last: training continues once it has read it.
        records = [run_commands.pending[command_id] for command_id in new]
        records += [attempt_inbox.review] if attempt_inbox.review else []
        try:
            page.set_inbox_bytes(inbox.deliver(attempt_inbox.folder, records))
            attempt_inbox.delivered.update(new)
            attempt_inbox.review = b""
        except OSError as error:
            log.warning(
                "shipper: commands cannot be handed over in %s: %s", attempt_inbox.folder, error
            )
        finally:
            page.close()

    def _close_inbox(
        self, run_commands: _RunCommands, run: str, attempt: str, attempt_inbox: _AttemptInbox
    ) -> None:
        """Refuse what an ended training took and did not answer; the rest waits for the next."""
        if attempt_inbox.end is None or attempt_inbox.read_up_to < attempt_inbox.end:
            return
        del run_commands.inboxes[attempt]
        self._closed_inboxes.add((run, attempt))
        for command_id in (
            attempt_inbox.delivered & run_commands.acknowledged & run_commands.pending.keys()
        ):
            run_commands.mark_answered(command_id)
            why = "training ended without an answer to it; whether it was applied is not known"
            self._reject(run, {"id": command_id, "why": why})


def _keep_review(run_commands: _RunCommands, event: Event) -> None:
    """Keep a review for the attempt it names. The last one counts, and no answer follows."""
    data = event.data or {}
    attempt_inbox, seq = run_commands.inboxes.get(str(data.get("attempt"))), data.get("seq")
    if attempt_inbox and isinstance(seq, int) and seq > attempt_inbox.reviewed_seq:
        attempt_inbox.reviewed_seq, attempt_inbox.review = seq, _encode_record(event)


def _encode_record(event: Event) -> bytes:
    return wire.Encoder().encode(
        event.seq,
        event.time,
        event.monotonic_ns,
        event.kind,
        event.step,
        event.epoch,
        event.control,
        event.data,
    )
