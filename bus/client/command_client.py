"""Steering a run from outside: send it commands, and follow what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

from lineside.bus.client.producer import Producer
from lineside.bus.client.reader import Reader
from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import Command
from lineside.bus.protocol.event_kinds import ANSWER_PREFIX
from lineside.bus.protocol.events import Event, Stream, new_attempt
from lineside.bus.protocol.messages import START


@dataclass(frozen=True)
class CommandStatus:
    """A state that a command reached: requested, delivered, applied, rejected, expired, superseded.

    ``step`` is the training's at that moment (0 for requested), ``time`` in seconds since the
    epoch. ``detail`` is a sentence on it, empty if there is nothing to say.
    """

    state: str
    step: int
    time: float
    detail: str = ""

    @property
    def is_final(self) -> bool:
        """Whether nothing more will become of the command."""
        return ANSWER_PREFIX + self.state in commands.FINAL_KINDS


class CommandClient:
    """Sends commands to the run ``run`` over the broker at ``address``. Belongs to one thread.

        with Controller(settings.broker, "my-run") as controller:
            command = Command("stop", reason="the loss is flat")
            controller.send(command)
            for progress in controller.follow(command.id, timeout=60):
                print(progress.state, progress.step, progress.detail)

    Raises:
        AddressError: the address cannot be used.
        StreamNameError: ``run`` cannot be a run's id.
    """

    def __init__(self, address: str, run: str) -> None:
        self.run = run
        stream = Stream.parse(f"{run}/{commands.CONTROL_PRODUCER}/{new_attempt()}")
        self._producer = Producer(address, stream)
        self._reader = Reader(address, start=START, streams=[f"{run}/{commands.CONTROL_PRODUCER}"])
        self._statuses: dict[str, list[CommandStatus]] = {}

    def __enter__(self) -> CommandClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, command: Command, timeout: float = 10.0) -> None:
        """Return once the command is in the journal: it is not lost any more.

        Raises:
            BrokerUnreachable: it may or may not be, after ``timeout`` seconds without a word. The
                same command may be sent again.
        """
        self._producer.emit(commands.COMMAND, data=command.data())
        self._producer.flush(timeout)

    def follow(
        self, command_id: str, timeout: float, should_stop: Callable[[], bool] | None = None
    ) -> Iterator[CommandStatus]:
        """Each state of the command as it is reached, those from before too, until the final one.

        Ends after ``timeout`` seconds if that has not come by then, or within half a second once
        ``should_stop`` says that it is not worth waiting for.

        Raises:
            ReaderDenied: the broker refuses to let this be read.
        """
        deadline, yielded = time.monotonic() + timeout, 0
        while True:
            known = self._statuses.get(command_id, [])
            for status in known[yielded:]:
                yield status
                if status.is_final:
                    return
            yielded = len(known)
            remaining = deadline - time.monotonic()
            if remaining <= 0 or (should_stop and should_stop()):
                return
            batch = self._reader.poll(min(remaining, 0.5))
            for event in batch.events if batch else ():
                self._receive(event)
            if batch:
                self._reader.commit(batch.offset)

    def close(self) -> None:
        """Disconnect."""
        self._producer.close()
        self._reader.close()

    def _receive(self, event: Event) -> None:
        name, state = (event.data or {}).get("id"), commands.STATE_OF_KIND.get(event.kind)
        if isinstance(name, str) and state is not None:
            status = CommandStatus(state, event.step, event.time, commands.detail(event.data or {}))
            self._statuses.setdefault(name, []).append(status)
