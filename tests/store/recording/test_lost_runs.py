"""Processes that vanish, and signs of life after that, in any order and by any clock."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.store.trainer import (
    ATTEMPT,
    SHIPPER_ATTEMPT,
    START,
    FakeJournal,
    FakeProducer,
    heartbeat,
)

ERROR = {"type": "ValueError", "message": "bad: batch"}


def test_a_lost_process_ends_the_run_at_that_time_in_every_order_of_recording(
    journal: FakeJournal, history: History
) -> None:
    trainer, shipper = (
        FakeProducer(),
        FakeProducer(producer="shipper", attempt=SHIPPER_ATTEMPT, at=START + 9),
    )
    trainer.begin()
    lost = shipper.emit("process_lost", heartbeat(trainer))
    journal.deliver(shipper)
    journal.deliver(trainer)
    run = history.run("run")
    assert run.status == "lost"
    assert run.ended_at is not None
    assert run.ended_at.timestamp() == pytest.approx(lost.time)


@pytest.mark.parametrize(
    ("alive", "ended"),
    [(40.0, 42.0), (99.0, 100.0), (101.0, 100.0), (-1e300, 100.0), ("late", 100.0)],
)
def test_a_process_found_dead_late_ended_soon_after_its_last_sign_of_life(
    journal: FakeJournal, history: History, alive: float | str, ended: float
) -> None:
    trainer, shipper = (
        FakeProducer(),
        FakeProducer(producer="shipper", attempt=SHIPPER_ATTEMPT, at=START + 100),
    )
    trainer.begin()
    at = START + alive if isinstance(alive, float) else alive
    shipper.emit("process_lost", heartbeat(trainer, alive_at=at))
    journal.deliver(trainer, shipper)
    run = history.run("run")
    assert run.status == "lost"
    assert run.ended_at is not None
    assert run.ended_at.timestamp() == pytest.approx(START + ended)


def test_a_rank_that_ended_with_its_container_is_not_the_cause(
    journal: FakeJournal, history: History
) -> None:
    rank0, rank1 = FakeProducer(), FakeProducer(producer="rank1")
    rank0.begin()
    rank1.emit("run_start", {})
    rank0.tick(30)
    raised = rank0.emit("train_error", {"error": ERROR})
    shipper = FakeProducer(producer="shipper", attempt=SHIPPER_ATTEMPT, at=START + 100)
    shipper.emit("process_lost", heartbeat(rank1, alive_at=raised.time - 0.7))
    journal.deliver(rank0, rank1, shipper)
    assert history.run("run").reason == "ValueError: bad: batch"


@pytest.mark.parametrize("by", ["rank0", "shipper"])
@pytest.mark.parametrize("ending", ["process_lost", "process_exit"])
def test_a_sign_of_life_after_the_end_revokes_it(
    journal: FakeJournal, history: History, engine: Engine, by: str, ending: str
) -> None:
    """A training continues after its lock is lost or its command has ended."""
    trainer, shipper = FakeProducer(), FakeProducer(producer="shipper", attempt=SHIPPER_ATTEMPT)
    trainer.begin()
    journal.deliver(trainer)
    before = [shipper.emit("heartbeat", heartbeat(trainer))]
    trainer.tick(10)
    ended = FakeProducer(producer="shipper", attempt="20231114T221310-tttt", at=START + 10)
    if ending == "process_exit":
        ended = FakeProducer(producer="launcher", attempt="20231114T221310-llll", at=START + 10)
    status = {"process_lost": "lost", "process_exit": "killed"}[ending]
    exit_data = {
        "attempt": ATTEMPT,
        "producer": "rank0",
        "signal": "SIGTERM",
        "alive_at": START + 9,
    }
    ended.emit(ending, exit_data)
    journal.deliver(ended)
    journal.writer.apply("journal", [journal.batch(shipper.stream, before)])
    assert history.run("run").status == status, "events emitted before the end are no sign of life"
    journal = FakeJournal(Writer(engine), "another")
    trainer.tick(10)
    shipper.time = trainer.time
    shipper.pending.clear()
    source = {"rank0": trainer, "shipper": shipper}[by]
    source.emit("heartbeat" if by == "shipper" else "step_begin", heartbeat(trainer))
    journal.deliver(source)
    run = history.run("run")
    assert (run.status, run.reason, run.ended_at) == ("running", None, None)


def test_a_heartbeat_stamped_a_moment_after_the_end_does_not_revoke_it(
    journal: FakeJournal, history: History
) -> None:
    """The shipper checks the process first and reads the clock after that."""
    trainer, shipper = (
        FakeProducer(),
        FakeProducer(producer="shipper", attempt=SHIPPER_ATTEMPT, at=START + 10.1),
    )
    launcher = FakeProducer(producer="launcher", attempt="20231114T221310-llll", at=START + 10)
    trainer.begin()
    launcher.emit("process_exit", {"attempt": ATTEMPT, "exit_code": None, "signal": "SIGKILL"})
    journal.deliver(trainer, launcher)
    shipper.emit("heartbeat", heartbeat(trainer))
    shipper.emit("process_lost", heartbeat(trainer, alive_at=START + 10))
    journal.deliver(shipper)
    run = history.run("run")
    assert (run.status, run.reason) == ("killed", "SIGKILL")


@pytest.mark.parametrize(("code", "name"), [(0, None), (3, None), (None, "SIGTERM")])
def test_the_end_of_a_command_is_no_end_of_a_training_that_outlived_it(
    journal: FakeJournal, history: History, code: int | None, name: str | None
) -> None:
    trainer, launcher = (
        FakeProducer(),
        FakeProducer(producer="launcher", attempt=SHIPPER_ATTEMPT, at=START + 10),
    )
    trainer.begin()
    trainer.tick(10.5)
    exit_data = {"attempt": ATTEMPT, "exit_code": code, "signal": name, "outlived": True}
    launcher.emit("process_exit", exit_data)
    journal.deliver(trainer, launcher)
    assert history.run("run").status == "running"
    trainer.emit("train_end")
    trainer.emit("run_end", {"how": "exit"})
    journal.deliver(trainer)
    run = history.run("run")
    assert (run.status, run.reason) == ("finished", None)


@pytest.mark.parametrize("ending", ["process_lost", "process_exit"])
def test_events_emitted_before_the_end_are_no_sign_of_life_whatever_their_times(
    journal: FakeJournal, history: History, ending: str
) -> None:
    """The clock of a file server, or of the launcher's machine, is behind."""
    trainer = FakeProducer()
    trainer.begin()
    journal.deliver(trainer)
    trainer.tick(30)
    trainer.do_step()
    at = trainer.time - 10
    ended = FakeProducer(producer="launcher", attempt=SHIPPER_ATTEMPT, at=at)
    if ending == "process_lost":
        ended = FakeProducer(producer="shipper", attempt=SHIPPER_ATTEMPT, at=trainer.time + 0.5)
    ended.emit(ending, heartbeat(trainer, alive_at=at, signal="SIGKILL"))
    journal.deliver(ended)
    journal.deliver(trainer)
    assert history.run("run").status == {"process_lost": "lost", "process_exit": "killed"}[ending]


def test_the_end_of_a_training_that_outlived_its_command_is_its_own(
    journal: FakeJournal, history: History
) -> None:
    trainer, launcher = (
        FakeProducer(at=START),
        FakeProducer(producer="launcher", attempt=SHIPPER_ATTEMPT, at=START + 9),
    )
    trainer.begin()
    trainer.tick(60)
    trainer.emit("train_end")
    launcher.emit("process_exit", {"attempt": ATTEMPT, "exit_code": None, "signal": "SIGTERM"})
    for source in (trainer, launcher):
        journal.deliver(source)
    assert history.run("run").status == "finished"
