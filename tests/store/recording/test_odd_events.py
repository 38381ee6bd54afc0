"""Unexpected events and failures: they are kept, marked and counted, and block no others."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from lineside.bus.errors import StoreError, StoreUnavailable
from lineside.bus.protocol.events import Event
from lineside.store.history.history import History
from lineside.store.recording.run_state import SeriesState
from lineside.store.recording.writer import Writer
from tests.store.trainer import FakeJournal, FakeProducer

ODD_EVENTS: dict[str, Callable[[FakeProducer], Event]] = {
    "a time that is no date": lambda t: t.emit("log", {"logs": {"x": 1}}, time=1e300),
    "a time that is no number": lambda t: t.emit("epoch_end", None, time=math.nan),
    "a step beyond 64 bits": lambda t: t.emit("log", {"logs": {"x": 1}}, step=1 << 64),
    "a control beyond 64 bits": lambda t: t.emit("epoch_end", control=1 << 70),
    "an epoch that is no number": lambda t: t.emit("epoch_end", epoch=math.nan),
    "an epoch beyond 64 bits": lambda t: t.emit("epoch_end", epoch=1 << 64),
    "a kind with a NUL": lambda t: t.emit("ki\0nd", {"a": "b\0c"}),
    "a kind with a surrogate": lambda t: t.emit("ki\ud800nd"),
    "a kind that is too long": lambda t: t.emit("k" * 300),
    "a kind that is empty": lambda t: t.emit(""),
    "a log without logs": lambda t: t.emit("log"),
    "a log of a list": lambda t: t.emit("log", {"logs": [1, 2]}),
    "an evaluation without metrics": lambda t: t.emit("evaluate", {"metrics": 5}),
    "an end without a text `how`": lambda t: t.emit("run_end", {"how": 5}),
    "a heartbeat of no stream": lambda t: t.emit("heartbeat", {"producer": "../x", "attempt": "y"}),
    "a heartbeat without data": lambda t: t.emit("heartbeat"),
    "a loss of no stream": lambda t: t.emit("process_lost", {"producer": 5, "attempt": None}),
    "an event that could not be decoded": lambda t: t.emit("unreadable", {"why": "x", "bytes": 9}),
    "an exit of no attempt": lambda t: t.emit("process_exit", {"exit_code": 1}),
}


@pytest.mark.parametrize("odd", ODD_EVENTS, ids=lambda name: name.replace(" ", "_"))
def test_an_event_that_does_not_match_its_kind_is_kept_marked_and_counted(
    odd: str, writer: Writer, history: History
) -> None:
    trainer = FakeProducer()
    trainer.begin()
    emitted = ODD_EVENTS[odd](trainer)
    trainer.do_step(loss=1.0)
    FakeJournal(writer).deliver(trainer)

    (row,) = [row for row in history.events("run").items if row.problem]
    assert row.seq == emitted.seq
    assert row.kind in (emitted.kind, "unreadable")
    run = history.run("run")
    assert run.event_counts[row.kind] == (1 if row.kind != "log" else 2)
    assert run.loss_account.lag == 0
    assert run.loss_account.recorded == trainer.seq
    assert [account.unreadable for account in history.streams("run")] == [1]
    assert history.points("run", "loss").y == [1.0]


def test_unusual_data_that_matches_its_kind_is_kept(writer: Writer, history: History) -> None:
    deep: list[object] = []
    for _ in range(2000):
        deep = [deep]
    trainer = FakeProducer()
    odd = {
        "bytes": b"\xff",
        b"key": {(1, 2): 3},
        "object": object(),
        "deep": deep,
        "huge": 10**5000,
        "float": math.inf,
        "none": None,
    }
    trainer.emit("save", {"checkpoint": 5, "odd": odd, "state": "none"})
    trainer.emit("run_start", {"name": 7, "resumed_from": [1], "project": "p\0\ud800"})
    trainer.emit("run_end", {"how": "exit", "error": "text", "counters": 9})
    trainer.emit("train_begin", {"state": {"max_steps": -1, "best_model_checkpoint": 5}})
    FakeJournal(writer).deliver(trainer)

    rows = history.events("run").items
    assert [row.problem for row in rows] == [None] * 4
    assert rows[0].data is not None
    kept = rows[0].data["odd"]
    assert kept["float"] == math.inf
    assert kept["none"] is None
    assert kept["bytes"] == {"!": "b'\\xff'"}
    assert kept["b'key'"] == {"(1, 2)": 3}
    assert kept["huge"]["!"].startswith("0x")
    assert "!" in kept["object"]
    run = history.run("run")
    assert (run.name, run.project, run.max_steps) == ("run", "p\ufffd?", None)


def test_steps_that_cannot_be_measured_are_counted_and_not_timed(
    writer: Writer, history: History
) -> None:
    trainer = FakeProducer()
    trainer.emit("step_end")
    trainer.emit("step_begin", monotonic_ns=1000)
    trainer.emit("step_end", monotonic_ns=10)  # backwards
    trainer.emit("step_begin", monotonic_ns=1 << 70)
    trainer.emit("step_end", monotonic_ns=1 << 70)
    trainer.emit("step_begin", step=1 << 70)
    trainer.emit("step_end", time=math.inf)
    FakeJournal(writer).deliver(trainer)
    assert history.timing("run").compute.total == 0
    assert history.timing("run").wait.total == 1
    assert history.run("run").event_counts == {"step_begin": 3, "step_end": 4}


def test_a_bug_or_a_refused_row_leaves_one_batch_unhandled_and_stops_no_other(
    writer: Writer, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = FakeProducer("good"), FakeProducer("bad")
    good.log(loss=1.0)
    bad.do_step(compute=2.0)
    bad.epoch = 0.5
    bad.log(loss=2.0, poison=1.0)
    later = FakeProducer("later")
    later.log(loss=3.0)

    def add(
        self: object, step: int, time: float, epoch: object, value: float, rows: object
    ) -> None:
        if value == 2.0:
            raise ZeroDivisionError("a bug")
        genuine(self, step, time, epoch, value, rows)  # type: ignore[arg-type]

    genuine = SeriesState.add
    monkeypatch.setattr(SeriesState, "add", add)
    FakeJournal(writer).deliver(good, bad, later)

    assert history.points("good", "loss").y == [1.0]
    assert history.points("later", "loss").y == [3.0]
    (row,) = history.events("bad").items
    assert row.data == {"logs": {"loss": 2.0, "poison": 1.0}}
    assert row.problem is not None
    assert row.epoch == 0.5
    counted = {"step_begin": 1, "optimizer_step": 1, "step_end": 1, "log": 1}
    assert history.run("bad").event_counts == counted
    assert writer.offset("journal") == 3


def test_a_store_that_accepts_no_rows_raises(
    writer: Writer, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = FakeProducer()
    trainer.log(loss=1.0)
    with monkeypatch.context() as patched:
        patched.setattr("lineside.store.recording.writer._save_position", _refuse)
        with pytest.raises(StoreError, match="out of order"):
            FakeJournal(writer).deliver(trainer)
    assert history.runs().items == ()


def _refuse(*_: object) -> None:
    raise StoreError("the store is out of order")


def test_an_unavailable_store_during_single_batches_raises_and_loses_no_batch(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = FakeProducer()
    trainer.log(loss=1.0)
    failures = iter([_refuse, _fail])
    monkeypatch.setattr(
        "lineside.store.recording.writer._save_position", lambda *_: next(failures)()
    )
    with pytest.raises(StoreUnavailable):
        FakeJournal(writer).deliver(trainer)


def test_more_metrics_than_a_stream_may_have_stay_in_their_events(
    writer: Writer, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside.store.recording.run_cache.MAX_SERIES", 3)
    trainer = FakeProducer()
    trainer.emit("train_begin", {"state": {"max_steps": 9}})
    for step in range(1, 6):
        trainer.step = step
        trainer.emit("log", {"logs": {f"new{step}": 1.0, "same": 1.0}, "state": {"max_steps": 9}})
    FakeJournal(writer).deliver(trainer)
    assert [s.name for s in history.metrics("run")] == ["new1", "new2", "same"]
    assert [row.problem for row in history.events("run").items] == [None] * 6
    assert history.points("run", "same").total == 5
    assert history.run("run").step == 5
    [account] = history.streams("run")
    assert (account.unreadable, account.left_out) == (0, 3)


def test_more_texts_than_a_stream_may_have_stay_in_their_events(
    writer: Writer, history: History, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside.store.recording.run_cache.MAX_VALUE_NAMES", 3)
    trainer, journal = FakeProducer(), FakeJournal(writer)
    for step in range(5):
        trainer.log(**{f"new{step}": "text"}, same=f"text {step}")
    journal.deliver(trainer)
    trainer.log(new7="text", new0="again", same="last")
    journal.writer = Writer(engine)  # which knows nothing of the stream yet
    journal.deliver(trainer)
    values = {value.name: value.text for value in history.logged_values("run")}
    assert values == {"new0": "again", "new1": "text", "same": "last"}
    [account] = history.streams("run")
    assert (account.unreadable, account.left_out) == (0, 4)


def _fail(*_: object) -> None:
    raise StoreUnavailable("here", "its disk is full")
