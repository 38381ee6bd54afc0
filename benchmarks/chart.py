"""The time of a chart of a million points, and whether it shows every spike."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.table import Row
from lineside.bus.client.reader import Batch
from lineside.bus.protocol.events import Event, Stream
from lineside.store.database.engine import open_store
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer

POINTS = 1_000_000
SHOWN = 1000
SPIKES = (123_457, 777_777)
ROUNDS = 15
_BATCH, _BATCHES = 256, 40


def batches() -> Iterator[Batch]:
    """A log of one number a step, as the bus delivers it, with two single-point spikes."""
    stream = Stream("run", "rank0", "20261121T000000-0000")
    for offset, first in enumerate(range(0, POINTS, _BATCH), 1):
        yield Batch(
            offset,
            stream,
            tuple(
                Event(
                    step,
                    1_700_000_000.0 + step,
                    step,
                    "log",
                    step,
                    data={"logs": {"loss": 1e6 if step in SPIKES else 1.0 / (1 + step % 1000)}},
                )
                for step in range(first, min(first + _BATCH, POINTS))
            ),
            (),
        )


def measure() -> list[Row]:
    """The chart's rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        engine = open_store(f"sqlite:///{Path(folder) / 'store.db'}", create=True)
        writer, pending = Writer(engine), []
        for batch in batches():
            pending.append(batch)
            if len(pending) == _BATCHES:
                writer.apply("journal", pending)
                pending = []
        writer.apply("journal", pending)
        history = History(engine)
        chart = history.points("run", "loss", points=SHOWN)
        assert chart.total == POINTS
        assert set(SPIKES) <= set(chart.step), "a spike is lost"
        times = {
            f"chart of 1,000,000 points as {len(chart.x)}": (
                _milliseconds(history, points=SHOWN),
                150,
                "every extreme kept",
            ),
            "the middle tenth of it, zoomed": (
                _milliseconds(history, points=SHOWN, start=450_000, end=550_000),
                150,
                "",
            ),
        }
        engine.dispose()
    return [
        Row(what, figure, "ms", limit, note=note) for what, (figure, limit, note) in times.items()
    ]


def _milliseconds(history: History, **how: int) -> float:
    """The median over ``ROUNDS``, the first with a cold cache included."""
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        history.points("run", "loss", **how)  # type: ignore[arg-type]
        taken.append((time.perf_counter() - began) * 1000)
    return median(taken)


if __name__ == "__main__":
    from benchmarks.table import markdown

    print(markdown(measure()))
