"""Whole trainings in simulated time, through the recorder's writer, the observer and every rule."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lineside.store.database.engine import open_store
from lineside.store.recording.writer import Writer
from lineside.subscribers.watchdog.engine import Engine, NoOutbox, Timing
from lineside.subscribers.watchdog.judge import Judge
from lineside.subscribers.watchdog.observation import StackObservation
from lineside.subscribers.watchdog.rules.registry import RULES
from lineside.subscribers.watchdog.run_observer import Responses, RunObserver
from lineside.subscribers.watchdog.state import WatchdogState
from tests.store.trainer import START, FakeJournal, FakeProducer, heartbeat

JUDGE_SECONDS = 20.0
GB = 2.0**30
ARGUMENTS = {"save_strategy": "steps", "save_steps": 200}


@dataclass
class Training:
    """How a training goes: each of its lengths in seconds, from ``since`` seconds on as changed."""

    step: float = 1.0
    wait: float = 0.05
    loss_growth: float = 0.0
    saves: bool = True
    gpu: float = 0.9
    disk_per_second: float = 0.0
    since: float = 0.0
    minutes: float = 30.0
    compile: float = 150.0
    evaluation: float = 240.0
    save: float = 90.0
    pause: float = 0.0
    resumes: bool = False


@dataclass
class Simulation:
    """A training in a store, watched. Time passes only here."""

    folder: Path
    training: Training
    opened: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = self.judged_at = START
        self.source = random.Random(1)
        self.engine = open_store(f"sqlite:///{self.folder}/store.db", create=True)
        self.journal = FakeJournal(Writer(self.engine, clock=lambda: self.now))
        self.observer = RunObserver(self.engine, -1)
        self.state = WatchdogState()
        self.alerts = Engine(self.state, NoOutbox(), Timing())
        self.judge = Judge(RULES)
        self.shipper = FakeProducer(producer="shipper", attempt="s1")
        self.sampler = FakeProducer(producer="sampler-node", attempt="s1")
        self.free, self.phase, self.losses = 900 * GB, "training", 0
        self.begin("20231114T221320-aaaa")

    def begin(self, attempt: str, step: int = 0, resumed_from: str = "") -> None:
        self.rank = FakeProducer(attempt=attempt, at=self.now)
        self.rank.step = step
        resumed = {"run": "run", "attempt": resumed_from, "step": step} if resumed_from else None
        facts = {"process": {"host": "node"}, "args": ARGUMENTS, "world_size": 1}
        self.rank.begin(**facts, resumed_from=resumed)

    def end(self) -> None:
        self.rank.emit("train_end")
        self.rank.end()

    def run(self) -> list[str]:
        """Train to the end; the rules that opened an alert, each once."""
        end = START + 60 * self.training.minutes
        self.rank.do_step(self.training.compile)
        self.let_pass(self.training.compile, busy=0.2)
        while self.now < end:
            self.do_step()
            if self.rank.step % 200 == 0:
                self.evaluate_and_save()
        self.end()
        self.let_pass(JUDGE_SECONDS)
        self.let_pass(JUDGE_SECONDS)
        self.engine.dispose()
        self.state.close()
        return sorted(set(self.opened))

    def do_step(self) -> None:
        training, is_changed = self.training, self.now - START >= 60 * self.training.since
        step = training.step if is_changed else 1.0
        wait = training.wait if is_changed else 0.05
        self.rank.time = self.now
        self.rank.do_step(step, wait)
        if self.rank.step % 5 == 0:
            level = 2.0 + 8.0 * 0.98 ** (self.rank.step / 5)
            if is_changed:
                self.losses += 1
                level *= (1 + training.loss_growth) ** self.losses
            self.rank.log(loss=level * self.source.gauss(1, 0.1), learning_rate=1e-4)
        self.let_pass(step + wait, busy=training.gpu if is_changed else 0.9)

    def evaluate_and_save(self) -> None:
        self.phase = "evaluating"
        self.let_pass(self.training.evaluation, busy=0.0)
        self.rank.emit("evaluate", {"metrics": {"eval_loss": 3.0}}, time=self.now)
        if self.training.saves or self.now - START < 60 * self.training.since:
            self.phase = "saving"
            self.let_pass(self.training.save, busy=0.0)
            path = {"checkpoint": f"/out/checkpoint-{self.rank.step}"}
            self.rank.emit("save", path, time=self.now)
            self.free += 20 * GB if self.rank.step % 400 else -20 * GB  # old ones are removed
        if self.training.pause:
            self.phase = "paused"
            self.let_pass(self.training.pause, busy=0.0)
        self.phase = "training"
        if self.training.resumes and self.rank.step == 400:
            before = self.rank.stream.attempt
            self.end()
            self.let_pass(60.0)
            self.begin("20231114T231320-bbbb", 400, before)
            self.let_pass(30.0)

    def let_pass(self, seconds: float, busy: float = 0.0) -> None:
        """Let time pass, with heartbeats and samples, and judge when it is due."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.judged_at + JUDGE_SECONDS)
            if self.now < self.judged_at + JUDGE_SECONDS:
                return
            self.judged_at = self.now
            is_changed = self.now - START >= 60 * self.training.since
            self.free -= self.training.disk_per_second * JUDGE_SECONDS * is_changed
            self.shipper.time = self.sampler.time = self.now
            self.shipper.emit("heartbeat", heartbeat(self.rank, phase=self.phase))
            metrics = {
                "gpu0/utilization_ratio": busy,
                "gpu0/memory_used_bytes": 20 * GB,
                "filesystem/output/available_bytes": self.free,
                "filesystem/output/size_bytes": 2000 * GB,
            }
            self.sampler.emit("metrics", {"metrics": metrics})
            self.journal.deliver(self.rank, self.shipper, self.sampler)
            changes = self.observer.read(self.now, self.now, self.alerts.watched_runs)
            stack = StackObservation(self.now, "ipc:///bus", runs=changes.judged)
            self.alerts.apply(self.judge.judge(stack, changes, Responses()), self.now)
            self.opened += [alert.rule for alert in self.alerts.open_alerts]


HEALTHY = {
    "long evaluations and saves": Training(minutes=40),
    "a pause": Training(pause=900.0, minutes=40),
    "a resumed attempt": Training(resumes=True, minutes=25, evaluation=60.0, save=30.0),
    "a short run": Training(minutes=3, compile=60.0),
}
FAILING = {
    "throughput_fell": Training(step=2.5, since=14, minutes=25),
    "data_loader_bound": Training(wait=1.4, minutes=20, evaluation=5.0, save=5.0),
    "gpu_idle": Training(gpu=0.0, since=5, minutes=25, evaluation=5.0, save=5.0),
    "checkpoint_overdue": Training(saves=False, since=5, minutes=20, evaluation=5.0),
    "disk_filling": Training(disk_per_second=0.2 * GB, since=5, minutes=30),
    "divergence": Training(loss_growth=0.08, since=14, minutes=20, evaluation=5.0, save=5.0),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_opens_no_alert(name: str, tmp_path: Path) -> None:
    assert Simulation(tmp_path, HEALTHY[name]).run() == []


@pytest.mark.parametrize("rule", FAILING)
def test_a_run_that_fails_in_one_way_opens_that_alert_and_no_other(
    rule: str, tmp_path: Path
) -> None:
    assert Simulation(tmp_path, FAILING[rule]).run() == [rule]
