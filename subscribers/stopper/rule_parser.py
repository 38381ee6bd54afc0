"""Reads rules from a YAML file, or from the options of a command."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from lineside.bus import yaml_document
from lineside.bus.checkpoints.metric_direction import AUTO, MAX, MIN
from lineside.bus.yaml_document import DocumentError, Key, Problem, YamlDocument
from lineside.subscribers.stopper.rules import ACTIONS, CONDITIONS, Rule, RuleError, StartAfter

FILE_NAME = "rules.yaml"
"""The file in LINESIDE_HOME whose rules apply when no others are given."""

_START_AFTER = re.compile(r"(\d+)(?: (step|evaluation)s?)?")


def load(path: Path) -> tuple[Rule, ...]:
    """The rules of a YAML file: a list of mappings under ``rules``.

    Raises:
        DocumentError: the file holds no rules, or an invalid one.
        UsageError: the file cannot be read.
        MissingExtra: PyYAML is not installed.
    """
    document = yaml_document.load(path, what="a file of rules")
    if not isinstance(document.value, (dict, type(None))):
        raise DocumentError([document.invalid((), "a list of rules under the key rules")])
    others = [name for name in document.value or () if name != "rules"]
    if others:
        raise DocumentError([document.unknown((name,), ["rules"]) for name in others])
    return parse_rules(document, ("rules",))


def parse_rules(document: YamlDocument, key: Key) -> tuple[Rule, ...]:
    """The rules of the list at ``key``.

    Raises:
        DocumentError: there is no list of rules, or an invalid rule.
    """
    entries = document.get(key)
    if not isinstance(entries, list) or not entries:
        raise DocumentError([document.invalid(key, "a list of rules")])
    rules: list[Rule] = []
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        place = (*key, index)
        unknown = [name for name in entry if name not in FIELDS] if isinstance(entry, dict) else []
        if not isinstance(entry, dict):
            problems.append(document.invalid(place, "names and values, such as max_steps: 500"))
        elif unknown:
            problems += [document.unknown((*place, name), FIELDS) for name in unknown]
        else:
            try:
                rule = parse_rule(entry, "rule")
            except RuleError as error:
                problems.append(_problem(document, place, error))
                continue
            if any(rule.name == other.name for other in rules):
                problems.append(document.problem(place, _same_name(rule.name)))
            rules.append(rule)
    if problems:
        raise DocumentError(problems)
    return tuple(rules)


def parse_rule(raw: Mapping[str, Any], where: str) -> Rule:
    """The rule with these fields. Errors begin with ``where``, the place of the rule.

    A rule without a name gets one from its metric and condition.

    Raises:
        RuleError: a field is missing or invalid.
    """
    for name in raw:
        if name not in FIELDS:
            raise RuleError(where, "field", name, f"one of {', '.join(sorted(FIELDS))}")
    values = {name: _parse_value(where, name, value) for name, value in raw.items()}
    condition = next((name for name in CONDITIONS if name in values), "rule")
    values.setdefault("name", " ".join((values.get("monitor", ""), condition)).strip())
    try:
        return Rule(**values)
    except RuleError as error:
        place = f"{where}, {error.rule}"
        raise RuleError(place, error.field, error.value, error.expected) from None


def fields_of(rule: Rule) -> dict[str, Any]:
    """The fields of ``rule`` that are not the default, as in a file of rules."""
    values = {
        field.name: getattr(rule, field.name)
        for field in fields(Rule)
        if getattr(rule, field.name) != field.default
    }
    start = values.pop("start_after")
    if start.evaluations:
        values["start_after"] = f"{start.evaluations} evaluations"
    elif start.step:
        values["start_after"] = f"{start.step} steps"
    return values


def json_schema() -> dict[str, Any]:
    """The JSON Schema of one rule."""
    properties = {
        name: {**field_type.schema, "description": field_type.expected}
        for name, field_type in _FIELD_TYPES.items()
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "oneOf": [{"required": [name]} for name in CONDITIONS],
    }


def _problem(document: YamlDocument, place: Key, error: RuleError) -> Problem:
    key = (*place, error.field)
    if key in document.sources:
        return document.invalid(key, error.expected)
    return document.problem(place, error.fault)


def _same_name(name: str) -> str:
    return f"name {name!r} is another rule's too; expected a name of its own for each rule"


class _FieldType(NamedTuple):
    expected: str
    parse: Callable[[Any], Any]
    schema: Mapping[str, Any]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise ValueError
    return value


def _one_of(*allowed: str) -> _FieldType:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError
        return str(value)

    return _FieldType(f"one of {', '.join(allowed)}", parse, {"enum": list(allowed)})


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


_TEXT_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 200}
_NUMBER = _FieldType("a finite number", _number, {"type": "number"})
_ABOVE_ZERO = _FieldType(
    "a finite number above 0", _above_zero, {"type": "number", "exclusiveMinimum": 0}
)
_NOT_NEGATIVE = _FieldType(
    "a finite number of at least 0",
    lambda value: _number(value, 0),
    {"type": "number", "minimum": 0},
)
_COUNT = _FieldType("a whole number above 0", _count, {"type": "integer", "minimum": 1})
_PATTERN = _FieldType("a text, in which * stands for any characters", _text, _TEXT_SCHEMA)
_FIELD_TYPES: Mapping[str, _FieldType] = {
    "name": _FieldType("a text of at most 200 characters", _text, _TEXT_SCHEMA),
    "monitor": _FieldType("the name of a metric, such as eval_loss", _text, _TEXT_SCHEMA),
    "mode": _one_of(MIN, MAX, AUTO),
    "patience": _COUNT,
    "min_delta": _NOT_NEGATIVE,
    "baseline": _NUMBER,
    "threshold": _NUMBER,
    "divergence": _ABOVE_ZERO,
    "not_finite": _COUNT,
    "max_seconds": _ABOVE_ZERO,
    "max_steps": _COUNT,
    "start_after": _FieldType(
        "as 500 steps, or 3 evaluations", _start_after, {"type": ["string", "integer"]}
    ),
    "action": _one_of(*ACTIONS),
    "factor": _FieldType(
        "a number above 0 and below 1",
        _below_one,
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    ),
    "min_lr": _NOT_NEGATIVE,
    "cool_down": _FieldType(
        "a whole number of at least 0",
        lambda value: _count(value, 0),
        {"type": "integer", "minimum": 0},
    ),
    "project": _PATTERN,
    "run": _PATTERN,
}
FIELDS = frozenset(_FIELD_TYPES)
"""The names of a rule's fields."""


def _parse_value(where: str, name: str, value: Any) -> Any:
    field_type = _FIELD_TYPES[name]
    try:
        return field_type.parse(value)
    except (ValueError, OverflowError):
        raise RuleError(where, name, value, field_type.expected) from None
