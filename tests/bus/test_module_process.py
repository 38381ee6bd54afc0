"""Processes that run a module of Lineside, beside files of the user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lineside.bus.module_process import WORKING_FOLDER, module_command, module_environment


def test_a_module_does_not_import_files_of_the_folder_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tokenize", "msgpack", "lineside"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the file of the user ran')")
    monkeypatch.chdir(tmp_path)
    ended = subprocess.run(
        module_command("lineside.cli", "--version"),
        env=module_environment({"PYTHONPATH": ":"}),
        cwd=WORKING_FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("lineside ")


def test_relative_entries_of_pythonpath_still_mean_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = module_environment({"PYTHONPATH": "src::/lib", "HOME": "/root"})
    assert changed == {"PYTHONPATH": f"{tmp_path}/src:/lib", "HOME": "/root"}
    assert module_environment({"PYTHONPATH": ""}) == {}


def test_the_command_runs_this_interpreter() -> None:
    assert module_command("lineside.cli", "up") == [sys.executable, "-m", "lineside.cli", "up"]
