"""Reads rules from a YAML file, or from the options of a command."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from lineside.bus.errors import MissingExtra, UsageError
from lineside.subscribers.stopper.metric_direction import AUTO, MAX, MIN
from lineside.subscribers.stopper.rules import ACTIONS, CONDITIONS, Rule, RuleError, StartAfter

FILE_NAME = "rules.yaml"
"""The file in LINESIDE_HOME whose rules apply when no others are given."""

_START_AFTER = re.compile(r"(\d+)(?: (step|evaluation)s?)?")


def load(path: Path) -> tuple[Rule, ...]:
    """The rules of a YAML file: a list of mappings under ``rules``.

    Raises:
        RuleError: the file holds no rules.
        UsageError: the file cannot be read, or is no YAML.
        MissingExtra: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtra("a file of rules", "pyyaml", "server") from None
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(
            f"rules cannot be read from {path}: {error.strerror}; expected a YAML file of rules"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    raw = document.get("rules") if isinstance(document, dict) else None
    if not isinstance(raw, list) or not raw or set(document) != {"rules"}:
        raise RuleError(str(path), "rules", raw, "a list of rules, and nothing beside it")
    found = [_parse_entry(one, f"{path}, rule {n}") for n, one in enumerate(raw, start=1)]
    names = [rule.name for rule in found]
    for name in names:
        if names.count(name) > 1:
            raise RuleError(str(path), "name", name, "another one for each rule")
    return tuple(found)


def parse_rule(raw: Mapping[str, Any], where: str) -> Rule:
    """The rule with these fields. Errors begin with ``where``, the place of the rule.

    A rule without a name gets one from its metric and condition.

    Raises:
        UsageError: a field is missing or invalid.
    """
    known = {one.name for one in fields(Rule)}
    for name in raw:
        if name not in known:
            raise RuleError(where, "field", name, f"one of {', '.join(sorted(known))}")
    values = {name: _parse_value(where, name, value) for name, value in raw.items()}
    condition = next((name for name in CONDITIONS if name in values), "rule")
    values.setdefault("name", " ".join((values.get("monitor", ""), condition)).strip())
    try:
        return Rule(**values)
    except RuleError as error:
        raise UsageError(f"{where}, {error}") from None


def _parse_entry(raw: object, where: str) -> Rule:
    if not isinstance(raw, dict):
        raise RuleError(where, "rule", raw, "names and values")
    return parse_rule(raw, where)


class _FieldType(NamedTuple):
    expected: str
    parse: Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise ValueError
    return value


def _one_of(*allowed: str) -> _FieldType:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError
        return str(value)

    return _FieldType(f"one of {', '.join(allowed)}", parse)


def _number(value: Any, at_least: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError  # noqa: TRY004 - one error for all of them
    number = float(value)  # or a text: YAML reads 1e-3 as one
    if not math.isfinite(number) or number < at_least:
        raise ValueError
    return number


def _above_zero(value: Any) -> float:
    number = _number(value)
    if number <= 0:
        raise ValueError
    return number


def _below_one(value: Any) -> float:
    number = _above_zero(value)
    if number >= 1:
        raise ValueError
    return number


def _count(value: Any, at_least: int = 1) -> int:
    number = _number(value, at_least)
    if number != int(number):
        raise ValueError
    return int(number)


def _start_after(value: Any) -> StartAfter:
    found = None if isinstance(value, bool) else _START_AFTER.fullmatch(str(value).strip())
    if found is None:
        raise ValueError
    number = int(found[1])
    return StartAfter(evaluations=number) if found[2] == "evaluation" else StartAfter(step=number)


_NUMBER = _FieldType("a finite number", _number)
_COUNT = _FieldType("a whole number above 0", _count)
_PATTERN = _FieldType("a text, in which * stands for any characters", _text)
_FIELD_TYPES: Mapping[str, _FieldType] = {
    "name": _FieldType("a text of at most 200 characters", _text),
    "monitor": _FieldType("the name of a metric, such as eval_loss", _text),
    "mode": _one_of(MIN, MAX, AUTO),
    "patience": _COUNT,
    "min_delta": _FieldType("a finite number of at least 0", lambda value: _number(value, 0)),
    "baseline": _NUMBER,
    "threshold": _NUMBER,
    "divergence": _FieldType("a finite number above 0", _above_zero),
    "not_finite": _COUNT,
    "max_seconds": _FieldType("a finite number above 0", _above_zero),
    "max_steps": _COUNT,
    "start_after": _FieldType("as 500 steps, or 3 evaluations", _start_after),
    "action": _one_of(*ACTIONS),
    "factor": _FieldType("a number above 0 and below 1", _below_one),
    "min_lr": _FieldType("a finite number of at least 0", lambda value: _number(value, 0)),
    "cool_down": _FieldType("a whole number of at least 0", lambda value: _count(value, 0)),
    "project": _PATTERN,
    "run": _PATTERN,
}


def _parse_value(where: str, name: str, value: Any) -> Any:
    field_type = _FIELD_TYPES[name]
    try:
        return field_type.parse(value)
    except (ValueError, OverflowError):
        raise RuleError(where, name, value, field_type.expected) from None
