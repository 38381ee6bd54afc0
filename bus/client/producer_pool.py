"""Producers of many runs on one connection: for a process that publishes to runs of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lineside.bus.client.producer import Producer, ProducerConnection
from lineside.bus.errors import BusError
from lineside.bus.protocol.events import Stream, new_attempt

_MAX_PRODUCERS = 64


class ProducerPool:
    """Publishes on a stream of its own for each run and producer name, over one connection.

    The streams used last stay open. Belongs to one thread.

    Raises:
        AddressError: the address cannot be used.
        SettingsError: its key cannot be used.
    """

    def __init__(self, address: str) -> None:
        self._connection = ProducerConnection(address)
        self._producers: dict[tuple[str, str], Producer] = {}

    def __enter__(self) -> ProducerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def emit(
        self, run: str, producer: str, kind: str, *, step: int = 0, data: Mapping[str, Any]
    ) -> None:
        """Collect one event for the stream of ``producer`` in ``run``.

        Raises:
            StreamNameError: there can be no such stream.
        """
        self._producer(run, producer).emit(kind, step=step, data=data)

    def flush(self, run: str, producer: str, timeout: float) -> None:
        """Return once every event of that stream is in the journal.

        After an error the stream is closed: its events may be in the journal or not, and the next
        event of that run and producer begins another stream.

        Raises:
            BrokerUnreachable: no answer within ``timeout`` seconds.
            KeyRefused: the broker does not accept the key.
            BusError: the broker refuses the stream or its events.
        """
        found = self._producer(run, producer)
        try:
            found.flush(timeout)
        except BusError:
            del self._producers[run, producer]
            found.close()
            raise
        found.drop_acked()

    def close(self) -> None:
        """Disconnect. Events that were not flushed are lost."""
        self._producers.clear()
        self._connection.close()

    def _producer(self, run: str, producer: str) -> Producer:
        key = run, producer
        found = self._producers.pop(key, None)
        if found is None:
            stream = Stream.parse(f"{run}/{producer}/{new_attempt()}")
            found = Producer(self._connection.address, stream, self._connection)
        self._producers[key] = found  # the one used last is the last
        if len(self._producers) > _MAX_PRODUCERS:
            self._close_idle()
        return found

    def _close_idle(self) -> None:
        for key, producer in self._producers.items():
            if producer.acked == producer.next_seq and producer.next_seq:
                producer.close()
                del self._producers[key]
                return
