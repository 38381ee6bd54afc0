"""Any event that the wire can carry is recorded, counted once, and read back."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from lineside.bus.client.reader import Batch
from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS, OWN_KINDS
from lineside.bus.protocol.events import Event, Stream
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer

ATTEMPT = "20231114T221320-aaaa"
KEYS = [
    *("logs", "metrics", "state", "how", "error", "counters", "checkpoint", "producer"),
    *("attempt", "emitted", "dropped", "step", "phase", "exit_code", "signal", "seconds"),
    *("name", "project", "resumed_from", "max_steps", "best_model_checkpoint", "rss", "loss"),
    *("id", "op", "args", "reason", "issued_by", "expires_at", "why", "by", "from", "to"),
]

integers = st.integers(-(1 << 63), (1 << 64) - 1)
floats = st.floats(allow_nan=True, allow_infinity=True)
texts = st.text(max_size=20) | st.sampled_from(["rank0", "rank1", ATTEMPT, "exit", "\0", "é" * 300])
keys = st.sampled_from(KEYS) | texts
values = st.recursive(
    st.none() | st.booleans() | integers | floats | texts | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | integers, inner, max_size=4),
    max_leaves=12,
)
kinds = st.sampled_from([*LIFECYCLE_KINDS, *OWN_KINDS]) | st.text(max_size=10)
skips = st.sampled_from([0, 0, 0, 0, 1, 5])


@st.composite
def event_lists(draw: st.DrawFn) -> list[Event]:
    """Some events of one stream, in order of seq, some seqs left out."""
    events, seq = [], 0
    for _ in range(draw(st.integers(1, 12))):
        seq += draw(skips)
        events.append(
            Event(
                seq=seq,
                time=draw(floats | st.floats(1.7e9, 1.8e9)),
                monotonic_ns=draw(integers),
                kind=draw(kinds),
                step=draw(integers | st.integers(0, 100)),
                epoch=draw(st.none() | floats | integers),
                control=draw(integers | st.integers(0, 31)),
                data=draw(st.none() | st.dictionaries(keys, values, max_size=5)),
            )
        )
        seq += 1
    return events


_numbers = itertools.count()


@given(event_lists(), event_lists(), event_lists(), st.integers(1, 4))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_event_is_recorded_once_and_read_back(
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    first: list[Event],
    second: list[Event],
    third: list[Event],
    parts: int,
) -> None:
    name = f"run{next(_numbers)}"
    writer, history = Writer(engine), History(engine)
    offset = writer.offset("journal")
    batches = []
    for producer, events in (("rank0", first), ("shipper", second), ("control", third)):
        size = max(1, len(events) // parts)
        for start in range(0, len(events), size):
            offset += 1
            some = tuple(events[start : start + size])
            batches.append(Batch(offset, Stream(name, producer, ATTEMPT), some, ()))
    writer.apply("journal", batches[::2])
    # The others come late, and all events again, to a writer that knows only the rows.
    again = Writer(engine)
    again.apply("other", batches)
    again.apply("other", batches)
    assert caplog.text == ""

    run = history.run(name)
    assert sum(run.event_counts.values()) == run.loss_account.recorded
    account = run.loss_account
    assert account.emitted == account.recorded + account.gaps + account.lag
    rows = list(history.iter_events(name))
    assert sum(s.unreadable for s in history.streams(name)) == sum(bool(r.problem) for r in rows)
    for series in history.metrics(name):
        assert len(history.points(name, series.name, points=None).y) == series.count
    history.configuration(name)
    history.timing(name)
    history.checkpoints(name)
    history.commands(name)
    history.audit(run=name)
    writer.delete_run(name)
