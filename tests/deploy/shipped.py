"""The files of deploy/, and what is in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs"
RULE_FILES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
RULE_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """The shipped rules by name; ``kind`` is ``alert`` or ``record``."""
    return {
        rule[kind]: rule
        for path in RULE_FILES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if kind in rule
    }


def metrics_of(query: str) -> set[str]:
    """The names of Lineside's metrics in a query, recorded ones included."""
    return set(re.findall(r"\b(?:[a-z]+:)?lineside_\w+(?::\w+)?", query))
