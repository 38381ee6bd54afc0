"""Recording exactly once, however often batches are delivered."""

from __future__ import annotations

import math

import pytest
from sqlalchemy import Engine, func, select

from lineside.bus.client.reader import Batch
from lineside.bus.errors import RunNotFound, StoreRolledBack, StoreUnavailable
from lineside.bus.protocol.events import Event, Gap
from lineside.store.database import tables
from lineside.store.database.engine import read_transaction
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.store.trainer import LATER_ATTEMPT, START, FakeJournal, FakeProducer


def test_every_kind_is_counted_exactly_and_rare_events_are_rows(
    writer: Writer, history: History
) -> None:
    trainer = FakeProducer()
    trainer.begin()
    for _ in range(3):
        trainer.do_step(loss=1.0)
    trainer.emit("train_end")
    trainer.end()
    FakeJournal(writer).deliver(trainer)

    run = history.run("run")
    assert run.event_counts == {
        "run_start": 1,
        "init_end": 1,
        "train_begin": 1,
        "step_begin": 3,
        "optimizer_step": 3,
        "step_end": 3,
        "log": 3,
        "train_end": 1,
        "run_end": 1,
    }
    rows = history.events("run").items
    assert [row.kind for row in rows] == (
        ["run_start", "init_end", "train_begin", *["log"] * 3, "train_end", "run_end"]
    )
    assert [row.n for row in rows] == list(range(1, 9))
    assert all(row.problem is None for row in rows)


def test_an_event_is_read_back_value_by_value(writer: Writer, history: History) -> None:
    trainer = FakeProducer()
    trainer.step, trainer.epoch = 7, 0.7
    logs = {
        "loss": 0.1 + 0.2,
        "nan": math.nan,
        "inf": math.inf,
        "minus": -math.inf,
        "tokens": 2**53 + 1,
        "flag": True,
        "name": "a\0b\ud800",
        "nested": {"deep": [1, 2.5, None]},
    }
    emitted = trainer.emit("log", {"logs": logs}, control=5)
    FakeJournal(writer).deliver(trainer)

    (row,) = history.events("run").items
    assert (row.seq, row.kind, row.step, row.epoch, row.control) == (0, "log", 7, 0.7, 5)
    assert row.time.timestamp() == pytest.approx(emitted.time, abs=1e-6)
    assert row.data is not None
    read = row.data["logs"]
    assert math.isnan(read.pop("nan"))
    assert math.isnan(logs.pop("nan"))  # type: ignore[arg-type]
    assert read == logs


def test_numbers_in_logs_are_points_and_nothing_else_is(writer: Writer, history: History) -> None:
    trainer = FakeProducer()
    trainer.step, trainer.epoch = 3, 0.3
    long = "x" * 256
    trainer.log(loss=1.5, bad=math.nan, count=3, flag=True, text="no", deep={"a": 1}, big=10**400)
    trainer.log(top=(1 << 63) - 1, past=1 << 63, low=-(1 << 63), huge=1 << 70)
    trainer.emit("log", {"logs": {long: 1.0, "nul\0": 1.0, 5: 1.0, "": 1.0, "\ud800": 1.0}})
    FakeJournal(writer).deliver(trainer)

    assert {s.name: s.last for s in history.metrics("run") if s.name != "bad"} == {
        "loss": 1.5,
        "count": 3.0,
        "flag": 1.0,
        "deep/a": 1.0,
        "top": 2.0**63,
        "past": 2.0**63,
        "low": -(2.0**63),
        "huge": 2.0**70,
    }
    points = history.points("run", "bad")
    assert (points.y, points.flag, points.step, points.epoch) == ([None], ["nan"], [3], [0.3])
    assert math.isnan(points.values[0])


def test_a_batch_delivered_again_changes_nothing(writer: Writer, history: History) -> None:
    trainer = FakeProducer()
    trainer.begin()
    trainer.do_step(loss=1.0)
    batch = Batch(1, trainer.stream, tuple(trainer.take_events()), ())
    writer.apply("journal", [batch])
    before = history.run("run")
    writer.apply("journal", [batch, batch])
    after = history.run("run")
    assert after.event_counts == before.event_counts
    assert after.loss_account == before.loss_account
    assert writer.offset("journal") == 1
    assert writer.position() == ("journal", 1)


def test_a_new_journal_with_the_same_events_doubles_nothing(
    writer: Writer, history: History
) -> None:
    trainer = FakeProducer()
    trainer.begin()
    trainer.do_step(loss=1.0)
    events = trainer.take_events()
    writer.apply("old", [Batch(9, trainer.stream, tuple(events), ())])
    before = history.run("run")
    trainer.do_step(loss=0.5)
    again = FakeJournal(writer, "new")
    writer.apply("new", [again.batch(trainer.stream, [*events[2:], *trainer.take_events()])])

    run = history.run("run")
    assert run.event_counts["log"] == before.event_counts["log"] + 1
    assert history.points("run", "loss").y == [1.0, 0.5]
    assert run.loss_account.gaps == 0
    assert (writer.offset("old"), writer.offset("new")) == (9, 1)
    assert writer.offset("never seen") == 0


def test_a_new_store_has_no_position(writer: Writer) -> None:
    assert writer.position() is None


def test_missing_events_are_a_gap_once(writer: Writer, history: History) -> None:
    trainer = FakeProducer()
    for _ in range(10):
        trainer.log(loss=1.0)
    emitted = trainer.take_events()
    journal = FakeJournal(writer)
    stream = trainer.stream
    writer.apply(
        "journal",
        [
            # A start in the middle, an announced gap, an unannounced gap, an end.
            journal.batch(stream, emitted[2:3]),
            journal.batch(stream, emitted[5:6], Gap(stream, 3, 5)),
            journal.batch(stream, emitted[7:8]),
            journal.batch(stream, [], Gap(stream, 6, 10)),
            journal.batch(stream, [], Gap(stream, 4, 9)),
        ],
    )
    assert [(gap.first, gap.end) for gap in history.gaps("run")] == [
        (0, 2),
        (3, 5),
        (6, 7),
        (8, 10),
    ]
    account = history.run("run").loss_account
    assert (account.emitted, account.recorded, account.gaps, account.lag) == (10, 3, 7, 0)
    (stream_account,) = history.streams("run")
    assert (stream_account.recorded, stream_account.gaps) == (3, 7)


def test_a_gap_beyond_64_bits_is_cut(writer: Writer, history: History) -> None:
    stream = FakeProducer().stream
    writer.apply("journal", [Batch(1, stream, (), (Gap(stream, 0, 1 << 70),))])
    assert history.run("run").loss_account.gaps == (1 << 63) - 1


def test_events_beyond_64_bit_counts_stop_no_other(writer: Writer, history: History) -> None:
    stream = FakeProducer().stream
    last = (1 << 63) - 1
    far = [Event(last - 1, START, 0, "log"), Event(last, START, 0, "log"), Event(0, START, 0, "x")]
    writer.apply("journal", [Batch(1, stream, tuple(far), ())])
    writer.apply("journal", [Batch(2, stream, tuple(far[1:]), (Gap(stream, last, last + 5),))])
    account = history.run("run").loss_account
    assert (account.recorded, account.lag, writer.offset("journal")) == (1, 0, 2)


def test_the_writer_accepts_a_store_restored_from_an_older_copy(
    engine: Engine, writer: Writer, history: History
) -> None:
    """A backup is restored while the recorder runs."""
    trainer = FakeProducer()
    trainer.begin()
    journal = FakeJournal(writer)
    journal.deliver(trainer)
    with engine.begin() as connection:
        old = {
            table: connection.execute(select(table)).mappings().all()
            for table in tables.metadata.sorted_tables
        }
    for _ in range(3):
        trainer.do_step(loss=1.0)
        journal.deliver(trainer)
    with engine.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())
        for table, rows in old.items():
            for row in rows:
                connection.execute(table.insert().values(**row))
    again = FakeProducer()
    again.begin()
    for _ in range(3):
        again.do_step(loss=1.0)
    writer.apply("journal", [Batch(2, again.stream, tuple(again.take_events()), ())])
    assert history.run("run").loss_account.gaps == 0
    assert history.points("run", "loss").y == [1.0, 1.0, 1.0]


def test_an_older_copy_of_a_journal_is_recorded_from_its_start(
    writer: Writer, history: History
) -> None:
    """The offsets were those of other batches before."""
    first, second = FakeProducer(), FakeProducer("second")
    first.begin()
    second.begin()
    writer.apply("journal", [Batch(9, first.stream, tuple(first.take_events()), ())])
    with pytest.raises(StoreRolledBack):
        writer.apply("journal", [], after=10)
    writer.apply("journal", [Batch(2, second.stream, tuple(second.take_events()), ())], after=0)
    assert history.run("second").loss_account.recorded == history.run("run").loss_account.recorded
    assert writer.position() == ("journal", 2)


def test_a_store_behind_the_offset_of_the_caller_raises_and_writes_nothing(
    writer: Writer, history: History
) -> None:
    """Otherwise the batches in between would count as lost."""
    trainer = FakeProducer()
    trainer.begin()
    batch = Batch(9, trainer.stream, tuple(trainer.take_events()), ())
    with pytest.raises(StoreRolledBack, match="up to offset 8 of the journal and is now at 0"):
        writer.apply("journal", [batch], after=8)
    assert history.runs().items == ()
    writer.apply("journal", [batch])
    writer.apply("journal", [batch], after=9)
    assert history.run("run").loss_account.gaps == 0


def test_a_new_writer_continues_where_a_killed_one_stopped(
    engine: Engine, history: History
) -> None:
    """Each transaction uses a new writer, which knows only the rows."""
    trainer = FakeProducer()
    offsets = FakeJournal(Writer(engine)).offsets
    trainer.begin()
    for step in range(700):
        trainer.do_step(compute=0.1, wait=0.05, loss=float(step))
        if step % 70 == 33:
            emitted = trainer.take_events()
            # A cut in the middle of a step.
            trainer.pending = emitted[-3:]
            writer = Writer(engine)
            writer.apply("journal", [Batch(next(offsets), trainer.stream, tuple(emitted[:-3]), ())])
    Writer(engine).apply(
        "journal", [Batch(next(offsets), trainer.stream, tuple(trainer.take_events()), ())]
    )

    whole = FakeProducer("whole")
    whole.begin()
    for step in range(700):
        whole.do_step(compute=0.1, wait=0.05, loss=float(step))
    FakeJournal(Writer(engine), "whole").deliver(whole)

    one, other = history.run("run"), history.run("whole")
    assert one.event_counts == other.event_counts
    assert one.loss_account == other.loss_account
    for wanted in (None, 20, 100):
        assert _curve(history, "run", wanted) == _curve(history, "whole", wanted)
        timing, expected = (
            history.timing("run", points=wanted),
            history.timing("whole", points=wanted),
        )
        assert timing.compute.y == pytest.approx(expected.compute.y)
        assert timing.wait.y == pytest.approx(expected.wait.y)
    with read_transaction(engine) as connection:
        rows = connection.execute(
            select(tables.sketches.c.series_id, func.count()).group_by(tables.sketches.c.series_id)
        ).all()
    assert len({count for _, count in rows}) < len(rows)


def _curve(
    history: History, run: str, wanted: int | None
) -> tuple[list[float], list[float | None]]:
    points = history.points(run, "loss", points=wanted)
    return points.x, points.y


def test_a_transaction_that_fails_leaves_nothing_and_can_be_repeated(
    engine: Engine, writer: Writer, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = FakeProducer()
    trainer.begin()
    trainer.do_step(loss=1.0)
    journal = FakeJournal(writer)
    journal.deliver(trainer)
    before = history.run("run")

    trainer.do_step(loss=0.5)
    batch = journal.batch(trainer.stream, trainer.take_events())
    with monkeypatch.context() as patched:
        patched.setattr("lineside.store.recording.writer._save_position", _fail)
        with pytest.raises(StoreUnavailable):
            writer.apply("journal", [batch])
    assert history.run("run").event_counts == before.event_counts

    writer.apply("journal", [batch])
    assert history.points("run", "loss").y == [1.0, 0.5]
    assert history.run("run").loss_account.lag == 0


def _fail(*_: object) -> None:
    raise StoreUnavailable("here", "its disk is full")


def test_two_writers_of_one_store_do_not_double_anything(engine: Engine, history: History) -> None:
    """A second recorder was started by mistake: each sees the commits of the other."""
    one, other = Writer(engine), Writer(engine)
    trainer = FakeProducer()
    trainer.begin()
    for _ in range(100):
        trainer.do_step(loss=1.0)
    emitted = trainer.take_events()
    for offset, first in enumerate(range(0, len(emitted), 16), 1):
        batch = Batch(offset, trainer.stream, tuple(emitted[first : first + 16]), ())
        one.apply("journal", [batch])
        if offset % 3:
            other.apply("journal", [batch])
    run = history.run("run")
    assert run.event_counts["step_end"] == 100
    assert len(history.points("run", "loss").y) == 100
    assert run.loss_account.recorded == len(emitted)


def test_internal_streams_are_no_runs(writer: Writer, history: History) -> None:
    trainer = FakeProducer("_bus", "broker")
    trainer.emit("journal_expired", {"first": 1})
    FakeJournal(writer).deliver(trainer)
    assert history.runs().items == ()
    assert writer.offset("journal") == 1


def test_a_batch_that_only_skips_journal_offsets_moves_the_position(writer: Writer) -> None:
    writer.apply("journal", [Batch(5, None, (), (Gap(None, 1, 5),))])
    assert writer.offset("journal") == 5


def test_runs_dropped_from_the_cache_continue(
    engine: Engine, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineside.store.recording.run_cache.MAX_RUNS", 2)
    journal = FakeJournal(Writer(engine))
    fake_producers = [FakeProducer(f"run{number}") for number in range(5)]
    for value in range(3):
        for trainer in fake_producers:
            trainer.log(loss=float(value))
            journal.deliver(trainer)
    for number in range(5):
        assert history.points(f"run{number}", "loss").y == [0.0, 1.0, 2.0]


def test_a_run_can_be_renamed_and_a_later_start_does_not_undo_it(
    writer: Writer, history: History
) -> None:
    trainer = FakeProducer()
    trainer.begin(name="given", project="theirs")
    journal = FakeJournal(writer)
    journal.deliver(trainer)
    assert (history.run("run").name, history.run("run").project) == ("given", "theirs")

    writer.update_run("run", name="mine", project="ours", note="a\0note", tags=["x", "y"])
    again = FakeProducer(attempt=LATER_ATTEMPT, at=START + 3600)
    again.begin(name="given", project="theirs")
    journal.deliver(again)
    run = history.run("run")
    assert (run.name, run.project, run.note, run.tags) == (
        "mine",
        "ours",
        "a\ufffdnote",
        ("x", "y"),
    )

    writer.update_run("run", note="", tags=[])
    run = history.run("run")
    assert (run.name, run.note, run.tags) == ("mine", None, ())
    with pytest.raises(RunNotFound):
        writer.update_run("missing", name="x")
