"""Publishes the stopper's commands and alerts, each once."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lineside.bus.client.producer_pool import ProducerPool
from lineside.bus.errors import BrokerUnreachable, BusError
from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import EXPIRES_SECONDS, Command
from lineside.bus.protocol.event_kinds import EVALUATION_REVIEWED
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.wording import agree, plural
from lineside.subscribers.stopper import rules
from lineside.subscribers.stopper.attempt_state import Trigger

log = logging.getLogger("lineside")

PRODUCER = "stopper"
"""The producer part of the streams that carry alerts."""
ALERT = "alert"
"""The kind of event that reports a rule that held, or that cannot hold."""
_FLUSH_SECONDS = 5.0
_PUBLISHED_KINDS = (commands.COMMAND, EVALUATION_REVIEWED, ALERT)
_OPS_BY_ACTION = {rules.STOP: "stop", rules.SAVE_AND_STOP: "stop"}


@dataclass(frozen=True)
class OutboxMessage:
    """A message to publish on a stream of ``run``; a command is for its ``attempt``.

    Of several messages with the same ``compaction_key`` only the last is published.
    """

    id: str
    run: str
    producer: str
    kind: str
    step: int
    data: Mapping[str, Any]
    attempt: str = ""
    compaction_key: str = ""


def message(trigger: Trigger, *, dry_run: bool) -> OutboxMessage:
    """The message for ``trigger``: a command, or an alert if its action is ``alert``."""
    reason = f"{trigger.rule.name}: {trigger.reason}"[:1000]
    if trigger.action == rules.ALERT or dry_run:
        message_id = f"{trigger.id}-dry" if dry_run else trigger.id
        data = {
            "id": message_id,
            "rule": trigger.rule.name,
            "action": trigger.action,
            "args": dict(trigger.args),
            "why": trigger.reason,
            "dry_run": dry_run,
            "names": list(trigger.names),
        }
        return OutboxMessage(message_id, trigger.stream.run, PRODUCER, ALERT, trigger.step, data)
    op = _OPS_BY_ACTION.get(trigger.action, trigger.action)
    expires_at = trigger.time + EXPIRES_SECONDS  # by the clock of the training, which checks it
    # Another attempt may have resumed at a step where the rule does not hold.
    command = Command(
        op, trigger.args, reason, _issued_by(), expires_at, trigger.id, trigger.stream.attempt
    )
    return _command(trigger.stream, trigger.step, command)


def evaluation_reviewed(stream: Stream, event: Event) -> OutboxMessage:
    """Report to a training that waits at this evaluation that no more commands follow."""
    data = {"seq": event.seq, "attempt": stream.attempt}
    return OutboxMessage(
        _review_id(data),
        stream.run,
        commands.CONTROL_PRODUCER,
        EVALUATION_REVIEWED,
        event.step,
        data,
        stream.attempt,
        f"{EVALUATION_REVIEWED} {stream.run}",
    )


class Outbox:
    """Sends messages over the broker at ``address``. Belongs to one thread.

    A message is dropped if the journal shows that it was published before (``discard_published``),
    or if it could not be sent for ``EXPIRES_SECONDS``.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._messages: dict[str, tuple[OutboxMessage, float]] = {}  # and since when
        self._producers: ProducerPool | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no message waits."""
        return not self._messages

    def put(self, message: OutboxMessage) -> None:
        """Queue a message for the next ``send``."""
        key = message.compaction_key or message.id
        self._messages.pop(key, None)  # so that it is sent after all others
        self._messages[key] = message, time.monotonic()

    def discard_published(self, event: Event) -> None:
        """Drop the message that ``event``, of this process or an earlier one, has published."""
        if event.kind in _PUBLISHED_KINDS and self._messages:
            data = event.data or {}
            message_id = _review_id(data) if event.kind == EVALUATION_REVIEWED else data.get("id")
            self._messages = {
                key: one for key, one in self._messages.items() if one[0].id != message_id
            }

    def discard_attempt(self, stream: Stream) -> None:
        """Drop the commands for the training of ``stream``, which has ended."""
        ended_attempt = stream.run, stream.attempt
        self._messages = {
            key: one
            for key, one in self._messages.items()
            if (one[0].run, one[0].attempt) != ended_attempt
        }

    def send(self) -> None:
        """Send every message; those that the broker does not take now wait for the next call."""
        cutoff = time.monotonic() - EXPIRES_SECONDS
        self._messages = {key: one for key, one in self._messages.items() if one[1] > cutoff}
        if not self._messages:
            return
        producers = self._producers = self._producers or ProducerPool(self._address)
        by_stream: dict[tuple[str, str], dict[str, OutboxMessage]] = {}
        for key, (message, _) in self._messages.items():
            by_stream.setdefault((message.run, message.producer), {})[key] = message
        for (run, producer), messages in by_stream.items():
            what = plural(len(messages), "message")
            try:
                for message in messages.values():
                    producers.emit(
                        run, producer, message.kind, step=message.step, data=message.data
                    )
                producers.flush(run, producer, _FLUSH_SECONDS)
            except BrokerUnreachable as error:
                # The broker may have taken some of them; sent again, they have the same ids.
                waits = agree(len(messages), "waits")
                log.warning("stopper: %s to %s %s: %s", what, run, waits, error)
                return
            except BusError as error:
                are = agree(len(messages), "is")
                log.warning("stopper: %s to %s %s refused: %s", what, run, are, error)
            for key in messages:
                del self._messages[key]

    def close(self) -> None:
        """Disconnect."""
        if self._producers is not None:
            self._producers.close()


def _review_id(data: Mapping[str, Any]) -> str:
    return f"{EVALUATION_REVIEWED}-{data.get('attempt')}-{data.get('seq')}"


def _command(stream: Stream, step: int, command: Command) -> OutboxMessage:
    return OutboxMessage(
        command.id,
        stream.run,
        commands.CONTROL_PRODUCER,
        commands.COMMAND,
        step,
        command.to_data(),
        command.attempt,
    )


def _issued_by() -> str:
    return f"stopper@{platform.node()}"
