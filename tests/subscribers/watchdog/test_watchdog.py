"""The watchdog beside a real broker and a real recorder: runs that fail, and one that does not."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from lineside.bus.protocol.alerts import Acknowledgement, Mute
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer, read_all
from lineside.store.history.history import History
from lineside.store.history.records import Alert
from lineside.subscribers.watchdog import engine as engine_module
from lineside.subscribers.watchdog.rules.lineside import BrokerUnreachable, StoreUnreadable
from lineside.subscribers.watchdog.rules.registry import RuleOptions, enabled_rules
from lineside.subscribers.watchdog.rules.rule import Finding
from lineside.subscribers.watchdog.state import WatchdogState
from lineside.subscribers.watchdog.watchdog import NoNotifications, Watchdog, WatchdogOptions
from tests.subscribers.conftest import ServiceProcess
from tests.support.waiting import DEADLINE, wait_until

ATTEMPT = "20261129T000000-0000"


class Run:
    """A training, by its events: rank 0 with its shipper."""

    def __init__(self, address: str, run: str) -> None:
        self.id = run
        self._rank = Producer(address, f"{run}/rank0/{ATTEMPT}")
        self._shipper = Producer(address, f"{run}/shipper/s1")
        self._rank.emit("run_start", data={"name": f"name of {run}", "process": {"host": "node1"}})
        self._rank.emit("train_begin", data={"state": {"max_steps": 100}})
        self.beat()

    def emit(self, kind: str, step: int = 1, **data: Any) -> None:
        self._rank.emit(kind, step=step, data=data)
        self._rank.flush(30)

    def log(self, step: int, **logs: float) -> None:
        self.emit("log", step, logs=logs)

    def beat(self, kind: str = "heartbeat", phase: str = "training", **data: Any) -> None:
        common = {"producer": "rank0", "attempt": ATTEMPT, "phase": phase, "pid": 1}
        self._shipper.emit(kind, data={**common, **data})
        self._shipper.flush(30)

    def close(self) -> None:
        self._rank.close()
        self._shipper.close()


@pytest.fixture
def begin(broker: BrokerProcess) -> Iterator[Callable[[str], Run]]:
    begun: list[Run] = []

    def begin(run: str) -> Run:
        begun.append(Run(broker.address, run))
        return begun[-1]

    yield begin
    for run in begun:
        run.close()


@pytest.fixture
def recorder(settings: Settings, engine: Engine, broker: BrokerProcess) -> Iterator[ServiceProcess]:
    with ServiceProcess("recorder", settings) as process:
        process.wait_started()
        yield process


@pytest.fixture
def watchdog(settings: Settings, recorder: ServiceProcess) -> Iterator[Watchdog]:
    ends = {name: {"for": 0.5} for name in ("lost", "failed")}
    rules = enabled_rules(RuleOptions.model_validate(ends))
    made = Watchdog(settings, WatchdogOptions(interval=0.2, rules=rules))
    made.startup()
    yield made
    made.shutdown()


def until(watchdog: Watchdog, condition: Callable[[], Any], what: str) -> Any:
    """Serve the watchdog until ``condition`` returns a true value."""
    deadline = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        watchdog.run_once()
    return found


def open_rules(watchdog: Watchdog) -> set[tuple[str, str]]:
    return {(alert.run, alert.rule) for alert in watchdog.engine.open_alerts}


def test_runs_that_fail_have_alerts_in_the_store_and_the_healthy_one_has_none(
    watchdog: Watchdog, history: History, begin: Callable[[str], Run]
) -> None:
    healthy, diverged, failed, lost = map(begin, ("healthy", "diverged", "failed", "lost"))
    until(watchdog, lambda: len(history.runs().items) == 4, "the runs are recorded")
    for run in (healthy, diverged):
        for step in range(1, 60):
            run.emit("step_begin", step - 1)
            run.emit("step_end", step)
            run.log(step, loss=2.0 + 8.0 * 0.9**step, grad_norm=math.inf if step < 4 else 1.0)
    healthy.emit("evaluate", 59, metrics={"eval_loss": 3.0})
    healthy.emit("save", 59, checkpoint="/out/checkpoint-59")
    diverged.log(60, loss=math.nan)
    traceback = "Traceback ...\nValueError: bad shape"
    error = {"type": "ValueError", "message": "bad shape", "traceback": traceback}
    failed.log(7, loss=1.5)
    failed.emit("run_end", 7, how="exception", error=error)
    lost.beat("process_lost", step=3)

    expected = {("diverged", "nan"), ("failed", "failed"), ("lost", "lost")}
    until(watchdog, lambda: open_rules(watchdog) >= expected, "the alerts are open")
    assert open_rules(watchdog) == expected

    def recorded() -> dict[str, Alert] | None:
        found = {str(alert.run): alert for alert in history.alerts.page(state="open").items}
        return found if len(found) == 3 else None

    alerts = until(watchdog, recorded, "the alerts are recorded")
    alert = alerts["failed"]
    assert alert.summary == "failed at step 7: ValueError: bad shape"
    assert (alert.severity, alert.action) == ("critical", "lineside show failed")
    assert (alert.details["step"], alert.details["host"]) == (7, "node1")
    assert alert.details["metrics"] == {"loss": 1.5}
    assert alert.details["output"] == traceback
    assert alerts["diverged"].subject == "loss"
    assert history.run("lost").status == "lost", "an alert of a run is no sign of its life"

    diverged.log(61, loss=2.0)
    until(watchdog, lambda: ("diverged", "nan") not in open_rules(watchdog), "it closes")
    closed = until(
        watchdog, lambda: history.alerts.page(state="closed").items, "the closing is recorded"
    )
    assert [(one.run, one.openings) for one in closed] == [("diverged", 1)]


def test_the_stoppers_alerts_are_sent_once_and_are_not_published_again(
    settings: Settings,
    recorder: ServiceProcess,
    history: History,
    begin: Callable[[str], Run],
    broker: BrokerProcess,
) -> None:
    sent: list[str] = []

    class Outbox(engine_module.NoOutbox):
        def add(self, _db: object, change: str, alert: Any) -> None:
            sent.append(f"{change} {alert.rule}: {alert.summary}")

    class Notifications:
        outbox = Outbox()

        def _ignore(self, *_: object) -> None:
            pass

        start = wake = beat = close = _ignore

        def problems(self) -> dict[str, str]:
            return {}

    made = Watchdog(
        settings, WatchdogOptions(interval=0.1), notifications=lambda _: Notifications()
    )
    made.startup()
    try:
        run = begin("run")
        until(made, lambda: history.runs().items, "the run is recorded")
        with Producer(broker.address, "run/stopper/s1") as stopper:
            data = {"id": "t1", "rule": "slow", "action": "stop", "why": "it held", "dry_run": True}
            stopper.emit("alert", step=4, data=data)
            stopper.flush(30)
        until(made, lambda: sent, "it is sent")
        for _ in range(3):
            run.beat()
            made.judge()
    finally:
        made.shutdown()
    assert sent == ["opened slow: would have sent stop: it held"]
    assert len([one for one in read_all(broker.address, ["run"]) if one.kind == "alert"]) == 1


def test_mutes_and_acknowledgements_come_from_the_store(
    watchdog: Watchdog, history: History, begin: Callable[[str], Run], broker: BrokerProcess
) -> None:
    run = begin("run")
    run.log(1, loss=math.nan)
    [alert] = until(watchdog, lambda: watchdog.engine.open_alerts, "it opens")
    until(watchdog, lambda: history.alerts.page().items, "it is recorded")
    with Producer(broker.address, "run/control/c1") as person:
        for response in (Acknowledgement(alert.id), Mute("nan")):
            person.emit(response.kind, data=response.to_data())
        person.flush(30)
    until(watchdog, history.alerts.mutes, "the mute is recorded")
    watchdog.judge()
    responses = watchdog.responses
    assert responses.is_acknowledged(alert)
    assert responses.is_muted(alert)


def test_a_watchdog_that_is_killed_publishes_each_change_once(
    settings: Settings,
    recorder: ServiceProcess,
    history: History,
    begin: Callable[[str], Run],
    broker: BrokerProcess,
    tmp_path: Path,
) -> None:
    file = tmp_path / "lineside.yaml"
    file.write_text("alerts: {interval: 1}")
    run = begin("run")
    run.log(1, loss=math.nan)
    for _ in range(3):
        with ServiceProcess("watchdog", settings, "--config", str(file)) as process:
            process.wait_started()
            wait_until(lambda: history.alerts.page(state="open").items, "the alert is recorded")
            os.kill(process.pid, signal.SIGKILL)
    with ServiceProcess("watchdog", settings, "--config", str(file)):
        run.log(2, loss=1.0)
        wait_until(lambda: history.alerts.page(state="closed").items, "the closing is recorded")
    alerts = [one.data or {} for one in read_all(broker.address, ["run"]) if one.kind == "alert"]
    assert [one["state"] for one in alerts] == ["open", "closed"]
    assert len({one["id"] for one in alerts}) == 1


def test_an_end_is_not_forgotten_by_a_watchdog_that_is_killed_before_its_alert_opened(
    settings: Settings,
    recorder: ServiceProcess,
    history: History,
    begin: Callable[[str], Run],
) -> None:
    def start(hold: float) -> Watchdog:
        rules = enabled_rules(RuleOptions.model_validate({"failed": {"for": hold}}))
        made = Watchdog(settings, WatchdogOptions(interval=0.1, rules=rules))
        made.startup()
        return made

    failed, first = begin("failed"), start(60.0)
    try:
        until(first, lambda: history.runs().items, "the run is recorded")
        first.judge()
        failed.emit("run_end", how="exception", error={"type": "ValueError"})
        until(first, lambda: first.engine.pending_runs, "its end is judged")
        first._progress_due = 0.0  # as if long after the one before
        first.judge()
    finally:
        first.shutdown()
    second = start(0.0)
    try:
        until(second, lambda: open_rules(second) == {("failed", "failed")}, "it opens")
    finally:
        second.shutdown()


def test_after_a_sleep_of_the_machine_no_run_is_silent_and_nothing_lags(
    settings: Settings,
    recorder: ServiceProcess,
    history: History,
    begin: Callable[[str], Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    holds = {name: {"for": 0} for name in ("stalled", "disconnected", "recorder_lagging")}
    rules = enabled_rules(RuleOptions.model_validate(holds))
    slept = [0.0]
    made = Watchdog(
        settings,
        WatchdogOptions(interval=0.1, rules=rules),
        clock=lambda: time.time() + slept[0],
    )
    made.startup()
    try:
        begin("run")
        until(made, lambda: made._runs_read, "the run is read")
        slept[0] = 8 * 3600.0
        for _ in range(3):
            made.run_once()
        assert history.runs().items
        assert open_rules(made) == set()
        made._awake_at = 0.0
        until(made, lambda: open_rules(made) == {("run", "disconnected")}, "it is silent")
    finally:
        made.shutdown()


def test_a_second_watchdog_of_a_home_does_not_start(settings: Settings, watchdog: Watchdog) -> None:
    with ServiceProcess("watchdog", settings) as process:
        wait_until(lambda: "a watchdog runs on this home already" in process.log_text(), "it ends")


def test_without_a_store_a_broker_or_room_on_the_disk_alerts_open_all_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [one.model_validate({"for": 0}) for one in (StoreUnreadable, BrokerUnreachable)]
    state: list[WatchdogState] = []

    def notifications(made: WatchdogState) -> NoNotifications:
        state.append(made)
        return NoNotifications()

    made = Watchdog(settings, WatchdogOptions(rules=tuple(rules)), notifications=notifications)
    try:
        ((pages,),) = state[0].fetch("PRAGMA page_count")
        state[0].fetch(f"PRAGMA max_page_count={pages}")
        monkeypatch.setattr(StoreUnreadable, "judge", lambda *_: [Finding("x" * 100_000, "")])
        made.judge()
        assert state[0].is_in_memory
        assert open_rules(made) == {("", "store_unreadable"), ("", "broker_unreachable")}
    finally:
        made.shutdown()
