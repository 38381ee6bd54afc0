"""The command itself: help, version, imports and exit codes."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from lineside.cli.main import app
from tests.cli.homes import RUN_ID, Home, lineside_without
from tests.support.forked import run_lineside
from tests.support.waiting import DEADLINE

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
HEAVY = ("zmq", "sqlalchemy", "fastapi", "pydantic", "torch", "transformers", "rich", "pyarrow")


def test_help_loads_no_heavy_package() -> None:
    code = (
        f"import sys, lineside.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert loaded.stdout == "[]\n"


def test_version_prints_the_packages_version(home: Home) -> None:
    assert home.lineside("--version").stdout == f"lineside {version('lineside')}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(home: Home, command: str) -> None:
    shown = home.lineside(command, "--help")
    assert shown.returncode == 0
    assert f"lineside.cli {command}" in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs"],
        ["show", RUN_ID],
        ["audit"],
        ["export", RUN_ID],
        ["doctor"],
        ["keys", "list"],
        ["stopper", "--backtest", RUN_ID, "--max-steps", "1000"],
        ["ship"],
    ],
    ids=" ".join,
)
def test_a_command_succeeds_in_a_new_interpreter(
    running_home: Home, tmp_path: Path, arguments: list[str]
) -> None:
    """Elsewhere commands are forked, and find imported what they forgot to import."""
    output = ["-o", str(tmp_path / "out.csv")] if arguments[0] == "export" else []
    done = run_lineside(
        *arguments,
        *output,
        env=running_home.environment(),
        timeout=DEADLINE,
        popen=subprocess.Popen,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["--nonsense"], ["runs", "--limit", "0"], ["up", "--port", "-1"]]
)
def test_wrong_usage_ends_with_code_2_and_no_traceback(home: Home, arguments: list[str]) -> None:
    done = home.lineside(*arguments)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "package"),
    [("runs", "sqlalchemy"), ("up", "fastapi"), ("dashboard", "uvicorn"), ("demo", "torch")],
)
def test_a_missing_package_names_the_extra_that_brings_it(
    home: Home, command: str, package: str
) -> None:
    done = lineside_without([package], home, command)
    assert done.returncode == 2
    assert f"needs the package {package}, which is not installed" in done.stderr
    assert "pip install 'lineside[" in done.stderr
    assert "Traceback" not in done.stderr
