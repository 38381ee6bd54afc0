"""Sends commands, answers to alerts and requests about checkpoints to the bus, one at a time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from anyio import CapacityLimiter

from lineside.bus.client.command_client import CommandClient
from lineside.bus.errors import BrokerUnreachable
from lineside.bus.protocol import commands
from lineside.bus.protocol.alerts import Response
from lineside.bus.protocol.checkpoints import CheckpointRequest
from lineside.bus.protocol.commands import Command
from lineside.store.database.values import sanitize_text, to_datetime
from lineside.store.history import records
from lineside.store.history.history import History

_TIMEOUT_SECONDS = 3.0  # for the broker's answer
_MAX_SENT = 1000  # commands kept until the store has them
_THREADS = 4  # that may wait for the broker, so that other requests keep theirs


class CommandIdConflict(Exception):
    """Another command was sent under this id."""


class CommandSender:
    """Sends each command once, by its id, to the broker at ``address``. Any thread may use it.

    Each command gets a new client: that takes milliseconds, is rare, and leaves no socket open.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._sent: OrderedDict[tuple[str, str], records.Command] = OrderedDict()
        self._failed_at = 0.0
        self.threads = CapacityLimiter(_THREADS)
        """Limits the threads of requests that wait for the broker."""

    def find_sent(self, history: History, run: str, command: Command) -> records.Command | None:
        """The current record of the command, if it was sent before.

        Raises:
            CommandIdConflict: another command was sent under its id.
        """
        found = history.command(run, command.id) or self._sent.get((run, command.id))
        if found is None:
            return None
        expected = (command.op, dict(command.args), sanitize_text(command.reason))
        if found.op is not None and expected != (found.op, found.args, found.reason):
            raise CommandIdConflict
        return found

    def send(self, history: History, run: str, command: Command) -> records.Command:
        """Send the command unless it was sent before; its current record.

        Raises:
            CommandIdConflict: another command was sent under its id.
            BrokerUnreachable: the journal may have the command or not; send it again.
            BusError: the broker refuses it.
        """
        arrived_at = time.monotonic()
        with self._lock:
            existing = self.find_sent(history, run, command)
            if existing is not None:
                return existing
            with self._client(arrived_at) as client:
                client.send(run, command, _TIMEOUT_SECONDS)
            sent = self._sent[run, command.id] = _requested(command)
            while len(self._sent) > _MAX_SENT:
                self._sent.popitem(last=False)
            return sent

    def respond(self, run: str | None, response: Response | CheckpointRequest) -> None:
        """Publish an answer to alerts, or a request about a checkpoint, of ``run``.

        None is of no run, or of every run.

        Raises:
            BrokerUnreachable: the journal may have the answer or not; it may be sent again.
            BusError: the broker refuses it.
        """
        arrived_at = time.monotonic()
        with self._lock, self._client(arrived_at) as client:
            client.respond(run, response, _TIMEOUT_SECONDS)

    @contextmanager
    def _client(self, arrived_at: float) -> Iterator[CommandClient]:
        """A client for one request, which came at ``arrived_at``. Hold the lock."""
        if self._failed_at > arrived_at:  # failed while this thread waited for the lock
            raise BrokerUnreachable(self._address, _TIMEOUT_SECONDS)
        try:
            with CommandClient(self._address) as client:
                yield client
        except BrokerUnreachable:
            self._failed_at = time.monotonic()
            raise


def _requested(command: Command) -> records.Command:
    """The record that the store will have of a command just sent."""
    return records.Command(
        id=command.id,
        op=command.op,
        args=dict(command.args),
        reason=sanitize_text(command.reason),
        issued_by=command.issued_by,
        requested_at=to_datetime(time.time()),
        expires_at=to_datetime(command.expires_at),
        state=commands.STATE_OF_KIND[commands.COMMAND],
        delivered_at=None,
        settled_at=None,
        attempt=None,
        step=None,
        detail="",
    )
