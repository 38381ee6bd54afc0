"""When an archive that takes no checkpoints opens an alert, and when it closes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lineside.bus.protocol.checkpoints import checkpoint_id
from lineside.store.database.engine import open_store
from lineside.store.history.checkpoints import Checkpoint
from lineside.store.recording.writer import Writer
from lineside.subscribers.watchdog.engine import Engine, NoOutbox, Timing
from lineside.subscribers.watchdog.judge import Judge
from lineside.subscribers.watchdog.observation import RunObservation, StackObservation
from lineside.subscribers.watchdog.rules.archive import ArchiveStopped
from lineside.subscribers.watchdog.run_observer import Responses, RunObserver
from lineside.subscribers.watchdog.state import WatchdogState
from tests.store.trainer import ATTEMPT, START, FakeJournal, FakeProducer
from tests.subscribers.watchdog.observing import at, findings, observed

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
LIMIT = 1800.0


def checkpoint(step: int, saved: float, state: str | None, since: float, **more: Any) -> Checkpoint:
    """One that was saved and came into its state so many seconds from now."""
    path = f"/out/checkpoint-{step}"
    return Checkpoint(
        attempt="a1",
        step=step,
        epoch=None,
        time=at(saved),
        path=path,
        best=False,
        id=checkpoint_id("a1", step, path),
        state=state,
        state_at=at(since),
        **more,
    )


def run_with(*checkpoints: Checkpoint) -> RunObservation:
    run = observed(checkpoints=checkpoints)
    run.archive.add(checkpoints)
    return run


@pytest.mark.parametrize("state", ["held", None, "waiting", "copying", "failed"])
def test_what_waits_for_longer_than_the_limit_opens_an_alert(state: str | None) -> None:
    late = run_with(checkpoint(1, -LIMIT - 1, state, -LIMIT - 1))
    [found] = findings(ArchiveStopped(), late)
    assert found.action == "lineside checkpoints run"
    assert findings(ArchiveStopped(), run_with(checkpoint(1, -LIMIT + 1, state, -LIMIT + 1))) == []
    assert findings(ArchiveStopped(seconds=LIMIT + 2), late) == []


@pytest.mark.parametrize("state", ["archived", "verified", "skipped", "incomplete", "deleted"])
def test_what_waits_no_more_opens_none(state: str) -> None:
    assert findings(ArchiveStopped(), run_with(checkpoint(1, -DAY, state, -DAY))) == []


def test_a_run_without_an_archive_has_no_alert() -> None:
    saved = checkpoint(1, -DAY, None, -DAY)
    run = observed(checkpoints=[Checkpoint(saved.attempt, 1, None, saved.time, saved.path, False)])
    assert findings(ArchiveStopped(), run) == []


def test_the_reason_is_that_of_the_newest_failure() -> None:
    run = run_with(
        checkpoint(1, -DAY, "archived", -2 * HOUR),
        checkpoint(2, -HOUR, "failed", -60, why="s3://b: 503 Slow Down"),
        checkpoint(3, -HOUR, "failed", -90, why="an older reason"),
        checkpoint(4, -HOUR, "waiting", -10, why="it is not its turn"),
    )
    [found] = findings(ArchiveStopped(), run)
    assert found.summary == (
        "3 checkpoints wait for the archive, and none has reached it for 1 h: s3://b: 503 Slow Down"
    )
    [found] = findings(ArchiveStopped(), run_with(checkpoint(1, -HOUR, "held", -HOUR)))
    assert found.summary == (
        "1 checkpoint waits for the archive, and none has reached it for 1 h: "
        "the archiver does not run, or has not come to them"
    )
    [found] = findings(ArchiveStopped(), run_with(checkpoint(1, -HOUR, "waiting", -HOUR)))
    assert found.summary.endswith(": the archiver copies those of other runs")


def test_the_time_begins_again_with_each_one_that_is_archived() -> None:
    waiting = checkpoint(1, -5 * HOUR, "waiting", -5 * HOUR)
    recent, old = (checkpoint(2, -2 * HOUR, "archived", -ago) for ago in (600, HOUR))
    assert findings(ArchiveStopped(), run_with(waiting, recent)) == []
    assert "for 1 h" in findings(ArchiveStopped(), run_with(waiting, old))[0].summary


def test_a_state_that_is_reported_again_is_no_new_copy() -> None:
    waiting = checkpoint(2, -HOUR, "failed", -HOUR)
    run = run_with(checkpoint(1, -DAY, "archived", -HOUR), waiting)
    pinned = checkpoint(1, -DAY, "verified", -10, pinned=True)
    run.checkpoints = [pinned, waiting]
    run.archive.add(run.checkpoints)
    assert len(findings(ArchiveStopped(), run)) == 1


def test_a_copy_that_goes_on_opens_no_alert_and_closes_none() -> None:
    goes_on = run_with(checkpoint(1, -DAY, "copying", -5))
    assert ArchiveStopped().judge(goes_on) is None
    stands_still = run_with(checkpoint(1, -DAY, "copying", -LIMIT - 1))
    assert "does not go on" in findings(ArchiveStopped(), stands_still)[0].summary


def test_with_a_small_limit_of_holds_the_time_of_those_given_up_counts() -> None:
    given_up = [
        checkpoint(step, -HOUR + step * MINUTE, "evicted", -HOUR + (step + 3) * MINUTE)
        for step in range(57)
    ]
    run = run_with(*given_up, checkpoint(58, -2 * MINUTE, "held", -2 * MINUTE))
    [found] = findings(ArchiveStopped(), run)
    assert "none has reached it for 1 h, 57 others were given up: " in found.summary
    archived = checkpoint(59, -MINUTE, "archived", -MINUTE)
    assert findings(ArchiveStopped(), run_with(*run.checkpoints, archived)) == []


def test_a_run_without_a_report_about_its_checkpoints_for_a_month_is_forgotten() -> None:
    run = run_with(checkpoint(1, -31 * DAY, "failed", -31 * DAY))
    assert run.awaiting_archive == []
    assert findings(ArchiveStopped(), run) == []


class Outage:
    """A training that saves every hour while the archive takes nothing. Time passes only here."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.engine = open_store(f"sqlite:///{folder}/store.db", create=True)
        self.journal = FakeJournal(Writer(self.engine, clock=lambda: self.now))
        self.alerts = Engine(WatchdogState(), NoOutbox(), Timing())
        self.judge = Judge([ArchiveStopped()])
        self.rank = FakeProducer(at=START)
        self.archiver = FakeProducer(producer="archiver", attempt="r1")
        self.held: list[int] = []
        self.changes: list[tuple[float, str]] = []
        self.start_watchdog(-1)
        self.rank.begin()

    def start_watchdog(self, revision: int) -> None:
        self.observer = RunObserver(self.engine, revision)

    def go_on(self, hours: float, looks: int = 1, *, trains: bool = True) -> None:
        """A save, at most five holds, and tries of the archiver with a look after each."""
        if trains:
            self.rank.step += 1
            step = self.rank.step
            path = f"/out/checkpoint-{step}"
            evicted = []
            if len(self.held) >= 5:
                gone = self.held.pop(0)
                evicted = [{"checkpoint": f"/out/checkpoint-{gone}", "step": gone, "why": "room"}]
            self.held.append(step)
            self.rank.time = self.now
            self.rank.emit("save", {"checkpoint": path})
            data = {"checkpoint": path, "hold": f"/out/_lineside/checkpoint-{step}"}
            self.rank.emit("checkpoint_held", {**data, "bytes": 8, "evicted": evicted})
        for _ in range(looks):
            self.report("failed", *self.held[-1:], why="no route to host")
            self.let_pass(hours * HOUR / looks)

    def report(self, state: str, *steps: int, **more: Any) -> None:
        self.archiver.time = self.now
        for step in steps:
            one = {"checkpoint": f"/out/checkpoint-{step}", "attempt": ATTEMPT, "step": step}
            self.archiver.emit("checkpoint_state", {**one, "state": state, "bytes": 8, **more})

    def let_pass(self, seconds: float) -> None:
        self.now += seconds
        self.journal.deliver(self.rank, self.archiver)
        read = self.observer.read(self.now, self.now, self.alerts.watched_runs)
        stack = StackObservation(self.now, "ipc:///bus", runs=read.judged)
        before = self.open_summaries()
        self.alerts.apply(self.judge.judge(stack, read, Responses()), self.now)
        if bool(before) != bool(self.open_summaries()):
            change = "closes" if before else "opens"
            self.changes.append(((self.now - START) / HOUR, change))

    def open_summaries(self) -> list[str]:
        return [alert.summary for alert in self.alerts.open_alerts]


def test_an_outage_of_a_week_is_one_alert_that_closes_when_a_checkpoint_is_archived(
    tmp_path: Path,
) -> None:
    outage = Outage(tmp_path)
    outage.go_on(1, looks=4)
    assert outage.changes == [(0.5, "opens")]
    for _ in range(23):
        outage.go_on(3)
    outage.rank.emit("train_end", time=outage.now)
    outage.rank.end()
    for _ in range(10):
        outage.go_on(6, trains=False)
    outage.start_watchdog(outage.observer.read(outage.now, outage.now).revision)
    for _ in range(7):
        outage.go_on(6, trains=False)
    assert outage.changes == [(0.5, "opens")]
    [summary] = outage.open_summaries()
    assert summary == (
        "5 checkpoints wait for the archive, and none has reached it for 7 d 4 h, "
        "19 others were given up: no route to host"
    )
    outage.report("archived", outage.held.pop())
    outage.let_pass(MINUTE)
    assert [change for _, change in outage.changes] == ["opens", "closes"]
    outage.report("archived", *outage.held)
    outage.let_pass(DAY)
    outage.let_pass(DAY)
    assert len(outage.changes) == 2
    assert outage.observer.read(outage.now, outage.now).judged == (), "the run is followed no more"


def test_a_new_watchdog_knows_of_an_ended_run_that_waits(tmp_path: Path) -> None:
    outage = Outage(tmp_path)
    outage.go_on(0.25)
    outage.rank.end()
    outage.let_pass(MINUTE)
    outage.start_watchdog(outage.observer.read(outage.now, outage.now).revision)
    outage.alerts = Engine(WatchdogState(), NoOutbox(), Timing())
    outage.let_pass(HOUR)
    assert len(outage.open_summaries()) == 1
