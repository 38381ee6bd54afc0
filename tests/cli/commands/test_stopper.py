"""``lineside stopper`` by the real command, and run by ``lineside up``."""

from __future__ import annotations

import json

import pytest

from tests.cli.homes import RUN_ID, Home
from tests.support.waiting import wait_until


def test_a_backtest_applies_a_rule_to_a_recorded_run(running_home: Home) -> None:
    done = running_home.lineside(
        "stopper", "--monitor", "loss", "--threshold", "0.1", "--backtest", RUN_ID
    )
    header, row = done.stdout.splitlines()
    assert header.split() == ["RULE", "WOULD", "ATTEMPT", "STEP", "AFTER", "WHY"]
    assert row.startswith("loss threshold  alert        1    10  ")
    assert row.endswith("loss has reached 0.1, and is 0.1; a loop takes no commands")
    never = running_home.lineside("stopper", "--max-steps", "1000", "--backtest", "latest")
    assert never.stdout.splitlines()[1].split() == ["max_steps", "never"]


def test_a_backtest_prints_json(running_home: Home) -> None:
    done = running_home.lineside("stopper", "--not-finite", "1", "--backtest", RUN_ID, "--json")
    answer = json.loads(done.stdout)
    assert answer["run"] == RUN_ID
    [item] = answer["items"]
    assert item["why"] == "not finite: speed is inf; a loop takes no commands"
    assert (item["step"], item["action"], item["args"]) == (1, "alert", {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "there are no rules: give one by options"),
        (("--patience", "3"), "monitor: is missing; expected the name of a metric"),
        (("--max-steps", "x"), "the options: max_steps: 'x' is invalid"),
        (("--max-steps", "3", "--rules", "rules.yaml"), "--max-steps and --rules: expected one"),
        (("--rules", "no.yaml"), "no.yaml cannot be read: No such file or directory; expected"),
        (("--max-steps", "3", "--json"), "--json is for --backtest"),
        (("--max-steps", "3", "--backtest", "nobody"), "no store"),
    ],
)
def test_invalid_options_are_reported(home: Home, options: tuple[str, ...], message: str) -> None:
    done = home.lineside("stopper", *options)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_up_runs_a_stopper_where_there_are_rules(home: Home) -> None:
    home.path.mkdir()
    (home.path / "rules.yaml").write_text("rules: [{not_finite: 1, action: alert}]")
    process, _ = home.up()
    process.until(r"stopper +\| \S+ INFO stopper: started")
    home.train()
    wait_until(lambda: '"alert": 1' in home.lineside("show", RUN_ID, "--json").stdout)


def test_up_reports_invalid_rules_and_starts_nothing(home: Home) -> None:
    home.path.mkdir()
    (home.path / "rules.yaml").write_text("rules: [{max_stepz: 1}]")
    done = home.lineside("up", "--port", "0")
    assert done.returncode == 2
    assert "line 1: rules[0].max_stepz: unknown key; did you mean max_steps?" in done.stderr
    assert not (home.path / "logs").exists()
