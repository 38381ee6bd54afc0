"""The loop under every subscriber."""

from __future__ import annotations

from typing import ClassVar

from lineside.bus.client.reader import Batch
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.settings import Settings
from lineside.subscribers.batch_subscriber import BatchSubscriber

STREAM = Stream("run", "rank0", "a")


class Collecting(BatchSubscriber):
    collect_events: ClassVar[int] = 10_000
    collect_seconds: ClassVar[float] = 5.0


class FullReader:
    """A reader that always has another batch, of one event and 700 kB."""

    journal = None
    restarts = 0

    def __init__(self) -> None:
        self.delivered = 0

    def poll(self, _timeout: float) -> Batch:
        self.delivered += 1
        event = Event(self.delivered, 1.5, 7, "log")
        return Batch(self.delivered, STREAM, (event,), (), 700_000)


def test_long_records_are_not_collected_beyond_the_bytes_of_one_transaction() -> None:
    subscriber = Collecting(Settings.from_env({}))
    reader = FullReader()
    subscriber.reader = reader  # type: ignore[assignment]
    batches = subscriber._collect(reader.poll(0))
    assert [batch.offset for batch in batches] == [1, 2, 3]
