"""What the watchdog reads of runs: only what changed, and of each attempt its own."""

from __future__ import annotations

import math
import time

import pytest
from sqlalchemy import Engine

from lineside.store.recording.writer import Writer
from lineside.subscribers.watchdog.observation import RunObservation
from lineside.subscribers.watchdog.rules.status import Disconnected
from lineside.subscribers.watchdog.run_observer import RunChanges, RunObserver
from tests.store.trainer import ATTEMPT, LATER_ATTEMPT, FakeJournal, FakeProducer, heartbeat
from tests.subscribers.watchdog.observing import findings


class Bench:
    """A store, what writes it, and the observer that reads it."""

    def __init__(self, engine: Engine) -> None:
        self.writer = Writer(engine)
        self.journal = FakeJournal(self.writer)
        self.observer = RunObserver(engine, -1)

    def read(self, *wanted: str) -> RunChanges:
        now = time.time()
        return self.observer.read(now, now, wanted)

    def one(self, *wanted: str) -> RunObservation:
        [found] = self.read(*wanted).judged
        return found


@pytest.fixture
def bench(engine: Engine) -> Bench:
    return Bench(engine)


def trainer(attempt: str = ATTEMPT, run: str = "run", at: float = 0.0) -> FakeProducer:
    made = FakeProducer(run, attempt=attempt, at=at or time.time())
    made.begin(process={"host": "node7"})
    return made


def test_values_speed_samples_and_checkpoints_of_a_live_run_are_followed(bench: Bench) -> None:
    first, sampler = trainer(), FakeProducer(producer="sampler-node7", attempt="s1")
    for _ in range(30):
        first.do_step(loss=2.0, learning_rate=0.1, grad_norm=math.nan)
    first.emit("save", {"checkpoint": "/out/checkpoint-30"})
    metrics = {
        "gpu0/utilization_ratio": 0.5,
        "filesystem/output/available_bytes": 5.0,
        "host/cpu_ratio": 0.1,
    }
    sampler.emit("metrics", {"metrics": metrics})
    bench.journal.deliver(first, sampler)

    run = bench.one()
    assert run.host == "node7"
    assert run.losses["loss"].count == 30
    assert run.non_finite["grad_norm"].in_a_row == 30
    assert list(run.gpus["node7"]) == ["gpu0/utilization_ratio"]
    assert run.disks["node7"]["filesystem/output/available_bytes"].last == 5.0
    assert [one.step for one in run.checkpoints] == [30]

    first.do_step(loss=3.0, grad_norm=1.0)
    first.emit("evaluate", {"metrics": {"eval_loss": 1.0}})
    bench.journal.deliver(first)
    again = bench.one()
    assert again is run
    assert run.losses["loss"].count == 31
    assert run.non_finite["grad_norm"].in_a_row == 0
    assert run.interruptions == 1


def test_another_attempt_is_judged_by_its_own_values_and_has_the_checkpoints(bench: Bench) -> None:
    first = trainer()
    first.do_step(loss=math.nan)
    first.emit("save", {"checkpoint": "/out/checkpoint-1"})
    bench.journal.deliver(first)
    assert bench.one().non_finite["loss"].in_a_row == 1
    second = trainer(LATER_ATTEMPT, at=time.time() + 1)
    second.do_step(loss=1.0)
    bench.journal.deliver(second)
    run = bench.one()
    assert run.non_finite["loss"].in_a_row == 0
    assert run.losses["loss"].count == 1
    assert len(run.checkpoints) == 1


def test_a_run_that_has_ended_is_judged_once_and_as_long_as_it_is_wanted(bench: Bench) -> None:
    first, launcher = trainer(), FakeProducer(producer="launcher", attempt="l1")
    bench.journal.deliver(first)
    assert bench.one().is_active
    error = {"type": "ValueError", "message": "bad", "traceback": "..."}
    first.end("exception", error)
    data = {"attempt": ATTEMPT, "exit_code": 1, "signal": None, "out_of_memory": False}
    launcher.emit("process_exit", data)
    bench.journal.deliver(first, launcher)
    run = bench.one()
    assert (run.run.status, run.exit) == ("failed", data)
    assert bench.one("run").run.status == "failed"
    assert len(bench.read().judged) == 1, "it was wanted a moment ago"
    assert bench.read().judged == ()


def test_runs_that_ended_before_are_not_judged(bench: Bench) -> None:
    first = trainer()
    first.end("exception", {"type": "ValueError", "message": "bad", "traceback": ""})
    bench.journal.deliver(first)
    assert bench.read().judged == ()


def test_runs_that_are_silent_for_a_day_or_since_before_the_start_are_not_judged(
    bench: Bench, engine: Engine
) -> None:
    bench.journal.deliver(trainer())
    now = time.time()
    assert len(bench.observer.read(now, now).judged) == 1
    assert RunObserver(engine, -1, since=now + 600).read(now, now).judged == ()
    assert RunObserver(engine, 0, since=now + 600).read(now, now).judged == ()
    later = now + 86_400
    [run] = bench.observer.read(later, later, ("run",)).judged
    assert findings(Disconnected(), run) == [], "an alert about it closes"
    assert bench.observer.read(later, later).judged == (run,)
    assert bench.observer.read(later, later).judged == ()


def test_a_deleted_run_is_gone(bench: Bench) -> None:
    bench.journal.deliver(trainer())
    assert bench.one().run.id == "run"
    bench.writer.delete_run("run")
    changes = bench.read("run")
    assert not changes.judged
    assert changes.gone == {"run"}


def test_a_store_that_begins_anew_is_read_from_its_start(bench: Bench, engine: Engine) -> None:
    bench.journal.deliver(trainer())
    later = RunObserver(engine, after=1 << 40)
    now = time.time()
    assert [one.run.id for one in later.read(now, now).judged] == ["run"]


def test_alerts_of_the_stopper_and_errors_of_subscribers_are_read(bench: Bench) -> None:
    stopper, slack = (FakeProducer(producer=name, attempt="s1") for name in ("stopper", "slack"))
    watchdog = FakeProducer(producer="watchdog", attempt="w1")
    bench.journal.deliver(trainer())
    assert bench.read().alerts == ()
    stopper.emit("alert", {"id": "t1", "rule": "slow", "action": "alert", "why": "it held"})
    watchdog.emit("alert", {"id": "w1", "rule": "nan", "state": "open"})
    for action in ("retrying", "recovered"):
        slack.emit("subscriber_error", {"subscriber": "slack", "action": action})
    bench.journal.deliver(stopper, watchdog, slack)
    changes = bench.read()
    assert [(run.id, row.producer) for run, row in changes.alerts] == [("run", "stopper")]
    [run] = changes.judged
    assert (run.errors["slack"].data or {})["action"] == "recovered"
    assert bench.read().alerts == ()


def test_statuses_are_those_of_the_time_up_to_which_the_store_is_recorded(bench: Bench) -> None:
    first, shipper = trainer(), FakeProducer(producer="shipper", attempt="s1")
    shipper.emit("heartbeat", heartbeat(first))
    bench.journal.deliver(first, shipper)
    later = time.time() + 60
    [run] = bench.observer.read(later, later).judged
    assert run.run.status == "disconnected"
    [run] = bench.observer.read(later, later - 60).judged
    assert run.run.status == "running"
