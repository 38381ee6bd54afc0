"""Events with any data leave a page that Prometheus can read."""

from __future__ import annotations

import json
import math
import random
import re
from typing import Any

import pytest

from lineside.bus.client.reader import Batch
from lineside.bus.protocol.commands import CONTROL_PRODUCER
from lineside.bus.protocol.event_kinds import KINDS
from lineside.bus.protocol.events import RANK_0, Event, Stream
from lineside.subscribers.exporter.record import RunRecord
from lineside.subscribers.exporter.samples import add_run, new_lines, run_status
from lineside.subscribers.exporter.tracker import RunTracker
from tests.subscribers.exporter.exporting import parse

NOW = 1_800_000_000.0
NUMBERS = [0, 1, -1, 2**63 - 1, 2**63, 10**400, 1e308, 5e-324, math.nan, math.inf, True, 0.5, NOW]
TEXTS = [
    "",
    "a",
    "\0",
    "\ud800",
    "x" * 5000,
    "\u00fc/\u00e4 \u2028",
    'a"b\\c\nd\r',
    "loss",
    "rank0",
]
NAMES = ["gpu0/xid", "gpu00/xid", "gpu\u0663/xid", "gpu3/xid", "host/cpu_ratio", "host/x", *TEXTS]
FIELDS = [
    "logs",
    "metrics",
    "state",
    "args",
    "process",
    "model",
    "world_size",
    "producer",
    "attempt",
    "hook_age",
    "checkpoint",
    "rule",
    "id",
    "subscriber",
    "action",
    "op",
    "expires_at",
    "name",
    "project",
    "status",
    "step",
    "max_steps",
    "phase",
    "hooks",
    "hook_ns",
    "emitted",
    "dropped",
    "resumed_from",
    "host",
    "best_metric",
    "best_global_step",
    "class",
    "source",
    "reason",
    "details",
]
PRODUCERS = [RANK_0, "rank1", CONTROL_PRODUCER, "stopper", "watchdog", "sampler-h", "shipper", "me"]
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?|NaN|[+-]Inf")


def any_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if kind < 0.4 or depth > 3:
        return rng.choice(NUMBERS)
    if kind < 0.7:
        return rng.choice(TEXTS)
    if kind < 0.85:
        return {rng.choice(NAMES): any_value(rng, depth + 1) for _ in range(4)}
    return [any_value(rng, depth + 1) for _ in range(3)]


def any_event(rng: random.Random, seq: int) -> Event:
    data = {rng.choice(FIELDS): any_value(rng) for _ in range(5)}
    if rng.random() < 0.5:
        names = rng.choices(NAMES, k=5)
        data["metrics"] = data["logs"] = {name: rng.choice(NUMBERS) for name in names}
    time, step = rng.choice([NOW, NOW + 1, 0.0, -1e300, 1e308]), rng.choice([0, 1, 2**63 - 1, -1])
    kind = rng.choice([*KINDS, *["metrics", "log"] * 20])
    return Event(seq, time, step, kind, epoch=rng.choice([None, 0.5, math.nan]), data=data)


@pytest.mark.parametrize("seed", range(20))
def test_any_data_leaves_a_page_that_prometheus_reads(seed: int) -> None:
    rng = random.Random(seed)
    tracker = RunTracker(lambda _run: None, rng.choice([0, 3, 200]))
    seqs: dict[Stream, int] = {}
    for offset in range(200):
        stream = Stream("run", rng.choice(PRODUCERS), rng.choice(["a1", "a2"]))
        seq = seqs[stream] = seqs.get(stream, -1) + rng.choice([1, 1, 1, 4])
        tracker.read(Batch(offset + 1, stream, (any_event(rng, seq),), ()), NOW)
    saved = json.dumps(tracker.records["run"].to_dict())
    for record in (tracker.records["run"], RunRecord.from_dict("run", json.loads(saved))):
        lines = new_lines()
        add_run(lines, record, run_status(record, NOW), NOW)
        page = "".join(line for some in lines.values() for line in some)
        parse(page.encode().decode())  # which also finds a series that is there twice
        for line in page.split("\n")[:-1]:
            assert NUMBER.fullmatch(line.rpartition(" ")[2]), line
