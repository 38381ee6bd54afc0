"""The client that steers runs: commands, answers to alerts, requests about checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lineside.bus.client.producer_pool import ProducerPool
from lineside.bus.client.reader import Reader
from lineside.bus.protocol import commands
from lineside.bus.protocol.alerts import Response
from lineside.bus.protocol.checkpoints import CheckpointRequest
from lineside.bus.protocol.commands import Command
from lineside.bus.protocol.event_kinds import ANSWER_PREFIX
from lineside.bus.protocol.events import INTERNAL_RUN, Event
from lineside.bus.protocol.messages import START


@dataclass(frozen=True)
class CommandStatus:
    """A state that a command reached: requested, delivered, applied, rejected, expired, superseded.

    ``step`` is the training's at that moment (0 for requested), ``time`` in seconds since the
    epoch. ``detail`` is a sentence about it, or empty.
    """

    state: str
    step: int
    time: float
    detail: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the state of the command no longer changes."""
        return ANSWER_PREFIX + self.state in commands.FINAL_KINDS


class CommandClient:
    """Sends commands to runs over the broker at ``address``. Belongs to one thread.

        with CommandClient(settings.broker) as client:
            command = Command("stop", reason="the loss is flat")
            client.send("my-run", command)
            for status in client.follow("my-run", command.id, timeout=60):
                print(status.state, status.step, status.detail)

    Raises:
        AddressError: the address cannot be used.
        SettingsError: its key cannot be used.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._producers = ProducerPool(address)
        self._readers: dict[str, Reader] = {}
        self._statuses: dict[tuple[str, str], list[CommandStatus]] = {}

    def __enter__(self) -> CommandClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, run: str, command: Command, timeout: float = 10.0) -> None:
        """Return once the command is in the journal, where it is safe.

        Raises:
            StreamNameError: ``run`` cannot be a run's id.
            BrokerUnreachable: no answer within ``timeout`` seconds. The command may be in the
                journal or not; the same command may be sent again.
            BusError: the broker refuses it.
        """
        self._publish(run, commands.COMMAND, command.to_data(), timeout)

    def respond(
        self, run: str | None, response: Response | CheckpointRequest, timeout: float = 10.0
    ) -> None:
        """Return once an answer to alerts, or a request about a checkpoint, is in the journal.

        ``run`` may be None for a mute, which is then of every run.

        Raises:
            StreamNameError: ``run`` cannot be a run's id.
            BrokerUnreachable: as of ``send``.
            BusError: the broker refuses it.
        """
        self._publish(run or INTERNAL_RUN, response.kind, response.to_data(), timeout)

    def _publish(self, run: str, kind: str, data: Mapping[str, Any], timeout: float) -> None:
        self._producers.emit(run, commands.CONTROL_PRODUCER, kind, data=data)
        self._producers.flush(run, commands.CONTROL_PRODUCER, timeout)

    def follow(
        self,
        run: str,
        command_id: str,
        timeout: float,
        should_stop: Callable[[], bool] | None = None,
    ) -> Iterator[CommandStatus]:
        """Yield each state that the command reached or reaches, until the final one.

        Ends after ``timeout`` seconds, or within half a second after ``should_stop`` returns True.

        Raises:
            ReaderDenied: the broker refuses the subscription.
        """
        deadline, yielded = time.monotonic() + timeout, 0
        while True:
            known = self._statuses.get((run, command_id), [])
            for status in known[yielded:]:
                yield status
                if status.is_final:
                    return
            yielded = len(known)
            remaining = deadline - time.monotonic()
            if remaining <= 0 or (should_stop and should_stop()):
                return
            reader = self._reader(run)
            batch = reader.poll(min(remaining, 0.5))
            if batch:
                for event in batch.events:
                    self._receive(run, event)
                reader.commit(batch.offset)

    def close(self) -> None:
        """Disconnect."""
        self._producers.close()
        for reader in self._readers.values():
            reader.close()

    def _reader(self, run: str) -> Reader:
        if run not in self._readers:
            streams = [f"{run}/{commands.CONTROL_PRODUCER}"]
            self._readers[run] = Reader(self._address, start=START, streams=streams)
        return self._readers[run]

    def _receive(self, run: str, event: Event) -> None:
        data = event.data or {}
        command_id, state = data.get("id"), commands.STATE_OF_KIND.get(event.kind)
        if isinstance(command_id, str) and state is not None:
            status = CommandStatus(state, event.step, event.time, commands.detail(data))
            self._statuses.setdefault((run, command_id), []).append(status)
