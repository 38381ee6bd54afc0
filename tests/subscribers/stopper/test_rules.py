"""Rules in YAML and options, and the errors for invalid ones."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.checkpoints.metric_direction import direction
from lineside.bus.errors import UsageError
from lineside.subscribers.stopper.rule_parser import load, parse_rule
from lineside.subscribers.stopper.rules import Rule, StartAfter

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "rules.md"
FILE = """
rules:
  - monitor: eval_loss
    patience: 3
    min_delta: 1e-3
    start_after: 2 evaluations
    project: vision*
  - name: too long
    max_seconds: 3600
    action: stop
  - monitor: eval_accuracy
    patience: 2
    action: set_lr
    factor: 0.5
"""


def test_every_field_is_documented_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)(?:: \w+)?` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(field.name for field in dataclasses.fields(Rule))


def test_a_file_has_several_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(FILE)
    flat, too_long, lowered = load(path)
    assert (flat.name, flat.mode, flat.min_delta, flat.action) == (
        "eval_loss patience",
        "min",
        0.001,
        "save_and_stop",
    )
    assert flat.start_after == StartAfter(evaluations=2)
    assert (too_long.name, too_long.condition, too_long.action) == (
        "too long",
        "max_seconds",
        "stop",
    )
    assert (lowered.mode, lowered.factor) == ("max", 0.5)
    assert flat.matches("r1", "a run", "vision-2")
    assert not flat.matches("r1", "a run", "language")
    assert too_long.matches("r1", "a run", "language")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "rules.yaml, line 1: rules: is missing; expected a list of rules"),
        ("3", "line 1: '3' is invalid; expected a list of rules under the key rules"),
        ("rules: {}", "line 1: rules: an empty mapping is invalid; expected a list of rules"),
        ("rules:\n  - 3", "line 2: rules[0]: '3' is invalid; expected names and values"),
        ("rules: [{max_steps: 3}]\nmore: 1", "line 2: more: unknown key; expected rules"),
        ("rules: [", "line 1: is no YAML: expected the node content, but found '<stream end>'"),
        (
            "rules:\n- {max_steps: 1, name: a}\n- {max_steps: 2, name: a}",
            "line 3: rules[1]: name 'a' is another rule's too",
        ),
        (
            "rules:\n- max_steps: 3\n  patiense: 3",
            "line 3: rules[0].patiense: unknown key; did you mean patience? The keys here are act",
        ),
        (
            "rules:\n- monitor: eval_loss\n\n  patience: x\n- max_steps: 0",
            "line 4: rules[0].patience: 'x' is invalid; expected a whole number above 0\n",
        ),
        (
            "rules:\n- monitor: eval_loss\n  patience: 1\n- max_steps:",
            "line 4: rules[1].max_steps: has no value; expected a whole number above 0",
        ),
        ("rules:\n- monitor: loss", "line 2: rules[0]: condition: is missing; expected one of"),
    ],
)
def test_a_file_without_rules_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"rules\.yaml") as error:
        load(path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patiense": 3}, "field: 'patiense' is invalid; expected one of action,"),
        ({}, "condition: is missing; expected one of patience,"),
        ({"max_steps": 3, "max_seconds": 3}, "'max_seconds and max_steps' is invalid"),
        ({"monitor": "eval_loss", "patience": "x"}, "patience: 'x' is invalid; expected a whole"),
        ({"monitor": "eval_loss", "patience": 0}, "patience: 0 is invalid"),
        ({"monitor": "eval_loss", "patience": 2.5}, "patience: 2.5 is invalid"),
        ({"monitor": "eval_loss", "patience": True}, "patience: True is invalid"),
        ({"monitor": "eval_loss", "patience": None}, "patience: is missing"),
        ({"monitor": 3, "patience": 3}, "monitor: 3 is invalid; expected the name of a metric"),
        ({"patience": 3}, "monitor: is missing; expected the name of a metric beside patience"),
        ({"monitor": "eval_loss", "threshold": float("nan")}, "threshold: nan is invalid"),
        ({"max_steps": 3, "action": "kill"}, "action: 'kill' is invalid; expected one of stop,"),
        ({"max_steps": 3, "action": ["stop"]}, "action: ['stop'] is invalid"),
        ({"max_steps": 3, "action": "set_lr"}, "factor: is missing"),
        ({"max_steps": 3, "factor": 0.5}, "factor: 0.5 is invalid; expected none beside save_and"),
        ({"max_steps": 3, "action": "stop", "min_lr": 1e-6}, "min_lr: 1e-06 is invalid; expected"),
        ({"max_steps": 3, "action": "set_lr", "factor": 2}, "expected a number above 0 and below"),
        ({"max_steps": 3, "monitor": "loss"}, "expected none beside max_steps, it does nothing"),
        ({"max_steps": 3, "min_delta": 1}, "min_delta: 1.0 is invalid"),
        ({"max_steps": 3, "start_after": "soon"}, "expected as 500 steps, or 3 evaluations"),
        ({"max_steps": 3, "cool_down": -1}, "cool_down: -1 is invalid"),
        ({"monitor": "eval_x", "patience": 3}, "min or max: 'eval_x' does not show which"),
        ({"monitor": "loss", "patience": 3, "mode": "up"}, "expected one of min, max, auto"),
    ],
)
def test_an_invalid_rule_is_refused_with_its_value_and_the_expectation(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=r"^the place[,:] ") as error:
        parse_rule(given, "the place")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("eval_loss", "min"),
        ("loss", "min"),
        ("grad_norm", "min"),
        ("eval_wer", "min"),
        ("eval_perplexity", "min"),
        ("eval_accuracy", "max"),
        ("eval_f1", "max"),
        ("eval_rougeL", "max"),
        ("rewards/margins", "max"),
        ("eval_runtime", None),
        ("eval_loss_accuracy", None),
    ],
)
def test_the_direction_follows_from_the_name_or_is_unknown(
    metric: str, expected: str | None
) -> None:
    assert direction(metric) == expected
