"""The reference lists every rule and every option, with its meaning and default."""

from __future__ import annotations

import re
from pathlib import Path

from lineside.subscribers.watchdog.rules.registry import RULES
from lineside.subscribers.watchdog.rules.rule import Rule, RunRule

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "watchdog-rules.md").read_text()
COMMON = {**Rule.model_fields, **RunRule.model_fields}


def test_every_rule_is_documented_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (critical|warning|info) \| ([^|]*) \| (.*) \|$", PAGE, re.M)
    assert rows == [
        (
            rule.name,
            rule.severity,
            f"{rule.for_:g} s" if rule.for_ else "at once",
            f"{rule.doc[0].upper()}{rule.doc[1:]}.",
        )
        for rule in RULES
    ]


def test_every_option_is_documented_and_no_other() -> None:
    options = dict(re.findall(r"^\| `(\w+)` \| ([A-Z][^|]*) \|$", PAGE, re.M))
    assert options.keys() == {field.alias or name for name, field in COMMON.items()}
    for name, field in COMMON.items():
        assert options[field.alias or name].startswith(str(field.description))
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (.*) \| `(.*)` \|$", PAGE, re.M)
    assert rows == [
        (f"{rule.name}.{name}", field.description, f"{field.default:g}")
        for rule in RULES
        for name, field in type(rule).model_fields.items()
        if name not in COMMON
    ]
