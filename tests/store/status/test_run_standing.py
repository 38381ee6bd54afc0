"""The status of a run, from its events to the records that a page shows."""

from __future__ import annotations

import random
import time

import pytest

from lineside.bus.protocol.events import Gap
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.store.trainer import ATTEMPT, LATER_ATTEMPT, START, FakeJournal, FakeProducer, heartbeat


def test_a_run_is_listed_from_its_first_event_and_running(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    trainer.begin()
    trainer.step = 4
    trainer.epoch = 0.4
    trainer.emit("step_end")
    journal.deliver(trainer)
    run = history.run("run")
    assert (run.status, run.reason, run.ended_at) == ("running", None, None)
    assert (run.step, run.max_steps, run.epoch) == (4, 10, 0.4)
    assert run.started_at.timestamp() == pytest.approx(START)
    (attempt,) = run.attempts
    assert (attempt.attempt, attempt.number, attempt.status) == (ATTEMPT, 1, "running")
    assert attempt.resumed_attempt is None


@pytest.mark.parametrize("how", ["exit", "restarted"])
def test_a_finished_run_ended_at_its_train_end(
    journal: FakeJournal, history: History, how: str
) -> None:
    trainer = FakeProducer()
    trainer.begin()
    ended = trainer.emit("train_end")
    trainer.tick(60)
    trainer.emit("evaluate", {"metrics": {"eval_loss": 1.0}})
    trainer.end(how)
    journal.deliver(trainer)
    run = history.run("run")
    assert run.status == "finished"
    assert run.ended_at is not None
    assert run.ended_at.timestamp() == pytest.approx(ended.time)


def test_the_reason_has_the_type_and_message_of_the_exception(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    trainer.begin()
    trainer.end("exception", {"type": "ValueError", "message": "bad\0news", "traceback": "..."})
    journal.deliver(trainer)
    run = history.run("run")
    assert (run.status, run.reason) == ("failed", "ValueError: bad\ufffdnews")


def test_an_exception_without_a_message_is_still_a_failure(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    trainer.begin()
    trainer.end("exception", {"type": "", "message": ""})
    journal.deliver(trainer)
    assert (history.run("run").status, history.run("run").reason) == ("failed", "an exception")


def test_a_lost_process_shows_where_it_was(journal: FakeJournal, history: History) -> None:
    trainer, shipper = (
        FakeProducer(),
        FakeProducer(producer="shipper", attempt="20231114T221300-ssss"),
    )
    trainer.begin()
    trainer.do_step()
    journal.deliver(trainer)
    shipper.emit("process_lost", heartbeat(trainer, step=1, emitted=trainer.seq + 2))
    journal.deliver(shipper)
    run = history.run("run")
    assert (run.status, run.loss_account.lag) == ("running", 2)
    missing = Gap(trainer.stream, trainer.seq, trainer.seq + 2)
    journal.writer.apply("journal", [journal.batch(trainer.stream, (), missing)])
    run = history.run("run")
    assert (run.status, run.reason) == ("lost", "the process vanished at step 1")
    assert run.ended_at is not None
    assert (run.loss_account.lag, run.loss_account.gaps) == (0, 2)


def test_the_launcher_reports_the_signal_that_killed_the_run(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    shipper = FakeProducer(producer="shipper", attempt="20231114T221300-ssss")
    launcher = FakeProducer(producer="launcher", attempt="20231114T221310-llll")
    trainer.begin()
    shipper.emit("process_lost", heartbeat(trainer))
    launcher.emit("process_exit", {"attempt": ATTEMPT, "exit_code": None, "signal": "SIGKILL"})
    journal.deliver(trainer, shipper, launcher)
    run = history.run("run")
    assert (run.status, run.reason) == ("killed", "SIGKILL")
    assert len(run.attempts) == 1


def test_reports_on_a_rank_may_be_recorded_before_its_own_events(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    shipper = FakeProducer(producer="shipper", attempt="20231114T221300-ssss", at=START + 5)
    launcher = FakeProducer(producer="launcher", attempt="20231114T221310-llll", at=START + 6)
    trainer.begin()
    trainer.do_step(loss=1.0)
    shipper.emit("process_lost", heartbeat(trainer))
    launcher.emit("process_exit", {"attempt": ATTEMPT, "exit_code": 1, "seconds": 6.5})
    journal.deliver(launcher)
    assert history.run("run").status == "failed"
    journal.deliver(shipper)
    journal.deliver(trainer)
    run = history.run("run")
    assert (run.status, run.reason) == ("failed", "the process vanished at step 1; exit code 1")
    assert run.started_at.timestamp() == pytest.approx(START)
    assert run.loss_account.lag == 0


def test_a_second_attempt_makes_the_run_running_again(
    journal: FakeJournal, history: History
) -> None:
    first = FakeProducer()
    shipper = FakeProducer(producer="shipper", attempt="20231114T221300-ssss")
    first.begin()
    for _ in range(3):
        first.do_step(loss=9.0)
    shipper.emit("process_lost", heartbeat(first))
    journal.deliver(first, shipper)

    second = FakeProducer(attempt=LATER_ATTEMPT, at=START + 3600)
    second.begin(resumed_from={"attempt": ATTEMPT, "step": 2})
    second.step = 2
    second.do_step(loss=1.0)
    journal.deliver(second)
    run = history.run("run")
    assert (run.status, run.ended_at, run.step) == ("running", None, 3)
    assert [a.status for a in run.attempts] == ["lost", "running"]
    assert [a.number for a in run.attempts] == [1, 2]
    assert (run.attempts[1].resumed_attempt, run.attempts[1].resumed_step) == (ATTEMPT, 2)
    # Both versions of step 3 are kept; views show the one that counts.
    assert history.points("run", "loss").y == [9.0, 9.0, 1.0]
    assert history.points("run", "loss", attempt=ATTEMPT).y == [9.0, 9.0, 9.0]
    assert run.event_counts["step_end"] == 4

    second.emit("train_end")
    second.end()
    journal.deliver(second)
    assert history.run("run").status == "finished"


def test_an_attempt_restarted_before_its_end_is_superseded(
    journal: FakeJournal, history: History
) -> None:
    """A retry with a smaller batch: train_begin comes again without a train_end."""
    first = FakeProducer()
    first.begin()
    first.end("restarted")
    journal.deliver(first)
    run = history.run("run")
    assert (run.status, run.reason) == ("running", "being started again")
    second = FakeProducer(attempt=LATER_ATTEMPT, at=START + 1)
    second.begin()
    second.emit("train_end")
    second.end()
    journal.deliver(second)
    run = history.run("run")
    assert run.status == "finished"
    assert [attempt.status for attempt in run.attempts] == ["superseded", "finished"]


def test_attempts_recorded_out_of_order_are_listed_in_order(
    journal: FakeJournal, history: History
) -> None:
    """The spool of a disconnected machine is shipped after the next attempt."""
    second = FakeProducer(attempt=LATER_ATTEMPT, at=START + 3600)
    second.begin()
    second.emit("train_end")
    journal.deliver(second)
    first = FakeProducer()
    first.begin()
    first.end("exception", {"type": "E", "message": "x"})
    journal.deliver(first)
    run = history.run("run")
    assert run.status == "finished"
    assert [attempt.attempt for attempt in run.attempts] == [ATTEMPT, LATER_ATTEMPT]


def test_the_rank_that_failed_first_is_the_reason(journal: FakeJournal, history: History) -> None:
    rank0, rank1 = FakeProducer(), FakeProducer(producer="rank1")
    rank0.begin()
    rank1.emit("run_start", {"name": "a run"})
    rank1.end("exception", {"type": "CUDA", "message": "out of memory"})
    rank0.tick(1)
    rank0.end("exception", {"type": "RuntimeError", "message": "connection closed"})
    journal.deliver(rank0, rank1)
    run = history.run("run")
    assert (run.status, run.reason) == ("failed", "rank1: CUDA: out of memory")


def test_a_silent_run_is_disconnected_until_its_next_event(
    engine: object, history: History
) -> None:
    now = time.time()
    clock = [now - 16]
    writer = Writer(engine, clock=lambda: clock[0])  # type: ignore[arg-type]
    journal = FakeJournal(writer)
    trainer = FakeProducer()
    shipper = FakeProducer(producer="shipper", attempt="20231114T221300-ssss")
    trainer.begin()
    journal.deliver(trainer)
    run = history.run("run")
    assert (run.status, run.attempts[0].status) == ("disconnected", "disconnected")
    assert [r.id for r in history.runs(statuses=["disconnected"]).items] == ["run"]
    assert history.runs(statuses=["running"]).items == ()

    clock[0] = time.time()
    shipper.emit("heartbeat", heartbeat(trainer))
    journal.deliver(shipper)
    run = history.run("run")
    assert (run.status, run.attempts[0].status) == ("running", "running")


def test_heartbeats_have_no_rows_and_update_their_ranks_stream(
    journal: FakeJournal, history: History
) -> None:
    trainer = FakeProducer()
    shipper = FakeProducer(producer="shipper", attempt="20231114T221300-ssss")
    trainer.begin()
    heartbeat_data = heartbeat(
        trainer, emitted=50, dropped=3, rss=7, phase="saving", step=9, hook_errors=None
    )
    shipper.emit("heartbeat", heartbeat(trainer))
    shipper.emit("heartbeat", heartbeat_data)
    journal.deliver(trainer, shipper)

    run = history.run("run")
    assert run.event_counts["heartbeat"] == 2
    assert "heartbeat" not in {row.kind for row in history.events("run").items}
    assert (run.loss_account.emitted, run.loss_account.lag) == (50 + 2, 47)
    of_shipper, rank = history.streams("run")
    assert (rank.producer, of_shipper.producer) == ("rank0", "shipper")
    assert (rank.emitted, rank.recorded, rank.gaps, rank.lag) == (50, 3, 0, 47)
    assert (rank.dropped, rank.rss, rank.phase, rank.step) == (3, 7, "saving", 9)
    assert (rank.hook_errors, rank.hook_ns, rank.hooks) == (0, 1000, 10)
    assert rank.encode_failures is None
    assert (of_shipper.recorded, of_shipper.lag, of_shipper.phase) == (2, 0, None)


def test_streams_are_listed_rank_by_rank(journal: FakeJournal, history: History) -> None:
    producers = ["rank10", "shipper", "rank2", "rank0"]
    fake_producers = [FakeProducer(producer=producer) for producer in producers]
    for trainer in fake_producers:
        trainer.emit("run_start")
    journal.deliver(*fake_producers)
    found = [stream.producer for stream in history.streams("run")]
    assert found == ["rank0", "rank2", "rank10", "shipper"]


def test_the_account_balances_with_any_lost_or_late_events(
    journal: FakeJournal, history: History
) -> None:
    rng = random.Random(5)
    fake_producers = [FakeProducer("run", f"rank{rank}") for rank in range(3)]
    shipper = FakeProducer(producer="shipper", attempt="20231114T221300-ssss")
    for _ in range(50):
        for trainer in fake_producers:
            trainer.do_step(loss=1.0)
            if rng.random() < 0.2:
                trainer.take_events()
            if rng.random() < 0.3:
                shipper.emit("heartbeat", heartbeat(trainer))
        journal.deliver(*fake_producers, shipper)
        account = history.run("run").loss_account
        assert account.emitted == account.recorded + account.gaps + account.lag
        for stream in history.streams("run"):
            assert stream.emitted == stream.recorded + stream.gaps + stream.lag
    missing = sum(gap.end - gap.first for gap in history.gaps("run"))
    assert missing == history.run("run").loss_account.gaps > 0


def test_run_end_carries_the_emitters_counters(journal: FakeJournal, history: History) -> None:
    trainer = FakeProducer()
    trainer.begin()
    counters = {"emitted": 9, "dropped": 5, "hook_errors": 2, "encode_failures": 1, "hooks": 4}
    trainer.emit("run_end", {"how": "exit", "error": None, "counters": counters})
    journal.deliver(trainer)
    (stream,) = history.streams("run")
    assert (stream.dropped, stream.hook_errors, stream.encode_failures) == (5, 2, 1)
    assert (stream.emitted, stream.recorded, stream.lag) == (9, 4, 5)


def test_a_run_with_only_a_shipper_stream_is_not_listed(
    journal: FakeJournal, history: History
) -> None:
    shipper = FakeProducer(producer="shipper", attempt="20231114T221300-ssss")
    shipper.emit("shipper_start")
    journal.deliver(shipper)
    assert history.runs().items == ()
