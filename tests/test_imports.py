"""The import contracts of pyproject.toml hold, and imports load what they should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("zmq", "sqlalchemy", "fastapi", "torch", "transformers", "typer", "numpy")


def test_the_import_contracts_hold() -> None:
    lint = "from importlinter.cli import lint_imports_command as lint; lint()"
    linted = subprocess.run(
        [sys.executable, "-c", lint, "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout
    assert " 0 broken" in linted.stdout


def test_the_contracts_cover_every_room() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    packages, checked = (
        set(re.findall(r'"(lineside\.\w+)"', listed[1]))
        for listed in (
            re.search(r"^packages = \[(.*?)^\]", text, re.S | re.M),
            re.search(r"^root_packages = \[(.*?)^\]", text, re.S | re.M),
        )
        if listed
    )
    assert packages == checked


@pytest.mark.parametrize("module", ["lineside.emitter", "lineside.emitter.training.run"])
def test_the_training_side_loads_no_heavy_package(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout == "[]\n"


def test_the_callback_loads_neither_messaging_nor_database_packages() -> None:
    pytest.importorskip("transformers")
    code = (
        "import sys\nfrom lineside.emitter import LinesideCallback\n"
        "print([name for name in ('zmq', 'sqlalchemy', 'fastapi') if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout == "[]\n"
