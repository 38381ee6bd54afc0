"""What commands come to a training process, and what it answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from lineside.bus.errors import CommandError
from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import Command
from lineside.bus.protocol.events import Stream
from lineside.emitter.spool import inbox
from lineside.emitter.spool.outside import comes_from_outside
from lineside.emitter.spool.page import INBOX
from lineside.emitter.spool.spool import SpoolWriter
from lineside.emitter.training import exit as ending
from lineside.emitter.training.notice import say
from lineside.emitter.training.publisher import Publisher


class Mailbox:
    """Commands from outside come by an inbox file, answers go by a stream of their own,
    ``run/control/<attempt>``, in whose folder that file is.

    Raises:
        SettingsError, OSError: its folder in the spool cannot be made.
    """

    def __init__(self, publisher: Publisher) -> None:
        identity = publisher.identity
        unconfirmed = publisher.unconfirmed()
        stream = Stream(identity.run, commands.PRODUCER, identity.attempt)
        self._attempt = identity.attempt
        self._spool = SpoolWriter(unconfirmed.spool, stream, role="control")
        self._ensure_shipper = unconfirmed.ensure_shipper
        self._tended = publisher.tended
        self._tended.append(self._tend)
        self._is_telling = False
        self._read = 0  # bytes of the inbox
        self._known: set[str] = set()
        self._own: deque[Command] = deque()

    @property
    def has_news(self) -> bool:
        """Whether ``take`` has something to give."""
        words: Any = self._spool.words
        return words[INBOX] != self._read or bool(self._own)

    def post(self, command: Command) -> None:
        """Have a command of this process's own taken. A signal handler may call it."""
        self._own.append(command)

    def take(self, state: Any) -> list[Command]:
        """What came since the last time; each command once, however often it was sent."""
        taken = []
        while self._own:
            command = self._own.popleft()
            if command.id not in self._known:
                self._tell(commands.COMMAND, command.data(), state)
                taken += self._accept(command.data(), state)
        for data in self._arrived():
            taken += self._accept(data, state)
        return taken

    def say_on(self, step: int, facts: dict[str, Any]) -> None:
        """Say first of all that commands are taken, or why not."""
        self._spool.write(commands.CONTROL_ON, step, data=facts)

    def answer(self, kind: str, command: Command, state: Any, **more: Any) -> None:
        """Say what became of a command."""
        self._tell(kind, {"id": command.id, "op": command.op, **more}, state)

    def unconfirmed(self) -> ending.Unconfirmed:
        """The answers that the bus may not have confirmed yet."""
        folder = self._spool.folder
        return ending.Unconfirmed(
            folder.page, self._spool.settled_seq, folder.root, self._ensure_shipper
        )

    def close(self) -> None:
        """Let go of the stream."""
        self._spool.settle()
        self._tended.remove(self._tend)
        self._spool.close()

    def _arrived(self) -> list[Mapping[str, Any] | None]:
        self._spool.folder.page.exchange()
        end: int = self._spool.words[INBOX]
        if end == self._read:
            return []
        try:
            events = inbox.read(self._spool.folder.path, self._read, end)
        except OSError as error:
            if comes_from_outside(error):
                raise
            say(f"commands cannot be read now: {error}")
            return []
        self._read = end
        return [event.data for event in events if event.kind == commands.COMMAND]

    def _accept(self, data: Mapping[str, Any] | None, state: Any) -> list[Command]:
        name = str((data or {}).get("id") or "")
        if not name or name in self._known:
            return []
        self._known.add(name)
        try:
            command = Command.read(data)
        except CommandError as error:
            self._tell(commands.REJECTED, {"id": name, "why": str(error)}, state)
            return []
        if command.attempt not in ("", self._attempt):
            why = f"it was meant for attempt {command.attempt}, and this is {self._attempt}"
            self.answer(commands.REJECTED, command, state, why=why)
            return []
        self.answer(commands.DELIVERED, command, state)
        return [command]

    def _tell(self, kind: str, data: dict[str, Any], state: Any) -> None:
        self._is_telling = True
        try:
            self._spool.write(kind, state.global_step, state.epoch, data=data)
        finally:
            self._is_telling = False

    def _tend(self) -> None:
        if self._is_telling:  # a signal handler's hook came in the middle of it
            return
        page = self._spool.folder.page
        self._spool.tend()
        if self._spool.folder.page is not page:
            self._read = 0  # somebody removed the spool: its inbox begins anew
