"""The times of the run list with 5,000 runs and of a chart of a million points."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.table import Row
from lineside.bus.client.reader import Batch
from lineside.bus.protocol.events import Event, Stream
from lineside.store.database.engine import open_store
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer

RUNS = 5000
POINTS = 1_000_000
SHOWN = 1000
SPIKES = (123_457, 777_777)
ROUNDS = 15
_EVENTS = 256  # of the chart's run in one batch


def short_runs() -> Iterator[Batch]:
    """Five thousand short runs: two attempts each, a dozen metrics, a shipper beside them."""
    offset = 0
    for number in range(RUNS):
        now = 1_700_000_000.0 + number * 60
        for attempt in ("20261121T000000-0000", "20261121T010000-0000"):
            offset += 1
            yield _batch(
                offset, Stream(f"run-{number:05}", "rank0", attempt), _run_events(number, now)
            )
        offset += 1
        beat = {"producer": "rank0", "attempt": attempt, "emitted": 60, "hooks": 60}
        shipper = Stream(f"run-{number:05}", "shipper", "20261121T000000-1111")
        yield _batch(offset, shipper, [("heartbeat", now, 0, beat)])


def _run_events(number: int, now: float) -> list[tuple[str, float, int, dict[str, Any] | None]]:
    facts = {"name": f"sweep {number % 97} of {number}", "project": f"project-{number % 7}"}
    metrics = {f"metric_{name}": number / 7 for name in range(12)}
    records: list[tuple[str, float, int, dict[str, Any] | None]] = [
        ("run_start", now, 0, facts),
        ("train_begin", now, 0, {"state": {"max_steps": 10}}),
    ]
    for step in range(10):
        records += [("step_begin", now, step, None), ("step_end", now, step + 1, None)]
    records += [("log", now, 10, {"logs": metrics}), ("train_end", now, 10, None)]
    if number % 3:
        records.append(("run_end", now, 10, {"how": "exit"}))
    return records


def _batch(
    offset: int, stream: Stream, records: list[tuple[str, float, int, dict[str, Any] | None]]
) -> Batch:
    events = tuple(
        Event(seq, now, seq * 1_000_000, kind, step, data=data)
        for seq, (kind, now, step, data) in enumerate(records)
    )
    return Batch(offset, stream, events, ())


def long_run() -> Iterator[Batch]:
    """A log of one number a step, as the bus delivers it, with two single-point spikes."""
    stream = Stream("run", "rank0", "20261121T000000-0000")
    for offset, first in enumerate(range(0, POINTS, _EVENTS), 1):
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
                for step in range(first, min(first + _EVENTS, POINTS))
            ),
            (),
        )


def measure() -> list[Row]:
    """The rows of the run list and of the chart."""
    return [*_measure_run_list(), *_measure_chart()]


def _measure_run_list() -> list[Row]:
    with _history(short_runs(), transaction=200) as history:
        queries: dict[str, Callable[[], object]] = {
            "run list, 50 of 5,000 runs": lambda: history.runs(),
            "run list, searched and sorted by name": lambda: history.runs(
                search="sweep 5", sort="name"
            ),
            "what changed since the last look": lambda: history.changes(
                history.changes(1 << 60).revision - 1
            ),
        }
        times = {what: _milliseconds(query) for what, query in queries.items()}
    return [Row(what, figure, "ms", 100) for what, figure in times.items()]


def _measure_chart() -> list[Row]:
    with _history(long_run(), transaction=40) as history:
        chart = history.points("run", "loss", points=SHOWN)
        assert chart.total == POINTS
        assert set(SPIKES) <= set(chart.step), "a spike is lost"
        whole = _milliseconds(lambda: history.points("run", "loss", points=SHOWN))
        zoomed = _milliseconds(
            lambda: history.points("run", "loss", points=SHOWN, start=450_000, end=550_000)
        )
    what = f"chart of 1,000,000 points as {len(chart.x)}"
    return [
        Row(what, whole, "ms", 150, note="every extreme kept"),
        Row("the middle tenth of it, zoomed", zoomed, "ms", 150),
    ]


@contextmanager
def _history(batches: Iterable[Batch], *, transaction: int) -> Iterator[History]:
    """A new store with ``batches``, of which ``transaction`` are written at a time."""
    with tempfile.TemporaryDirectory() as folder:
        engine = open_store(f"sqlite:///{Path(folder) / 'store.db'}", create=True)
        writer, pending = Writer(engine), []
        for batch in batches:
            pending.append(batch)
            if len(pending) == transaction:
                writer.apply("journal", pending)
                pending = []
        writer.apply("journal", pending)
        yield History(engine)
        engine.dispose()


def _milliseconds(query: Callable[[], object]) -> float:
    """The median over ``ROUNDS``, the first with a cold cache included."""
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        query()
        taken.append((time.perf_counter() - began) * 1000)
    return median(taken)


if __name__ == "__main__":
    from benchmarks.table import markdown

    print(markdown(measure()))
