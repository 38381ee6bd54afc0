"""deploy/scale.py: the shipped configuration with all times divided by a factor."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from deploy.scale import copy_scaled, scaled
from tests.deploy.shipped import DEPLOY, RULE_FILES

TIME = re.compile(r"(?<![\w:])\d+(?:s|m|h|d)\b|\* 3600")


def test_every_time_is_divided_and_nothing_else_changes(tmp_path: Path) -> None:
    copy_scaled(60, tmp_path)
    for path in tmp_path.rglob("*.yml"):
        original = DEPLOY / path.relative_to(tmp_path)
        before, after = original.read_text(), path.read_text()
        assert scaled(before, 1) != before, "it has times"
        for text in values_of(yaml.safe_load(after)):
            assert not TIME.search(text), text
        no_times = re.compile(r"\d+(?:ms|s|m|h|d)\b|\d+ \* 3600|\b240\b")
        assert no_times.sub("", after) == no_times.sub("", before)
    assert {path.name for path in RULE_FILES} == {
        path.name for path in (tmp_path / "prometheus" / "rules").iterdir()
    }


def test_ten_minutes_become_ten_seconds() -> None:
    text = "  for: 10m\n  expr: predict_linear(a[1h], 4 * 3600) unless a:mean10m offset 5m > 0\n"
    assert scaled(text, 60) == (
        "  for: 10000ms\n"
        "  expr: predict_linear(a[60000ms], 240) unless a:mean10m offset 5000ms > 0\n"
    )


def test_a_folder_that_exists_stays_as_it_is(tmp_path: Path) -> None:
    command = [sys.executable, str(DEPLOY / "scale.py"), "60", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "exists: name a folder that does not" in ended.stderr
    assert not list(tmp_path.iterdir())


def values_of(found: object) -> list[str]:
    """What stands in a file, without the texts of alerts."""
    if isinstance(found, dict):
        values = [value for key, value in found.items() if key != "annotations"]
        return [text for value in values for text in values_of(value)]
    if isinstance(found, list):
        return [text for value in found for text in values_of(value)]
    return [str(found)]
