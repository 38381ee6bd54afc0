"""configuration.md, the schema and the options of the commands agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from lineside.bus.yaml_document import Key
from lineside.cli.configuration import json_schema
from lineside.cli.configuration.loading import load
from lineside.cli.configuration.schema import Configuration
from lineside.cli.main import app

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "configuration.md").read_text()
HOW_TO = (ROOT / "docs" / "how-to" / "configure.md").read_text()
RULES = ("alerts", "rules")
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def keys(place: Key = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each key of the schema with its node.

    The name of a subscriber is ``NAME``, and a place in a list of sections ``N``.
    """
    for name in json_schema.names_at(place):
        key = (*place, name)
        node = json_schema.node_at(key)
        if key == RULES:  # they have a page of their own
            yield ".".join(map(str, key)), {**node, "default": None}
            continue
        if "description" in node and "properties" not in node:
            yield ".".join("N" if part == 0 else str(part) for part in key), node
        yield from keys(key)
        if json_schema.names_at((*key, 0)):
            yield from keys((*key, 0))
        if name in ("subscribers", "uploads"):
            yield from keys((*key, "NAME"))


def rows() -> dict[str, tuple[str, str]]:
    found = re.findall(r"^\| `([\w.]+)` \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
    return {key: (meaning, default) for key, meaning, default in found}


def test_every_key_is_documented_and_no_other() -> None:
    assert list(rows()) == [key for key, _ in keys()]


@pytest.mark.parametrize(
    ("key", "node"), list(keys()), ids=lambda one: one if type(one) is str else ""
)
def test_meaning_and_default_of_a_key_are_those_of_the_schema(
    key: str, node: dict[str, Any]
) -> None:
    meaning, default = rows()[key]
    assert re.sub(r"\[(.*?)\]\(.*?\)", r"\1", meaning) == node["description"]
    if "default" not in node:
        assert default == "required"
    elif node.get("format") == "path":
        assert default == "the file's folder"
    elif node["default"] in ("", None, [], {}):
        assert default == "none"
    elif isinstance(node["default"], list):
        assert default == f"`{', '.join(node['default'])}`"
    else:
        assert default == f"`{str(node['default']).removesuffix('.0').lower()}`"


@pytest.mark.parametrize("section", ["broker", "dashboard", "exporter", "sampler"])
def test_the_defaults_of_a_section_are_those_of_the_command(section: str) -> None:
    defaults = {one.name: one.default for one in COMMANDS[section].params}
    values = getattr(Configuration(), section).model_dump()
    values.pop("enabled", None)
    assert values == {name: defaults[name] for name in values}
    # The archive has a section of its own, in a file that the dashboard is given.
    elsewhere = {"config", "archive"} if section == "dashboard" else {"_config"}
    assert set(defaults) - elsewhere == set(values), "each option of the command has a key"


def test_the_example_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_URL", "https://example.org")
    [example] = re.findall(r"^```yaml\n(.*?)^```", HOW_TO, re.S | re.M)
    (tmp_path / "lineside.yaml").write_text(example)
    found = load(tmp_path / "lineside.yaml", tmp_path)
    assert found.values.dashboard.port == 7431
    assert found.values.subscribers["slack"].options["threshold"] == "5.0"
