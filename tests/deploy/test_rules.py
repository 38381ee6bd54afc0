"""The shipped rules of Prometheus: valid, tested, documented, and about metrics that exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import yaml

from lineside.subscribers.exporter.families import HISTOGRAM, SUMMARY
from lineside.subscribers.exporter.samples import FAMILIES
from tests.deploy.shipped import DEPLOY, DOCS, RULE_FILES, RULE_TESTS, metrics_of, rules

REFERENCE = (DOCS / "reference" / "alert-rules.md").read_text()


def run(*command: str | Path) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_promtool_finds_configuration_and_rules_valid(
    tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    token = tmp_path / "token"
    token.touch()
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    assert "/run/lineside/prometheus.token" in text
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/run/lineside/prometheus.token", str(token)))
    (tmp_path / "rules").symlink_to(DEPLOY / "prometheus" / "rules")
    run(require_program("promtool"), "check", "config", config)
    run(require_program("promtool"), "check", "rules", *RULE_FILES)


def test_each_alert_fires_in_a_test_of_promtool(require_program: Callable[[str], str]) -> None:
    run(require_program("promtool"), "test", "rules", *RULE_TESTS)
    fired = {
        case["alertname"]
        for path in RULE_TESTS
        for group in yaml.safe_load(path.read_text())["tests"]
        for case in group["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert fired == set(rules("alert"))


def test_each_alert_has_a_severity_a_time_and_texts() -> None:
    for name, rule in rules("alert").items():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), name
        assert rule["for"], name
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, name


def test_the_reference_has_every_alert_and_the_section_that_its_runbook_names() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \| (\w+) \| (\w+) \|", REFERENCE, re.M)
    assert {(name, severity, time) for name, _, severity, time in rows} == {
        (name, rule["labels"]["severity"], rule["for"]) for name, rule in rules("alert").items()
    }
    sections = {name.lower() for name in re.findall(r"^### (\w+)$", REFERENCE, re.M)}
    assert {anchor for _, anchor, _, _ in rows} == sections
    for name, rule in rules("alert").items():
        assert rule["annotations"]["runbook"] == f"docs/reference/alert-rules.md#{name.lower()}"


def test_every_metric_of_a_rule_is_on_the_page_or_recorded() -> None:
    recorded = set(rules("record"))
    for rule in (*rules("alert").values(), *rules("record").values()):
        assert metrics_of(rule["expr"]) <= recorded | sample_names(), rule["expr"]


def sample_names() -> set[str]:
    """The names of all samples of the exporter's page."""
    suffixes = {HISTOGRAM: ("_sum", "_count", "_bucket"), SUMMARY: ("_sum", "_count")}
    return {
        family.name + suffix
        for family in FAMILIES.values()
        for suffix in suffixes.get(family.type, ("",))
    }
