"""Where commands asked for over HTTP go out to the bus, one after the other."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from lineside.bus.client.producer import Producer
from lineside.bus.errors import BrokerUnreachable
from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import Command
from lineside.bus.protocol.events import Stream, new_attempt
from lineside.store.database.values import at, clean
from lineside.store.history import records
from lineside.store.history.reads import History

ANYBODY = "user@dashboard"
"""Who a command is from where nobody has to say who he is."""
_PATIENCE_SECONDS = 3.0  # for the broker's answer
_REMEMBERED = 1000  # commands sent, until the store has them


class OtherCommand(Exception):
    """A command of this id was sent before, and said something else."""


class Desk:
    """Sends each command once, by its id, to the broker at ``address``. Any thread may use it.

    A producer lives for one command: that takes milliseconds, is rare, and leaves nothing open.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._sent: OrderedDict[tuple[str, str], records.Command] = OrderedDict()
        self._failed_at = 0.0

    def known(self, history: History, run: str, command: Command) -> records.Command | None:
        """The command as it stands, if it was sent before.

        Raises:
            OtherCommand: what was sent under its id is not it.
        """
        found = history.command(run, command.id) or self._sent.get((run, command.id))
        if found is None:
            return None
        mine = (command.op, dict(command.args), clean(command.reason))
        if found.op is not None and mine != (found.op, found.args, found.reason):
            raise OtherCommand
        return found

    def send(self, history: History, run: str, command: Command) -> records.Command:
        """The command as it stands, in the journal now if it was not before.

        Raises:
            OtherCommand: another one was sent under its id.
            BrokerUnreachable: it may be in the journal or not; it can be sent again.
            BusError: the broker refuses it.
        """
        came = time.monotonic()
        with self._lock:
            before = self.known(history, run, command)
            if before is not None:
                return before
            if self._failed_at > came:  # who waited meanwhile need not wait as long again
                raise BrokerUnreachable(self._address, _PATIENCE_SECONDS)
            stream = Stream(run, commands.PRODUCER, new_attempt())
            producer = Producer(self._address, stream)
            try:
                producer.emit(commands.COMMAND, data=command.data())
                producer.flush(_PATIENCE_SECONDS)
            except BrokerUnreachable:
                self._failed_at = time.monotonic()
                raise
            finally:
                producer.close()
            sent = self._sent[run, command.id] = _requested(command)
            while len(self._sent) > _REMEMBERED:
                self._sent.popitem(last=False)
            return sent


def _requested(command: Command) -> records.Command:
    """A command just sent, as the store will tell it."""
    return records.Command(
        id=command.id,
        op=command.op,
        args=dict(command.args),
        reason=clean(command.reason),
        issued_by=command.issued_by,
        requested_at=at(time.time()),
        expires_at=at(command.expires_at),
        state=commands.STATES[commands.COMMAND],
        delivered_at=None,
        settled_at=None,
        attempt=None,
        step=None,
        detail="",
    )
