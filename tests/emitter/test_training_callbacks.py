"""Callbacks of the configuration in the training process: they see all and harm nothing."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers.trainer_utils import get_last_checkpoint

from lineside.emitter import LinesideCallback
from lineside.emitter.spool.sidecar_process import INJECT_FOLDER
from lineside.emitter.training_callbacks import add_callbacks
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import close_all, data_of, only
from tests.support.tiny_trainer import trainer

SOURCE = """
import sys
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

class Live(TrainerCallback, ExportableState):
    seen = []
    def __init__(self, word="none", calls=0):
        self.word, self.calls = word, calls
    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.calls += 1
        Live.seen.append((self.word, self.calls, sum(p.numel() for p in model.parameters())))
        if state.global_step == 2:
            control.should_training_stop = True
        return control
    def state(self):
        return {"args": {"word": self.word}, "attributes": {"calls": self.calls}}

class Bad(TrainerCallback, ExportableState):
    def on_step_begin(self, args, state, control, **kwargs):
        sys.exit(3)
    def on_step_end(self, args, state, control, **kwargs):
        raise ValueError("bad step")
    def on_log(self, args, state, control, **kwargs):
        return "no control"
    def state(self):
        raise RuntimeError("no state")

class Own(TrainerCallback):
    def __init__(self):
        self.on_epoch_begin = self.fail
    def fail(self, *args, **kwargs):
        raise ValueError("bad epoch")

class Unmade(TrainerCallback):
    def __init__(self):
        sys.exit(4)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a file of callbacks."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "live_callbacks.py"
    path.write_text(SOURCE)
    return str(path)


def with_entries(output: Path, entries: list[Any], **changes: Any) -> Any:
    ours = LinesideCallback()
    made = trainer(output, ours, **changes)
    add_callbacks(made.callback_handler, json.dumps(entries), ours.on_callback_error)
    return made


def errors_of(spool_events: ReadSpool) -> list[tuple[str, str, str, int]]:
    close_all()
    found = [data_of(one) for one in only(spool_events()) if one.kind == "subscriber_error"]
    return [
        (one["subscriber"], one["method"], f"{one['error']['type']}: {one['error']['message']}",
         one["errors"])
        for one in found
    ]  # fmt: skip


def test_a_callback_of_the_configuration_has_the_live_model_and_sets_flags(
    home: Path, tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVE_WORD", "w")
    entry = {"name": f"{module}:Live", "args": {"word": "${LIVE_WORD}"}}
    made = with_entries(tmp_path / "out", [entry])
    made.train()
    assert made.state.global_step == 2
    count = sum(one.numel() for one in made.model.parameters())
    [callback] = [one for one in made.callback_handler.callbacks if type(one).__name__ == "Live"]
    assert type(callback).seen == [("w", 1, count), ("w", 2, count)]


def test_its_state_is_saved_and_restored_and_it_stays_guarded(
    home: Path, tmp_path: Path, module: str
) -> None:
    entries = [{"name": f"{module}:Live", "args": {"word": "first"}}, f"{module}:Bad"]
    changes = {"save_strategy": "steps", "save_steps": 1}
    with_entries(tmp_path / "out", entries, **changes).train()
    restored = with_entries(
        tmp_path / "out", entries, restore_callback_states_from_checkpoint=True, **changes
    )
    restored.train(resume_from_checkpoint=get_last_checkpoint(str(tmp_path / "out")))
    assert restored.state.global_step == 4
    [live] = [one for one in restored.callback_handler.callbacks if type(one).__name__ == "Live"]
    assert (live.word, live.calls) == ("first", 4)


def test_no_error_of_a_callback_reaches_training_and_each_kind_is_published(
    home: Path,
    tmp_path: Path,
    module: str,
    spool_events: ReadSpool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entries = [
        f"{module}:Unmade",
        "live_nowhere.Callback",
        {"name": f"{module}:Live", "id": "unset", "args": {"word": "${LIVE_UNSET}"}},
        {"name": f"{module}:Bad", "id": "bad"},
    ]
    made = with_entries(tmp_path / "out", entries, max_steps=12)
    made.train()
    assert made.state.global_step == 12
    found = errors_of(spool_events)
    assert [(name, method, count) for name, method, _, count in found] == [
        ("Unmade", "__init__", 1),
        ("Callback", "__init__", 1),
        ("unset", "__init__", 1),
        ("bad", "state", 1),
        ("bad", "on_step_begin", 1),
        ("bad", "on_step_end", 1),
        ("bad", "on_step_begin", 10),
        ("bad", "on_step_end", 10),
    ]
    assert "there is no module 'live_nowhere'" in found[1][2]
    assert "the variable LIVE_UNSET is not set" in found[2][2]
    assert found[4][2] == "SystemExit: 3"
    assert capsys.readouterr().err.count("callback bad: on_step_end failed, training goes on") == 1


def test_hooks_that_a_constructor_sets_are_guarded_too(
    home: Path, tmp_path: Path, module: str, spool_events: ReadSpool
) -> None:
    with_entries(tmp_path / "out", [f"{module}:Own"], max_steps=1).train()
    assert errors_of(spool_events) == [("Own", "on_epoch_begin", "ValueError: bad epoch", 1)]


def test_errors_are_published_by_the_callback_that_a_script_uses_instead(
    home: Path,
    tmp_path: Path,
    module: str,
    spool_events: ReadSpool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    injected = runpy.run_path(str(INJECT_FOLDER / "sitecustomize.py"))
    monkeypatch.setenv("LINESIDE_CALLBACKS", json.dumps([f"{module}:Own"]))
    made = trainer(tmp_path / "out", LinesideCallback(), max_steps=1)
    injected["_add_configured"](made.callback_handler, LinesideCallback)
    made.remove_callback(LinesideCallback)
    made.add_callback(LinesideCallback())
    made.train()
    assert errors_of(spool_events) == [("Own", "on_epoch_begin", "ValueError: bad epoch", 1)]


def test_an_interruption_of_the_script_passes(home: Path, tmp_path: Path, module: str) -> None:
    Path(module).write_text(SOURCE.replace("sys.exit(3)", "raise KeyboardInterrupt"))
    made = with_entries(tmp_path / "out", [f"{module}:Bad"])
    with pytest.raises(KeyboardInterrupt):
        made.train()
