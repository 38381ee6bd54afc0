"""The documentation matches the commands, options, settings and files that exist."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from lineside.bus.settings import Settings
from lineside.cli.main import app

ROOT = Path(__file__).parent.parent
ROOMS = ("bus", "emitter", "store", "subscribers", "dashboard", "cli", "examples")
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bus/*.md")])
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def section(command: str) -> str:
    """The section of commands.md on ``command``."""
    text = (REFERENCE / "commands.md").read_text()
    found = re.search(rf"^### `lineside {command}`\n(.*?)(?=^##|\Z)", text, re.S | re.M)
    assert found, f"commands.md has no section on {command}"
    return found[1]


def shell_lines(page: Path) -> list[str]:
    """The command lines in the sh blocks of a page."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.S | re.M)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_option_is_documented(command: str) -> None:
    text = section(command)
    for parameter in COMMANDS[command].params:
        is_option = parameter.param_type_name == "option"
        for name in (*parameter.opts, *parameter.secondary_opts) if is_option else ():
            assert f"`{name}" in text, f"{command} {name}"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_documented_option_exists(command: str) -> None:
    real = {
        name
        for parameter in COMMANDS[command].params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    for row in re.findall(r"^\| (`-.*?) \|", section(command), re.M):
        for name in re.findall(r"`(--?[a-z-]+)", row):
            assert name in real, f"{command} {name}"


def test_every_documented_command_exists() -> None:
    text = (REFERENCE / "commands.md").read_text()
    assert set(re.findall(r"^### `lineside ([\w-]+)`", text, re.M)) == set(COMMANDS)


def test_every_setting_is_documented() -> None:
    text = (REFERENCE / "settings.md").read_text()
    for field in dataclasses.fields(Settings):
        assert f"| `LINESIDE_{field.name.upper()}` |" in text


def test_code_and_documentation_name_the_same_variables() -> None:
    sources = [file.read_text() for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    named = {name for text in sources for name in re.findall(r"LINESIDE_[A-Z_]+[A-Z]", text)}
    documented = set(re.findall(r"LINESIDE_[A-Z_]+[A-Z]", (REFERENCE / "settings.md").read_text()))
    assert named == documented


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_points_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_shown_exists(page: Path) -> None:
    for line in shell_lines(page):
        words = line.split()
        if words[:1] == ["make"] and len(words) > 1:
            assert words[1] in MAKE_TARGETS, line
        if words[:1] == ["lineside"]:
            assert words[1] in COMMANDS, line
            own = words[2 : words.index("--")] if "--" in words else words[2:]
            real = {n for parameter in COMMANDS[words[1]].params for n in parameter.opts}
            for word in own:
                assert not word.startswith("-") or word in real, line
        for file in re.findall(r"(?<=\s)((?:examples|tests)/\S+)", line):
            assert (ROOT / file).exists(), line


def test_every_page_is_reachable_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    seen, todo = set(), [index]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", page.read_text())
        todo += [(page.parent / link).resolve() for link in links if "://" not in link]
    assert set(ROOT.glob("docs/**/*.md")) <= seen


def test_pages_contain_no_path_of_one_machine() -> None:
    for page in PAGES:
        for place in ("/work/", "/root/", "/opt/"):
            assert place not in page.read_text(), f"{page.name}: {place}"
