"""Rules that raise, that do not apply, and the commands that alerts name."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

import lineside.subscribers.watchdog.rules as rules_package
from lineside.cli.main import app
from lineside.subscribers.watchdog.alert import AlertKey
from lineside.subscribers.watchdog.engine import Judgement
from lineside.subscribers.watchdog.judge import Judge
from lineside.subscribers.watchdog.observation import StackObservation
from lineside.subscribers.watchdog.rules.rule import Rule, Undecided
from lineside.subscribers.watchdog.rules.status import Failed, Lost, Stalled
from lineside.subscribers.watchdog.run_observer import Responses, RunChanges
from tests.subscribers.watchdog.observing import NOW, observed

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
STACK = StackObservation(NOW, "ipc:///bus")


def judge(status: str, *rules: Rule, stack: StackObservation = STACK) -> Judgement:
    changes = RunChanges(judged=(observed(status),))
    return Judge(rules).judge(stack, changes, Responses())


def key(rule: str) -> AlertKey:
    return AlertKey("run", rule, "")


def test_a_rule_that_raises_judges_nothing_and_the_others_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Lost, "judge", fail)
    for _ in range(2):
        judgement = judge("failed", Lost(), Failed())
    assert [one.rule for one in judgement.found] == ["failed"]
    assert judgement.is_judged(key("failed"))
    assert not judgement.is_judged(key("lost"))
    assert "the rule lost cannot judge run" in caplog.text


def test_an_alert_of_a_rule_that_is_disabled_or_leaves_out_the_run_closes() -> None:
    judgement = judge("failed", Failed(runs=["other"]))
    assert list(judgement.found) == []
    assert judgement.is_judged(key("failed"))
    assert judgement.is_judged(key("lost"))
    assert not judgement.is_judged(AlertKey("not read", "failed", ""))


@pytest.mark.parametrize("reason", [{"broker_silence": 10.0}, {"was_asleep": True}])
def test_a_silent_run_is_not_judged_without_a_broker_or_after_a_sleep(
    reason: dict[str, Any],
) -> None:
    stack = replace(STACK, **reason)
    judgement = judge("stalled", Stalled(), Failed(), stack=stack)
    assert list(judgement.found) == []
    assert not judgement.is_judged(key("stalled"))
    assert judgement.is_judged(key("failed"))


def test_an_alert_that_a_rule_cannot_decide_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failed, "judge", lambda *_: [Undecided("gpu0")])
    judgement = judge("failed", Failed())
    assert list(judgement.found) == []
    assert not judgement.is_judged(AlertKey("run", "failed", "gpu0"))
    assert judgement.is_judged(AlertKey("run", "failed", "gpu1"))


def test_every_command_that_an_alert_names_exists_with_its_options() -> None:
    folder = Path(rules_package.__file__).parent
    found = {
        command
        for file in folder.glob("*.py")
        for command in re.findall(r'"lineside ([a-z][^"]*)"', file.read_text())
    }
    assert {"doctor", "ship", "show {record.id}"} <= found
    for command in found:
        name, *arguments = shlex.split(re.sub(r"\{[^}]*\}", "run", command))
        COMMANDS[name].make_context(name, arguments)
