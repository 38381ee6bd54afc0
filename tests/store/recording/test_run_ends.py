"""Ends of a run in the store: commands, exceptions and silence, in any order."""

from __future__ import annotations

import time
from datetime import datetime, timezone

import pytest
from sqlalchemy import Engine, select

from lineside.store.database.tables import streams
from lineside.store.history.history import History
from lineside.store.history.records import Failure
from lineside.store.recording.progress import MIN_STALL_SECONDS
from lineside.store.recording.writer import Writer
from tests.store.trainer import (
    ATTEMPT,
    LATER_ATTEMPT,
    SHIPPER_ATTEMPT,
    START,
    FakeJournal,
    FakeProducer,
    heartbeat,
)

ERROR = {"type": "ValueError", "message": "bad: batch", "traceback": "Traceback\n  bad: batch\n"}
STOP = {"id": "c0ffee", "op": "stop", "issued_by": "me@here", "reason": "enough"}


class Clock:
    """The clock of the recorder, which the test sets."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(engine: Engine, clock: Clock) -> FakeJournal:
    return FakeJournal(Writer(engine, clock))


def test_a_stop_counts_whichever_stream_is_recorded_first(
    journal: FakeJournal, history: History
) -> None:
    for place in range(3):
        run = f"run-{place}"
        begun, ended, answers = FakeProducer(run), FakeProducer(run), FakeProducer(run, "control")
        begun.begin()
        ended.seq = begun.seq
        ended.emit("train_end")
        ended.end()
        answers.emit("control_on", {"ops": ["stop"], "why": None})
        answers.emit("control_applied", {**STOP, "op": "save"})
        answers.emit("control_applied", STOP)
        order = [begun, ended]
        order.insert(place, answers)
        for trainer in order:
            journal.deliver(trainer)
            if trainer is begun:
                assert history.run(run).status == "running"
        found = history.run(run)
        assert found.status == "stopped"
        assert found.reason == "by me@here: enough (command c0ffee)"
        assert found.ended_at is not None


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"issued_by": "SIGTERM", "reason": ""}, "by SIGTERM"),
        ({"issued_by": "me@here", "reason": ""}, "by me@here (command c0ffee)"),
        ({"issued_by": None, "reason": None}, "by a command (command c0ffee)"),
    ],
)
def test_the_reason_of_a_stop_names_its_issuer_if_known(
    journal: FakeJournal, history: History, source: dict[str, str], reason: str
) -> None:
    trainer, answers = FakeProducer(), FakeProducer(producer="control")
    trainer.begin()
    trainer.emit("train_end")
    answers.emit("control_applied", {**STOP, **source})
    journal.deliver(trainer, answers)
    assert history.run("run").reason == reason


def test_a_stop_of_one_attempt_does_not_count_for_the_next(
    journal: FakeJournal, history: History
) -> None:
    first, answers = FakeProducer(), FakeProducer(producer="control")
    first.begin()
    first.emit("train_end")
    answers.emit("control_applied", STOP)
    second = FakeProducer(attempt=LATER_ATTEMPT, at=START + 10)
    second.begin()
    second.emit("train_end")
    journal.deliver(first, answers, second)
    run = history.run("run")
    assert [attempt.status for attempt in run.attempts] == ["stopped", "finished"]
    assert run.status == "finished"


def test_a_caught_exception_ends_training_and_has_a_traceback(
    journal: FakeJournal, history: History, engine: Engine
) -> None:
    trainer = FakeProducer()
    trainer.begin()
    raised = trainer.emit("train_error", {"error": ERROR})
    journal.deliver(trainer)
    assert history.run("run").status == "failed"
    # The script continues and exits normally; a restarted recorder records that.
    trainer.tick(60)
    trainer.emit("evaluate", {"metrics": {"eval_loss": 1.0}})
    trainer.end()
    FakeJournal(Writer(engine)).writer.apply(
        "journal", [journal.batch(trainer.stream, trainer.take_events())]
    )
    run = history.run("run")
    assert (run.status, run.reason) == ("failed", "ValueError: bad: batch")
    assert run.error == Failure("rank0", "ValueError", "bad: batch", ERROR["traceback"])
    assert run.ended_at is not None
    assert run.ended_at.timestamp() == pytest.approx(raised.time)
    (attempt,) = run.attempts
    assert (attempt.status, attempt.error) == ("failed", run.error)


def test_an_attempt_that_raised_before_the_next_is_failed_and_not_superseded(
    journal: FakeJournal, history: History
) -> None:
    first = FakeProducer()
    first.begin()
    first.emit("train_error", {"error": ERROR})
    first.end("restarted")
    second = FakeProducer(attempt=LATER_ATTEMPT, at=START + 10)
    second.begin()
    journal.deliver(first, second)
    run = history.run("run")
    assert [attempt.status for attempt in run.attempts] == ["failed", "running"]
    assert run.error is None


def test_the_traceback_is_of_the_rank_that_failed_first(
    journal: FakeJournal, history: History
) -> None:
    rank0, rank1 = FakeProducer(), FakeProducer(producer="rank1")
    rank0.begin()
    rank1.emit("run_start", {})
    rank1.emit("train_error", {"error": ERROR})
    rank0.tick(1)
    closed = {"type": "RuntimeError", "message": "closed", "traceback": "of rank 0"}
    rank0.emit("train_error", {"error": closed})
    journal.deliver(rank0, rank1)
    run = history.run("run")
    assert run.reason == "rank1: ValueError: bad: batch"
    assert run.error is not None
    assert (run.error.producer, run.error.traceback) == ("rank1", ERROR["traceback"])


def test_a_command_to_a_silent_run_does_not_make_it_look_alive(
    journal: FakeJournal, history: History, clock: Clock
) -> None:
    trainer = FakeProducer()
    trainer.begin()
    clock.now = time.time() - 16
    journal.deliver(trainer)
    silent_since = history.run("run").updated_at
    clock.now = time.time()
    for producer in ("control", "stopper"):
        other = FakeProducer(producer=producer, attempt="20231114T230000-cccc")
        other.emit("command", {"id": "x", "op": "save"})
        journal.deliver(other)
    run = history.run("run")
    assert (run.status, run.attempts[0].status) == ("disconnected", "disconnected")
    assert run.updated_at == silent_since


def test_a_training_without_a_hook_is_stalled_until_the_next_one(
    journal: FakeJournal, history: History, clock: Clock
) -> None:
    trainer, shipper = FakeProducer(), FakeProducer(producer="shipper", attempt=SHIPPER_ATTEMPT)
    trainer.begin()
    for _ in range(3):
        trainer.do_step()
    journal.deliver(trainer)

    def beat(age: float | None, phase: str = "training") -> tuple[str, str | None]:
        clock.now = time.time()
        shipper.emit("heartbeat", heartbeat(trainer, hook_age=age, phase=phase))
        journal.deliver(shipper)
        run = history.run("run")
        assert [found.id for found in history.runs(statuses=[run.status]).items] == ["run"]
        assert history.counts() == {run.status: 1}
        assert run.attempts[-1].status == run.status
        return run.status, run.phase

    assert beat(MIN_STALL_SECONDS - 5) == ("running", "training")
    assert beat(MIN_STALL_SECONDS + 5) == ("stalled", "training")
    since = datetime.fromtimestamp(clock.now - MIN_STALL_SECONDS - 5, timezone.utc)
    assert history.run("run").reason == (
        f"while training, no hook was called since {since:%Y-%m-%d %H:%M:%S} UTC"
    )
    assert beat(MIN_STALL_SECONDS + 6, "saving") == ("running", "saving")
    assert beat(MIN_STALL_SECONDS + 7) == ("stalled", "training")
    trainer.do_step()
    journal.deliver(trainer)
    assert history.run("run").status == "running"
    assert beat(9999.0, "paused") == ("running", "paused")
    assert history.run("run").reason == "paused"
    # A shipper on another machine does not know the age: events count. Invalid ages are ignored.
    assert beat(-5.0) == ("stalled", "training")
    assert beat(1e300) == ("stalled", "training")
    assert beat(None) == ("stalled", "training")
    trainer.do_step()
    journal.deliver(trainer)
    assert beat(None) == ("running", "training")
    trainer.emit("train_end")
    journal.deliver(trainer)
    run = history.run("run")
    assert (run.status, run.phase, run.reason) == ("finished", None, None)


def test_a_stopping_training_has_the_long_stall_timeout(
    journal: FakeJournal, history: History, clock: Clock
) -> None:
    """It may load its best model after an early stop."""
    trainer, shipper = FakeProducer(), FakeProducer(producer="shipper", attempt=SHIPPER_ATTEMPT)
    trainer.begin()
    for _ in range(3):
        trainer.do_step()
    trainer.emit("epoch_end", control=1)
    shipper.emit("heartbeat", heartbeat(trainer, hook_age=MIN_STALL_SECONDS + 5, phase="waiting"))
    journal.deliver(trainer)
    journal.deliver(shipper)
    assert history.run("run").status == "running"


def test_a_run_resumed_where_the_clock_is_behind_is_shown_by_its_newest_attempt(
    journal: FakeJournal, history: History
) -> None:
    first = FakeProducer(attempt=LATER_ATTEMPT, at=START + 3600)
    first.begin()
    first.emit("train_end")
    second = FakeProducer()
    second.begin(resumed_from={"run": "run", "attempt": LATER_ATTEMPT, "step": 2})
    journal.deliver(first, second)
    run = history.run("run")
    assert [attempt.attempt for attempt in run.attempts] == [LATER_ATTEMPT, ATTEMPT]
    assert run.status == "running"


def test_a_kill_for_lack_of_memory_is_in_the_reason(journal: FakeJournal, history: History) -> None:
    trainer, launcher = FakeProducer(), FakeProducer(producer="launcher", attempt=SHIPPER_ATTEMPT)
    trainer.begin()
    exit_ = {"attempt": ATTEMPT, "exit_code": None, "signal": "SIGKILL", "out_of_memory": True}
    launcher.emit("process_exit", exit_)
    journal.deliver(trainer, launcher)
    run = history.run("run")
    assert (run.status, run.reason) == ("killed", "SIGKILL (out of memory)")


@pytest.mark.parametrize("launched", [True, False])
def test_an_outage_is_never_shown_as_an_end(
    journal: FakeJournal, history: History, engine: Engine, launched: bool
) -> None:
    """The report of the end is recorded before the events of the process, which are a backlog."""
    rank_0, ended = (
        FakeProducer(),
        FakeProducer(producer="shipper", attempt=SHIPPER_ATTEMPT, at=START + 9),
    )
    rank_0.begin()
    journal.deliver(rank_0)
    rank_0.do_step(loss=1.0)
    backlog = [rank_0.take_events()]
    rank_0.emit("train_end")
    backlog.append(rank_0.take_events())
    if launched:
        ended = FakeProducer(producer="launcher", attempt=SHIPPER_ATTEMPT, at=START + 9)
        ended.emit("process_exit", {"attempt": ATTEMPT, "exit_code": 0, "emitted": rank_0.seq})
    else:
        ended.emit("process_lost", heartbeat(rank_0))
    journal.deliver(ended)
    journal = FakeJournal(Writer(engine), "another")  # a recorder that reads everything again
    for events in backlog:
        run = history.run("run")
        assert (run.status, run.reason, run.ended_at) == ("running", None, None)
        journal.writer.apply(journal.name, [journal.batch(rank_0.stream, events)])
    assert history.run("run").status == "finished"


@pytest.mark.parametrize("seconds", [-1e300, 1e300, -1, "long", None, 1 << 80])
def test_an_invalid_duration_of_a_command_yields_no_start(
    journal: FakeJournal, history: History, seconds: object
) -> None:
    launcher = FakeProducer(producer="launcher", attempt=SHIPPER_ATTEMPT)
    launcher.emit("process_exit", {"attempt": ATTEMPT, "exit_code": 1, "seconds": seconds})
    journal.deliver(launcher)
    assert history.run("run").started_at.timestamp() == pytest.approx(START)


def test_a_wait_before_a_gap_is_no_part_of_the_step_after_it(
    journal: FakeJournal, engine: Engine
) -> None:
    """Otherwise one long step would delay the notice of a stall."""
    trainer = FakeProducer()
    trainer.begin()
    for wait in (1.0, 1.0, 9.0):
        trainer.do_step(compute=1.0, wait=wait)
    trainer.emit("step_begin")
    trainer.emit("train_end")  # and another training
    trainer.do_step(compute=1.0)
    journal.deliver(trainer)
    with engine.connect() as connection:
        (measured,) = connection.execute(select(streams.c.step_seconds)).scalars()
    assert measured == pytest.approx(1.8, abs=0.01)  # 2, 2 and 1
