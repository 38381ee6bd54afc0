"""What the reader's tests do again and again: publish events, and collect them."""

from __future__ import annotations

import time

from lineside.bus.client.reader import Batch, Reader
from lineside.bus.protocol.events import Stream
from lineside.bus.testing import Producer


def collect(reader: Reader, events: int, timeout: float = 10.0) -> list[Batch]:
    """Batches until they hold so many events, each committed."""
    batches: list[Batch] = []
    deadline = time.monotonic() + timeout
    while sum(len(batch.events) for batch in batches) < events:
        assert time.monotonic() < deadline, f"{batches}"
        batch = reader.poll(0.1)
        if batch is not None:
            batches.append(batch)
            reader.commit(batch.offset)
    return batches


def seqs(batches: list[Batch]) -> list[int]:
    return [event.seq for batch in batches for event in batch.events]


def publish(address: str, stream: Stream | str, count: int) -> None:
    with Producer(address, stream) as producer:
        for step in range(count):
            producer.emit("log", step=step)
        producer.flush()
