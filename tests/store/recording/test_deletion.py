"""A deleted run is gone, frees its disk space, and does not come back in part."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from lineside.bus.errors import RunNotFound, StoreUnavailable
from lineside.bus.protocol.events import Gap
from lineside.store.database import tables
from lineside.store.database.engine import read_transaction, write_transaction
from lineside.store.history.history import History
from lineside.store.recording import deletion
from lineside.store.recording.writer import Writer
from tests.store.trainer import ATTEMPT, START, FakeJournal, FakeProducer, heartbeat

DELETED_AT = START + 10_000
LATER = "20231115T221320-cccc"  # a day after START
HEAVY = (
    *("points", "sketches", "events", "series", "logged_values"),
    *("checkpoints", "gaps", "attempts"),
)


@pytest.fixture
def writer(engine: Engine) -> Writer:
    return Writer(engine, clock=lambda: DELETED_AT)


def train(run: str, steps: int = 300) -> FakeProducer:
    trainer = FakeProducer(run)
    trainer.begin()
    for step in range(steps):
        trainer.do_step(loss=1.0 / (step + 1), lr=0.1)
    trainer.log(note="a text")
    trainer.emit("save", {"checkpoint": f"/out/{run}"})
    return trainer


def rows(engine: Engine) -> dict[str, int]:
    with read_transaction(engine) as connection:
        return {
            name: connection.execute(
                select(func.count()).select_from(tables.metadata.tables[name])
            ).scalar_one()
            for name in HEAVY
        }


def test_a_deleted_run_is_gone_and_leaves_no_rows(
    engine: Engine, writer: Writer, history: History
) -> None:
    journal = FakeJournal(writer)
    journal.deliver(train("kept"))
    before = rows(engine)
    gone = train("gone")
    journal.deliver(gone)
    writer.apply("journal", [journal.batch(gone.stream, (), Gap(gone.stream, gone.seq, 9999))])
    revision = history.changes(0).revision

    writer.delete_run("gone")

    assert rows(engine) == before
    assert [run.id for run in history.runs().items] == ["kept"]
    assert history.counts() == {"running": 1} or history.counts() == {"disconnected": 1}
    for read in (history.run, history.find, history.streams, history.metrics):
        with pytest.raises(RunNotFound):
            read("gone")
    with pytest.raises(RunNotFound):
        writer.delete_run("gone")
    with pytest.raises(RunNotFound):
        writer.delete_run("missing")
    # A command sent ahead and refusals make no run that can be deleted.
    journal.deliver(FakeProducer("ahead", "control"), FakeProducer("audit", "dashboard"))
    assert history.changes(revision).run_ids == ("gone",)
    assert history.points("kept", "loss").total == 300


def test_late_events_of_a_deleted_run_are_ignored(
    engine: Engine, writer: Writer, history: History
) -> None:
    journal = FakeJournal(writer)
    trainer = train("run")
    journal.deliver(trainer)
    writer.delete_run("run")
    before = rows(engine)
    # The training continues, with the same writer and with one that knows only the rows.
    for _ in range(2):
        trainer.do_step(loss=1.0)
        journal.deliver(trainer)
        journal.writer = Writer(engine)
    shipper = FakeProducer("run", "shipper", "20231114T221300-ssss")
    launcher = FakeProducer("run", "launcher", "20231114T221300-llll")
    shipper.emit("heartbeat", heartbeat(trainer))
    shipper.emit("process_lost", heartbeat(trainer))
    launcher.emit("process_exit", {"attempt": ATTEMPT, "exit_code": 1})
    # A stream of the deleted attempt that had no events before.
    rank1 = FakeProducer("run", "rank1")
    rank1.emit("run_start")
    journal.deliver(shipper, launcher, rank1)

    assert history.runs().items == ()
    after = rows(engine)
    assert {name: after[name] for name in HEAVY if name != "events"} == {
        name: before[name] for name in HEAVY if name != "events"
    }


def test_an_attempt_that_begins_after_the_deletion_makes_the_run_again(
    engine: Engine, writer: Writer, history: History
) -> None:
    journal = FakeJournal(writer)
    old = train("run")
    shipper = FakeProducer("run", "shipper", "20231114T221300-ssss")
    shipper.emit("heartbeat", heartbeat(old))
    journal.deliver(old, shipper)
    writer.delete_run("run")
    old.emit("log", {"logs": {"loss": 99.0}})
    new = FakeProducer("run", attempt=LATER, at=START + 86_400)
    new.begin(name="again")
    new.do_step(loss=5.0)
    shipper.emit("heartbeat", heartbeat(new, step=7))
    journal.deliver(old, new, shipper)

    run = history.run("run")
    assert (run.name, run.event_counts["log"]) == ("again", 1)
    assert [attempt.attempt for attempt in run.attempts] == [LATER]
    assert history.points("run", "loss").y == [5.0]
    assert {s.producer: s.step for s in history.streams("run")} == {"shipper": None, "rank0": 7}
    account = run.loss_account
    assert (account.gaps, account.lag) == (0, 0)
    writer.delete_run("run")
    assert history.runs().items == ()


def test_an_attempt_without_a_time_in_its_name_is_as_old_as_its_first_event(
    writer: Writer, history: History
) -> None:
    journal = FakeJournal(writer)
    journal.deliver(train("run", 3))
    writer.delete_run("run")
    before = FakeProducer("run", attempt="mine", at=START)
    before.begin()
    after = FakeProducer("run", attempt="other", at=START + 86_400)
    after.begin()
    journal.deliver(before, after)
    assert [attempt.attempt for attempt in history.run("run").attempts] == ["other"]


def test_an_interrupted_deletion_is_finished_later(
    engine: Engine, writer: Writer, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeJournal(writer).deliver(train("run"))
    monkeypatch.setattr(deletion, "ROWS_PER_TRANSACTION", 100)
    calls = iter(range(1000))

    def failing(engine: Engine) -> object:
        if next(calls) == 4:
            raise StoreUnavailable("here", "killed")
        return write_transaction(engine)

    with monkeypatch.context() as patched:
        patched.setattr(deletion, "write_transaction", failing)
        with pytest.raises(StoreUnavailable):
            writer.delete_run("run")
    assert history.runs().items == ()
    assert rows(engine)["points"] > 0
    assert rows(engine)["points"] < 1200

    Writer(engine).finish_deletions()
    assert set(rows(engine).values()) == {0}


def test_deleting_a_run_frees_the_disk(tmp_path: Path, sqlite_engine: Engine) -> None:
    writer = Writer(sqlite_engine)
    journal = FakeJournal(writer)
    journal.deliver(train("kept", 50))
    file = tmp_path / "store.db"

    def size() -> int:
        return sum(path.stat().st_size for path in tmp_path.glob("store.db*"))

    writer.delete_run("kept")
    small = size()
    journal.deliver(train("large", 20_000))
    large = size()
    assert large > 3_000_000
    writer.delete_run("large")
    assert size() < small + 200_000
    assert file.stat().st_size < large / 10


def test_a_store_that_cannot_give_pages_back_still_deletes(
    tmp_path: Path, sqlite_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(sqlite_engine)
    FakeJournal(writer).deliver(train("run"))
    with sqlite_engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.commit()
        raw.execute("PRAGMA auto_vacuum = NONE")
        raw.execute("VACUUM")
    writer.delete_run("run")
    assert History(sqlite_engine).runs().items == ()
