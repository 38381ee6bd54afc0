"""The stopper ends real trainings at the step at which transformers' callback does."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import EarlyStoppingCallback

from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess
from lineside.store.history.history import History
from tests.faults.session import repeats
from tests.subscribers.conftest import ServiceProcess
from tests.subscribers.stopper.scripted_trainer import scripted
from tests.subscribers.stopper.stopper_processes import (
    RUN,
    Training,
    backtest,
    data_of,
    environment,
    events_of,
)
from tests.support.waiting import wait_until

VALUES = (5.0, 4.0, 4.5, 4.2, 3.0, 3.5, 3.1, 3.3)  # the last three are no better than the fifth
RULE = ("--monitor", "eval_score", "--mode", "min", "--patience", "3")
STOP = (*RULE, "--action", "stop")
MANY_STEPS = 2000


@pytest.fixture(scope="module")
def reference_step(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The last step of a training that transformers' callback ends."""
    output = tmp_path_factory.mktemp("own")
    own = EarlyStoppingCallback(early_stopping_patience=3)
    made = scripted(output, 20, VALUES, own, load_best_model_at_end=True)
    made.train()
    return int(made.state.global_step)


def test_a_training_that_waits_stops_at_the_step_of_the_stock_callback_and_of_a_backtest(
    settings: Settings, broker: BrokerProcess, history: History, tmp_path: Path, reference_step: int
) -> None:
    with (
        ServiceProcess("recorder", settings),
        ServiceProcess("stopper", settings, *STOP),
        Training(settings, tmp_path / "out", MANY_STEPS, VALUES, wait=60) as training,
    ):
        step, _, stderr = training.wait_ended()
        assert step == reference_step == 8
        assert "no stopper" not in stderr
        [command] = [
            c for c in data_of(events_of(settings, "control", "command")) if c["op"] == "stop"
        ]
        assert command["args"] == {"save": False}
        assert command["reason"] == (
            "eval_score patience: eval_score was no better than 3 of step 5 3 times in a row, "
            "and is 3.3"
        )
        reviews = data_of(events_of(settings, "control", "evaluation_reviewed"))
        assert len({one["seq"] for one in reviews}) >= reference_step - 1
        wait_until(lambda: history.run(RUN).status == "stopped", "the recorder has it")
        answer = backtest(settings, *STOP)
    assert [(one["step"], one["action"]) for one in answer["items"]] == [(reference_step, "stop")]


def test_a_training_that_does_not_wait_saves_and_stops_a_few_steps_later(
    settings: Settings, broker: BrokerProcess, tmp_path: Path, reference_step: int
) -> None:
    output = tmp_path / "out"
    with (
        ServiceProcess("stopper", settings, *RULE),
        Training(settings, output, MANY_STEPS, VALUES, pause=0.1) as training,
    ):
        step, _, _ = training.wait_ended()
    [stop] = events_of(settings, "control", "control_applied")
    assert reference_step < step == stop.step < MANY_STEPS
    assert (output / f"checkpoint-{step}").is_dir()


@pytest.mark.fault
def test_a_stopper_killed_between_evaluations_decides_the_same(
    settings: Settings, broker: BrokerProcess, tmp_path: Path, reference_step: int
) -> None:
    stopper = ServiceProcess("stopper", settings, *STOP)
    with (
        stopper,
        Training(settings, tmp_path / "out", MANY_STEPS, VALUES, wait=120, pause=0.2) as training,
    ):
        for _ in repeats(1000):
            if training.process.poll() is not None:
                break
            time.sleep(random.uniform(0.0, 1.0))
            stopper.kill()
            stopper.start()
            stopper.wait_started()
        step, _, stderr = training.wait_ended()
    assert step == reference_step
    assert "no stopper" not in stderr
    commands = data_of(events_of(settings, "control", "command"))
    assert len({one["id"] for one in commands if one["op"] == "stop"}) == 1


def test_a_resumed_training_keeps_its_count_although_the_stopper_was_killed(
    settings: Settings, broker: BrokerProcess, tmp_path: Path, reference_step: int
) -> None:
    output = tmp_path / "out"
    with ServiceProcess("stopper", settings, *STOP) as stopper:
        with Training(settings, output, 7, VALUES, wait=60) as training:
            assert training.wait_ended()[0] == 7
        stopper.kill()
        stopper.start()
        resume = output / "checkpoint-6"
        with Training(settings, output, MANY_STEPS, VALUES, wait=60, resume=resume) as training:
            assert training.wait_ended()[0] == reference_step


RULES = """
rules:
  - {name: absent, monitor: eval_accuracy, patience: 3}
  - {name: gradients, not_finite: 1, monitor: grad_norm, action: alert}
  - {name: flat, monitor: eval_score, mode: min, patience: 3, action: set_lr, factor: 0.5}
  - {name: elsewhere, project: others, max_steps: 1, action: stop}
  - {name: budget, max_steps: 9, action: stop}
"""


def test_alerts_a_plateau_and_a_budget_of_one_training(
    settings: Settings, broker: BrokerProcess, tmp_path: Path
) -> None:
    settings.home.mkdir(exist_ok=True)
    (settings.home / "rules.yaml").write_text(RULES)
    with (
        ServiceProcess("stopper", settings),
        Training(
            settings, tmp_path / "out", MANY_STEPS, VALUES, wait=60, nan=4, pause=0.1
        ) as training,
    ):
        step, rate, _ = training.wait_ended()
        wait_until(lambda: len(events_of(settings, "stopper", "alert")) == 2, "two alerts")
    assert 9 <= step < MANY_STEPS
    assert rate == pytest.approx(5e-4)
    absent, gradients = sorted(
        data_of(events_of(settings, "stopper", "alert")), key=lambda data: str(data["rule"])
    )
    assert absent["rule"] == "absent"
    assert absent["names"] == ["eval_score", "eval_other"]
    assert gradients["why"] in ("not finite: grad_norm is inf", "not finite: grad_norm is nan")
    requested = {
        (one["op"], one["reason"].split(":")[0])
        for one in data_of(events_of(settings, "control", "command"))
    }
    assert requested == {("set_lr", "flat"), ("stop", "budget")}
    [changed] = [
        one
        for one in events_of(settings, "control", "control_applied")
        if (one.data or {})["op"] == "set_lr"
    ]
    assert changed.step == 8


LOOP = """
from lineside.emitter import start_run
with start_run("a loop") as run:
    for step in range(1, 31):
        run.log({"loss": 1.0}, step=step)
        if step % 10 == 0:
            run.event("evaluate", {"metrics": {"eval_loss": 5.0}}, step=step)
"""
LOOP_RULES = """
rules:
  - {name: flat, monitor: eval_loss, patience: 2}
  - {name: budget, max_steps: 25, action: stop}
"""


def test_rules_only_alert_for_a_run_of_start_run(settings: Settings, broker: BrokerProcess) -> None:
    (settings.home / "rules.yaml").write_text(LOOP_RULES)
    with ServiceProcess("stopper", settings):
        subprocess.run([sys.executable, "-c", LOOP], env=environment(settings), check=True)
        wait_until(lambda: len(events_of(settings, "stopper", "alert")) == 2, "two alerts")
    alerts = [
        (alert.step, data["rule"], data["action"])
        for alert in events_of(settings, "stopper", "alert")
        for data in data_of([alert])
    ]
    assert sorted(alerts) == [(25, "budget", "alert"), (30, "flat", "alert")]


def test_a_dry_run_publishes_alerts_and_no_commands(
    settings: Settings, broker: BrokerProcess, tmp_path: Path
) -> None:
    with (
        ServiceProcess("stopper", settings, *STOP, "--dry-run") as stopper,
        Training(settings, tmp_path / "out", 12, VALUES, wait=0.5) as training,
    ):
        assert training.wait_ended()[0] == 12
        wait_until(lambda: bool(events_of(settings, "stopper", "alert")), "an alert")
        assert (
            "stop of run scripted at step 8 by rule eval_score patience" in stopper.log.read_text()
        )
    assert not events_of(settings, "control", "command")
    [alert] = data_of(events_of(settings, "stopper", "alert"))
    assert (alert["action"], alert["dry_run"], alert["args"]) == ("stop", True, {"save": False})


def test_a_training_waits_once_for_an_absent_stopper(
    settings: Settings, broker: BrokerProcess, tmp_path: Path
) -> None:
    with Training(settings, tmp_path / "out", 12, VALUES, wait=5) as training:
        step, _, stderr = training.wait_ended()
    assert step == 12
    wait_until(lambda: events_of(settings, "rank0", "train_end"), "the journal has the run")
    begin, end = events_of(settings, "rank0", "train_begin", "train_end")
    assert end.time - begin.time < 60, "it waited at every evaluation"
    assert stderr.count("no stopper has reviewed an evaluation within 5 s") == 1
