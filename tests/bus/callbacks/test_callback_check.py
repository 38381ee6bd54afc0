"""Entries of ``custom_callbacks`` are checked in processes of their own."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from lineside.bus.callback_config import CallbackEntry, parse_entries
from lineside.bus.callbacks.callback_check import check_entries, needs_check
from tests.support.waiting import DEADLINE

SOURCE = """
import os
class TrainerCallback:
    pass
TrainerCallback.__module__ = "transformers.trainer_callback"
class Good(TrainerCallback):
    def __init__(self, level): os._exit(9)
assert os.environ.get("CHECK_LEVEL") != "bad", "a bad level"
"""


def entries(folder: Path, *values: object) -> tuple[CallbackEntry, ...]:
    (folder / "checked.py").write_text(SOURCE)
    return parse_entries([{"folder": str(folder), **value} for value in values])  # type: ignore[dict-item]


def test_each_fault_has_its_entry_and_nothing_is_made_or_imported_here(tmp_path: Path) -> None:
    name = "checked.Good"
    (tmp_path / "python").write_text("#!/bin/sh\necho no lineside >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o700)
    found = check_entries(
        entries(
            tmp_path,
            {"name": name, "args": {"level": 1}},
            {"name": name},
            {"name": name, "args": {"level": "${CHECK_UNSET}"}},
            {"name": "checked.Bad"},
            {"name": name, "args": {"level": 1}, "environment": {"CHECK_LEVEL": "bad"}},
            {"name": name, "args": {"level": 1}, "python": sys.executable},
            {"name": name, "python": "/nowhere/python"},
            {"name": name, "python": str(tmp_path / "python")},
        ),
        DEADLINE,
    )
    assert {one.index: (one.key, one.sentence.partition(";")[0]) for one in found} == {
        1: (("args", "level"), "this argument is missing and has no default"),
        2: (("args", "level"), "the variable CHECK_UNSET is not set"),
        3: (("name",), "checked has no Bad"),
        4: (
            ("name",),
            "'checked.Good' cannot be imported: AssertionError: a bad level "
            f"({tmp_path}/checked.py, line 8)",
        ),
        6: (("python",), "'/nowhere/python' cannot be run: No such file or directory"),
        7: (("python",), f"{tmp_path}/python cannot run callbacks: no lineside"),
    }
    assert "checked" not in sys.modules


def test_an_import_that_hangs_ends_with_the_check(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    begun = time.monotonic()
    assert check_entries(entries(tmp_path, {"name": "slow.Callback"}), 3.0) == []
    assert time.monotonic() - begun < DEADLINE
    pid = (tmp_path / "pid").read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_tracker_alone_needs_no_check() -> None:
    checked = [needs_check(one) for one in parse_entries(["wandb", {"name": "mlflow", "args": {}}])]
    assert checked == [False, False]
    assert needs_check(parse_entries([{"name": "wandb", "environment": {"A": "${B}"}}])[0])
