"""Events a second into SQLite: a real mixture, decoded records in, committed rows out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.table import Row
from lineside.bus.client.reader import Batch
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from lineside.store.database.engine import open_store
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from lineside.subscribers.recorder.recorder import Recorder

STEPS = 40_000
RECORDS_A_BATCH = 256
"""Batch size of a shipper with a backlog."""
BATCHES_A_TRANSACTION = 20
"""Events a transaction of a recorder that catches up."""


def events(steps: int, log_every: int) -> Iterator[Event]:
    """A Trainer's events: five hooks a step, and now and then a log with four numbers."""
    seq, clock, now = 0, 0, 1_700_000_000.0
    for step in range(steps):
        for kind in ("step_begin", "substep_end", "pre_optimizer_step", "optimizer_step"):
            yield Event(seq, now, clock, kind, step, step / 1000)
            seq, clock, now = seq + 1, clock + 400_000, now + 0.0004
        yield Event(seq, now, clock, "step_end", step + 1, step / 1000)
        seq += 1
        if step % log_every == 0:
            logs = {
                "loss": 5.0 / (step + 1),
                "grad_norm": 1.0 + step % 7,
                "learning_rate": 1e-4 * (1 - step / steps),
                "epoch": step / 1000,
            }
            yield Event(seq, now, clock, "log", step + 1, step / 1000, 0, {"logs": logs})
            seq += 1


def batches(made: Iterator[Event], stream: Stream) -> Iterator[Batch]:
    """The events as the bus delivers them."""
    offset, pending = 0, []
    for event in made:
        pending.append(event)
        if len(pending) == RECORDS_A_BATCH:
            offset += 1
            yield Batch(offset, stream, tuple(pending), ())
            pending = []
    if pending:
        yield Batch(offset + 1, stream, tuple(pending), ())


def into_store(log_every: int) -> float:
    """Events a second from batches in memory to the last commit."""
    stream = Stream("run", "rank0", "20261121T000000-0000")
    delivered = list(batches(events(STEPS, log_every), stream))
    count = sum(len(batch.events) for batch in delivered)
    with tempfile.TemporaryDirectory() as folder:
        engine = open_store(f"sqlite:///{Path(folder) / 'store.db'}", create=True)
        writer = Writer(engine)
        began = time.perf_counter()
        for first in range(0, len(delivered), BATCHES_A_TRANSACTION):
            writer.apply("journal", delivered[first : first + BATCHES_A_TRANSACTION])
        seconds = time.perf_counter() - began
        engine.dispose()
    return count / seconds


def from_journal(log_every: int) -> float:
    """Events a second from the broker's journal to the last commit, by a recorder here."""
    with tempfile.TemporaryDirectory() as folder, BrokerProcess(Path(folder)) as broker:
        with Producer(broker.address, "run/rank0/20261121T000000-0000") as producer:
            for event in events(STEPS, log_every):
                producer.emit(event.kind, step=event.step, data=event.data)
            producer.flush(120)
            count = producer.next_seq
        recorder = Recorder(Settings.from_env({"LINESIDE_HOME": folder}))
        recorder.startup()
        recorder.reader.wait_connected(30)
        recorder.run_once()
        history = History(open_store(f"sqlite:///{folder}/store.db"))
        first = history.run("run").loss_account.recorded
        began = time.perf_counter()
        while recorder.writer.position() != (recorder.reader.journal, recorder.reader.head):
            recorder.run_once()
        seconds = time.perf_counter() - began
        assert history.run("run").loss_account.recorded == count
        recorder.shutdown()
    return (count - first) / seconds


def measure() -> list[Row]:
    """The recorder's rows of the table."""
    mixture = "5 hooks a step, a log of 4 numbers every"
    return [
        Row(f"{what}, {mixture} {every}", rate(every), "events/s", 50_000, at_least=True)
        for what, rate in (
            ("recorder into SQLite", into_store),
            ("the same from the broker's journal", from_journal),
        )
        for every in (1, 10)
    ]


if __name__ == "__main__":
    from benchmarks.table import markdown

    print(markdown(measure()))
