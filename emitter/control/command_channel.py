"""Receives commands in the training process and publishes the answers to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from lineside.bus.errors import CommandError
from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import Command
from lineside.bus.protocol.event_kinds import EVALUATION_REVIEWED
from lineside.bus.protocol.events import Event, Stream
from lineside.emitter.spool import inbox
from lineside.emitter.spool.confirmation import Unconfirmed
from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.spool.status_page import INBOX_BYTES
from lineside.emitter.spool.writer import SpoolWriter
from lineside.emitter.training.console import print_once
from lineside.emitter.training.publisher import Publisher


class CommandChannel:
    """Commands arrive in an inbox file; answers go into the stream ``run/control/<attempt>``.

    The inbox file is in the folder of that stream.

    Raises:
        SettingsError, OSError: its folder in the spool cannot be made.
    """

    def __init__(self, publisher: Publisher) -> None:
        identity = publisher.identity
        unconfirmed = publisher.unconfirmed()
        stream = Stream(identity.run, commands.CONTROL_PRODUCER, identity.attempt)
        self._attempt = identity.attempt
        self._shipper_starter = unconfirmed.shipper_starter
        self._spool = SpoolWriter(self._shipper_starter.spool, stream, role="control")
        self._maintenance_tasks = publisher.maintenance_tasks
        self._maintenance_tasks.append(self._maintain)
        self._is_publishing = False
        self._inbox_position = 0  # bytes of the inbox
        self._seen_ids: set[str] = set()
        self._own_commands: deque[Command] = deque()
        self.reviewed_seq = -1
        """The seq of the last evaluation that the stopper has reviewed."""

    @property
    def has_pending(self) -> bool:
        """Whether ``receive`` has something to return."""
        fields: Any = self._spool.fields
        return fields[INBOX_BYTES] != self._inbox_position or bool(self._own_commands)

    def enqueue(self, command: Command) -> None:
        """Queue a command of this process. A signal handler may call this."""
        self._own_commands.append(command)

    def receive(self, state: Any) -> list[Command]:
        """Commands that arrived since the last call; each once, however often it was sent."""
        taken = []
        while self._own_commands:
            command = self._own_commands.popleft()
            if command.id not in self._seen_ids:
                self._publish(commands.COMMAND, command.to_data(), state)
                taken += self._accept(command.to_data(), state)
        for event in self._read_inbox():
            if event.kind == commands.COMMAND:
                taken += self._accept(event.data, state)
            elif event.kind == EVALUATION_REVIEWED:
                self._accept_review(event.data or {})
        return taken

    def publish_control_on(self, step: int, facts: dict[str, Any]) -> None:
        """Publish which commands are applied, or why none is."""
        self._spool.write(commands.CONTROL_ON, step, data=facts)

    def answer(self, kind: str, command: Command, state: Any, **more: Any) -> None:
        """Publish the answer ``kind`` to a command."""
        self._publish(kind, {"id": command.id, "op": command.op, **more}, state)

    def unconfirmed(self) -> Unconfirmed:
        """The answers that the bus may not have confirmed yet."""
        folder = self._spool.folder.path
        return Unconfirmed(folder, self._spool.accounted_seq, self._shipper_starter)

    def close(self) -> None:
        """Close the stream."""
        self._spool.flush_gaps()
        self._maintenance_tasks.remove(self._maintain)
        self._spool.close()

    def abandon(self) -> None:
        """Close the files of a forked child; the stream goes on in the parent."""
        self._spool.abandon()

    def _read_inbox(self) -> list[Event]:
        self._spool.folder.page.sync()
        end: int = self._spool.fields[INBOX_BYTES]
        if end == self._inbox_position:
            return []
        try:
            events = inbox.read(self._spool.folder.path, self._inbox_position, end)
        except OSError as error:
            if is_script_error(error):
                raise
            print_once(f"commands cannot be read now: {error}")
            return []
        self._inbox_position = end
        return events

    def _accept_review(self, data: Mapping[str, Any]) -> None:
        seq = data.get("seq")
        if data.get("attempt") == self._attempt and isinstance(seq, int):
            self.reviewed_seq = max(self.reviewed_seq, seq)

    def _accept(self, data: Mapping[str, Any] | None, state: Any) -> list[Command]:
        name = str((data or {}).get("id") or "")
        if not name or name in self._seen_ids:
            return []
        self._seen_ids.add(name)
        try:
            command = Command.from_data(data)
        except CommandError as error:
            self._publish(commands.REJECTED, {"id": name, "why": str(error)}, state)
            return []
        if command.attempt not in ("", self._attempt):
            why = f"it was meant for attempt {command.attempt}, and this is {self._attempt}"
            self.answer(commands.REJECTED, command, state, why=why)
            return []
        self.answer(commands.DELIVERED, command, state)
        return [command]

    def _publish(self, kind: str, data: dict[str, Any], state: Any) -> None:
        self._is_publishing = True
        try:
            self._spool.write(kind, state.global_step, state.epoch, data=data)
        finally:
            self._is_publishing = False

    def _maintain(self) -> None:
        if self._is_publishing:  # called by a signal handler's hook in the middle of an answer
            return
        page = self._spool.folder.page
        self._spool.maintain()
        if self._spool.folder.page is not page:
            self._inbox_position = 0  # the spool was removed: its inbox starts again
