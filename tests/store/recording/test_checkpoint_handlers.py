"""Events about checkpoints in the archive become one row; audit, deletion."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sqlalchemy import Engine, select

from lineside.bus.errors import CheckpointNotFound
from lineside.bus.protocol.checkpoints import STATES, checkpoint_id
from lineside.store.database import tables
from lineside.store.database.engine import read_transaction
from lineside.store.history.checkpoints import Checkpoint
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.store.archiver import Archiver, begun, held, path_of, request, save, state
from tests.store.trainer import ATTEMPT, LATER_ATTEMPT, START, FakeJournal, FakeProducer


def only(history: History) -> Checkpoint:
    [found] = history.checkpoints("run")
    return found


def test_a_checkpoint_goes_from_held_over_copying_to_archived(
    journal: FakeJournal, history: History
) -> None:
    trainer = begun(journal, 5)
    assert only(history).state is None
    held(trainer, 5)
    journal.deliver(trainer)
    found = only(history)
    assert (found.state, found.bytes, found.files) == ("held", 100, 3)
    archiver = Archiver()
    archiver.report(5, "copying", done=40, sent=30)
    journal.deliver(archiver)
    found = only(history)
    assert (found.state, found.copied, found.sent) == ("copying", 0.4, 30)
    archive = "s3://bucket/runs/run/checkpoints/5.json"
    archiver.report(
        5,
        "archived",
        done=100,
        sent=60,
        stored=80,
        archive=archive,
        metrics={"eval_loss": 0.5},
        best=True,
        keep=["last", "best"],
    )
    journal.deliver(archiver)
    found = only(history)
    assert (found.state, found.archive, found.stored) == ("archived", archive, 80)
    assert (found.best, found.last, found.keep) == (True, True, ("last", "best"))
    assert (found.metrics, found.copied, found.is_archived) == ({"eval_loss": 0.5}, None, True)
    assert history.checkpoint("run", checkpoint_id(ATTEMPT, 5, path_of(5))) == found
    with pytest.raises(CheckpointNotFound, match="no checkpoint 'x' of run run"):
        history.checkpoint("run", "x")


def test_progress_and_a_state_again_are_counted_and_no_events_of_the_timeline(
    journal: FakeJournal, history: History
) -> None:
    begun(journal, 5)
    archiver = Archiver()
    for done in range(5):
        archiver.report(5, "copying", done=done)
    archiver.report(5, "archived")
    archiver.report(5, "archived", pinned=True)
    journal.deliver(archiver)
    assert only(history).pinned
    counts = history.run("run").event_counts
    assert (counts["checkpoint_progress"], counts["checkpoint_state"]) == (5, 2)
    kinds = [row.kind for row in history.events("run").items]
    assert "checkpoint_progress" not in kinds
    assert kinds.count("checkpoint_state") == 1


def test_a_state_that_is_recorded_before_its_save_or_without_one_is_listed(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer(at=START + 50)
    trainer.begin()
    journal.deliver(trainer)
    archiver = Archiver(at=START)
    archiver.report(1, "archived", pinned=True)
    archiver.report(3, "archived")
    archiver.time = START + 90
    archiver.report(5, "evicted", why="the disk was full")
    journal.deliver(archiver)
    save(trainer, 3)
    journal.deliver(trainer)
    found = history.checkpoints("run")
    assert [(one.step, one.state, one.last) for one in found] == [
        (1, "archived", False),
        (3, "archived", True),
        (5, "evicted", False),
    ]
    assert [one.pinned for one in found] == [True, False, False]
    assert found[2].why == "the disk was full"


def test_a_replay_and_another_journal_change_nothing(
    journal: FakeJournal, writer: Writer, engine: Engine
) -> None:
    begun(journal, 5)
    archiver = Archiver()
    archiver.report(5, "archived")
    archiver.report(5, "verified", request="r1", refused=None)
    pin = request("verify", 5)
    batches = [journal.batch(one.stream, one.take_events()) for one in (pin, archiver)]

    def rows() -> list[Any]:
        with read_transaction(engine) as connection:
            return [
                connection.execute(select(table)).all()
                for table in (tables.checkpoint_states, tables.audit, tables.event_counts)
            ]

    writer.apply("journal", batches)
    before = rows()
    writer.apply("journal", batches)
    FakeJournal(writer, "copy").writer.apply("copy", batches)
    assert rows() == before


def test_a_checkpoint_that_is_saved_again_is_held_again(
    journal: FakeJournal, history: History
) -> None:
    trainer = begun(journal, 5)
    archiver = Archiver(at=START + 1)
    archiver.report(5, "archived", archive="s3://old", pinned=True)
    journal.deliver(archiver)
    trainer.time = START + 300
    save(trainer, 5)
    held(trainer, 5)
    journal.deliver(trainer)
    older, newer = history.checkpoints("run")
    assert (older.state, newer.state, newer.archive, newer.pinned) == (None, "held", None, True)
    assert older.deleted
    assert not newer.deleted
    assert older.id == newer.id


def test_a_hold_that_is_recorded_after_a_newer_state_does_not_take_it_back(
    journal: FakeJournal, history: History
) -> None:
    trainer = begun(journal, 5)
    held(trainer, 5, time=START + 10)
    archiver = Archiver()
    archiver.report(5, "archived")
    journal.deliver(archiver)
    journal.deliver(trainer)
    assert only(history).state == "archived"


def test_an_evicted_hold_is_evicted_unless_it_was_archived(
    journal: FakeJournal, history: History
) -> None:
    trainer = begun(journal, 1, 2, 3, 4)
    for step in (1, 2, 3):
        held(trainer, step)
    archiver = Archiver()
    archiver.report(1, "archived")
    archiver.report(2, "failed", why="no network", retry_at=START + 999)
    journal.deliver(trainer, archiver)
    assert [one.state for one in history.checkpoints("run")] == ["archived", "failed", "held", None]
    gone = [{"checkpoint": path_of(step), "step": step, "why": "5 are held"} for step in (1, 2, 3)]
    held(trainer, 4, evicted=[*gone, "odd", {"checkpoint": 3}], time=START + 150)
    journal.deliver(trainer)
    found = history.checkpoints("run")
    assert [one.state for one in found] == ["archived", "evicted", "evicted", "held"]
    assert (found[1].why, found[1].retry_at) == ("5 are held", None)


def test_a_checkpoint_that_could_not_be_held_has_the_reason_and_no_state(
    journal: FakeJournal, history: History
) -> None:
    trainer = begun(journal, 5)
    held(trainer, 5, hold=None, why="links are not possible")
    journal.deliver(trainer)
    assert (only(history).state, only(history).why) == (None, "links are not possible")


@pytest.mark.parametrize("refused", [None, "it is the last one"])
def test_a_request_is_shown_until_the_archiver_has_answered_it(
    journal: FakeJournal, history: History, refused: str | None
) -> None:
    begun(journal, 5)
    archiver = Archiver()
    archiver.report(5, "archived")
    journal.deliver(archiver)
    journal.deliver(request("delete", 5))
    found = only(history)
    assert (found.requested, found.requested_by, found.state) == ("delete", "ada@lab", "archived")
    archiver.report(5, "archived")
    archiver.report(5, "archived", request="of another client")
    journal.deliver(archiver)
    assert only(history).requested == "delete"
    name = "archived" if refused else "deleted"
    archiver.report(5, name, request="r1", refused=refused)
    journal.deliver(archiver)
    found = only(history)
    assert (found.requested, found.requested_by, found.refused) == (None, None, refused)
    assert found.state == name
    audit = [(entry.outcome, entry.who, entry.why) for entry in history.audit(run="run").items]
    answer = ("rejected", "ada@lab", refused) if refused else ("applied", "ada@lab", "")
    assert audit == [("requested", "ada@lab", ""), answer]
    assert history.audit().items[0].action == f"delete checkpoint {path_of(5)}"


def test_the_archivers_best_is_the_newest_that_it_called_so(
    journal: FakeJournal, history: History
) -> None:
    trainer = begun(journal, 1, 2, 3)
    trainer.emit("evaluate", {"metrics": {}, "state": {"best_model_checkpoint": path_of(3)}})
    journal.deliver(trainer)
    assert [one.best for one in history.checkpoints("run")] == [False, False, True]
    archiver = Archiver()
    archiver.report(1, "archived", best=True)
    archiver.report(2, "archived", best=True)
    journal.deliver(archiver)
    assert [one.best for one in history.checkpoints("run")] == [False, True, False]
    later = FakeProducer(attempt=LATER_ATTEMPT)
    later.begin()
    save(later, 2)
    journal.deliver(later)
    assert [one.best for one in history.checkpoints("run")] == [False, True, False, False]


@pytest.mark.parametrize(
    ("kind", "data", "producer", "problem"),
    [
        ("checkpoint_held", {"checkpoint": "/c"}, "archiver", "only rank0 publishes"),
        ("checkpoint_held", {"checkpoint": 5}, "rank0", "checkpoint 5 is no path"),
        ("checkpoint_state", state(5, "archived"), "slack", "only archiver publishes states"),
        ("checkpoint_state", state(5, "burnt"), "archiver", f"one of {', '.join(STATES)}"),
        ("checkpoint_state", state("5", "archived"), "archiver", "no attempt and step"),
        ("checkpoint_state", state(5, "archived", attempt="a" * 129), "archiver", "no attempt"),
        ("checkpoint_progress", state(5, "copying", attempt=None), "archiver", "no attempt"),
        ("checkpoint_request", {"op": "pin"}, "slack", "counts only in a stream of 'control'"),
        ("checkpoint_request", {"op": "burn"}, "control", "pin, unpin, delete, verify"),
    ],
)
def test_an_event_that_does_not_match_its_kind_is_kept_with_the_reason(
    journal: FakeJournal,
    history: History,
    kind: str,
    data: dict[str, Any],
    producer: str,
    problem: str,
) -> None:
    begun(journal)
    other = FakeProducer("run", producer, LATER_ATTEMPT)
    other.emit(kind, data)
    journal.deliver(other)
    [row] = history.events("run", kinds=[kind]).items
    assert problem in (row.problem or "")
    assert history.checkpoints("run") == []


def test_odd_values_of_a_state_are_left_out(journal: FakeJournal, history: History) -> None:
    begun(journal, 5)
    odd: dict[str, Any] = {
        "bytes": -1,
        "sent": "many",
        "retry_at": math.inf,
        "metrics": {"loss": math.nan, "name": "x", 7: 1, "ok": True, "huge": 2**70},
        "keep": ["last", 5, "x" * 500],
        "archive": ["s3"],
        "pinned": "yes",
    }
    archiver = Archiver()
    archiver.report(5, "archived", **odd)
    journal.deliver(archiver)
    found = only(history)
    assert (found.bytes, found.sent, found.retry_at, found.archive) == (None,) * 4
    assert list(found.metrics) == ["loss"]
    assert math.isnan(found.metrics["loss"])
    assert found.keep == ("last", "x" * 128)
    assert not found.pinned


def test_a_deleted_run_takes_its_states_with_it_and_later_ones_make_no_row(
    journal: FakeJournal, writer: Writer, engine: Engine
) -> None:
    begun(journal, 5)
    archiver = Archiver()
    archiver.report(5, "archived")
    journal.deliver(archiver)
    writer.delete_run("run")
    archiver.report(5, "verified")
    journal.deliver(archiver, request("pin", 5))
    with read_transaction(engine) as connection:
        assert connection.execute(select(tables.checkpoint_states)).all() == []
