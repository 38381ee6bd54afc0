"""Where a hosted TensorBoard writes if the training has another version of transformers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lineside.bus.protocol.events import Event
from lineside.subscribers.callback_host.trackers.tensorboard import TensorBoard
from lineside.subscribers.callback_host.trackers.tracker import HookCall, HostedRun


def environment_of(folder: Path, args: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the tracker; returns the folder that it sets."""
    facts = {"args": {"output_dir": "out", **args}, "process": {"cwd": str(folder), "host": "h"}}
    tracker = TensorBoard(HostedRun("r", "r", "", "a", facts, 0.0, {}, folder, False, False))
    name = "torch.utils.tensorboard"
    monkeypatch.setitem(sys.modules, name, sys.modules.get(name))  # put back at the end
    [(variable, value)] = tracker.environment().items()
    monkeypatch.setenv(variable, value)
    call = HookCall("on_init_end", Event(0, 0.0, 0, "init_end"), OldArguments(), 0, 0, {}, None)
    assert tracker.before(call)
    assert call.args.logging_dir == value
    no_such_argument = HookCall("on_init_end", call.event, SimpleNamespace(), 0, 0, {}, None)
    assert tracker.before(no_such_argument)
    return value


class OldArguments:
    logging_dir = ""


def test_the_folder_of_a_training_with_transformers_4_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = environment_of(tmp_path, {"logging_dir": "logs/x"}, monkeypatch)
    assert found == str(tmp_path / "logs/x")


def test_a_callback_of_transformers_4_gets_the_folder_that_one_of_5_would_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = environment_of(tmp_path, {}, monkeypatch)
    assert found.startswith(str(tmp_path / "out/runs") + os.sep)
