"""Runs of plain loops: their events, names and end."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineside.bus.checkpoints.hold import HoldLimits, write_limits
from lineside.emitter import LinesideCallback, start_run
from lineside.emitter.spool.status_page import (
    CLOSED,
    FLAGS,
    HOOKS,
    NEXT_SEQ,
    PHASE,
    PHASES,
    STEP,
    TRAINING,
)
from lineside.emitter.training import launch_registry
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import data_of, only
from tests.emitter.training.loops import page_of, publisher_of, script


def test_a_loop_publishes_what_it_logs(home: Path, spool_events: ReadSpool) -> None:
    config = {"lr": 0.1, "api_key": "mine"}
    with start_run("My run!", project="mine", config=config, tags=["x"], group="g") as run:
        run.log({"loss": 1.5, "nan": math.nan}, step=1, epoch=0.5)
        run.log({"loss": np.float32(0.5)})
        run.event("validated", {"score": {"f1": 0.5}}, step=2)
        run.event("done")
    start, first, second, validated, done, end = only(spool_events())
    assert start.data is not None
    assert (start.kind, start.data["source"], start.data["name"]) == (
        "run_start",
        "loop",
        "My run!",
    )
    assert start.data["config"] == {"lr": 0.1, "api_key": "<redacted>"}
    assert start.data["project"] == "mine"
    assert (start.data["tags"], start.data["group"]) == (["x"], "g")
    assert "notes" not in start.data
    assert start.data["process"]["pid"] == os.getpid()
    assert (first.kind, first.step, first.epoch) == ("log", 1, 0.5)
    assert first.data is not None
    assert first.data["logs"]["loss"] == 1.5
    assert math.isnan(first.data["logs"]["nan"])
    assert (second.step, second.data) == (1, {"logs": {"loss": 0.5}})
    assert (validated.kind, validated.step) == ("validated", 2)
    assert validated.data == {"score": {"f1": 0.5}}
    assert (done.kind, done.data) == ("done", None)
    assert end.kind == "run_end"
    assert end.data is not None
    assert (end.data["how"], end.data["error"]) == ("exit", None)
    counters = end.data["counters"]
    assert (counters["emitted"], counters["hooks"], counters["dropped"]) == (6, 4, 0)
    assert counters["hook_ns"] > 0


def test_a_loop_publishes_its_checkpoints_with_their_metrics(
    home: Path, tmp_path: Path, spool_events: ReadSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("checkpoint-1", "checkpoint-2", "epoch-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "weights.pt").write_bytes(b"weights")
    with start_run() as run:
        run.checkpoint("checkpoint-1", {"loss": np.float32(0.5)}, step=1)
        (tmp_path / "checkpoint-1").rmdir()
        run.checkpoint(tmp_path / "checkpoint-2", step=2, epoch=0.5)
        run.checkpoint("epoch-3", step=3)
        run.checkpoint("weights.pt", step=4)
    first, second, folder, file = only(spool_events())[1:-1]
    assert {event.kind for event in (first, second, folder, file)} == {"save"}
    assert (first.step, first.data) == (
        1,
        {"checkpoint": str(tmp_path / "checkpoint-1"), "metrics": {"loss": 0.5}},
    )
    assert (second.step, second.epoch) == (2, 0.5)
    assert second.data == {
        "checkpoint": str(tmp_path / "checkpoint-2"),
        "checkpoints": {"folder": str(tmp_path), "steps": [2]},
    }
    assert (folder.step, folder.data) == (3, {"checkpoint": str(tmp_path / "epoch-3")})
    assert (file.step, file.data) == (4, {"checkpoint": str(tmp_path / "weights.pt")})


def test_a_loops_checkpoint_is_held_until_the_script_overwrites_it(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    write_limits(home, HoldLimits())
    last, folder = tmp_path / "last.pt", tmp_path / "epoch-1"
    folder.mkdir()
    (folder / "weights").write_bytes(b"w1")
    hold = tmp_path / "_lineside" / "last.pt" / "last.pt"
    with start_run() as run:
        run.checkpoint(folder, step=1)
        shutil.rmtree(folder)
        for step in (2, 3):
            draft = tmp_path / "draft"
            draft.write_bytes(b"x" * step)
            draft.replace(last)
            run.checkpoint(last, step=step)
            assert hold.read_bytes() == b"x" * step
    assert (tmp_path / "_lineside" / "epoch-1" / "weights").read_bytes() == b"w1"
    held = [event for event in only(spool_events()) if event.kind == "checkpoint_held"]
    data = [data_of(event) for event in held]
    assert [(one["bytes"], one["files"]) for one in data] == [(2, 1), (2, 1), (3, 1)]
    assert [one["evicted"] for one in data] == [
        [],
        [],
        [{"checkpoint": str(last), "step": 2, "why": "a newer checkpoint has its path"}],
    ]


def test_a_checkpoint_is_held_under_its_name_however_its_path_is_written(
    home: Path, tmp_path: Path
) -> None:
    write_limits(home, HoldLimits())
    folder = tmp_path / "epoch-1"
    (folder / "optimizer").mkdir(parents=True)
    (folder / "weights").write_bytes(b"w1")
    with start_run() as run:
        for _ in range(2):
            run.checkpoint(folder / "optimizer" / "..", step=1)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("weights")} == {
        "epoch-1/weights",
        "_lineside/epoch-1/weights",
    }
    assert [path.name for path in (folder / "optimizer").iterdir()] == []


def test_a_checkpoint_that_is_not_there_is_not_published(
    home: Path, spool_events: ReadSpool, capsys: pytest.CaptureFixture[str]
) -> None:
    with start_run() as run:
        run.checkpoint("no/such/folder", step=1)
    assert "save" not in [event.kind for event in only(spool_events())]
    assert "no checkpoint at" in capsys.readouterr().err


def test_a_run_has_its_ids_and_its_status_page(home: Path) -> None:
    run = start_run(run_id="mine")
    page = page_of(run)
    assert run.id == "mine"
    assert run.is_open
    assert publisher_of(run).identity.attempt == run.attempt
    assert page.fields[FLAGS] == TRAINING
    run.log({"a": 1}, step=7)
    assert (page.fields[STEP], page.fields[NEXT_SEQ], page.fields[HOOKS]) == (7, 2, 1)
    assert PHASES[page.fields[PHASE]] == "training"
    run.finish()
    assert page.fields[FLAGS] == CLOSED
    assert PHASES[page.fields[PHASE]] == "finished"


def test_a_second_start_continues_the_run_in_a_new_attempt(
    home: Path, spool_events: ReadSpool
) -> None:
    for _ in range(2):
        start_run(run_id="mine").finish()
    assert {stream.split("/")[0] for stream in spool_events()} == {"mine"}
    assert len(spool_events()) == 2


def test_a_finished_run_publishes_nothing_more(home: Path, spool_events: ReadSpool) -> None:
    run = start_run()
    run.finish()
    run.finish()
    run.log({"a": 1})
    run.event("b")
    assert [event.kind for event in only(spool_events())] == ["run_start", "run_end"]


def test_the_environment_overrides_the_argument(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINESIDE_RUN_ID", "theirs")
    assert start_run(run_id="mine").id == "theirs"


def test_the_stream_is_registered_with_the_launcher(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(launch_registry.FOLDER_VARIABLE, str(tmp_path))
    run = start_run()
    assert launch_registry.read(tmp_path) == [publisher_of(run).identity.stream]


def test_an_exception_ends_the_run_and_is_published(home: Path, spool_events: ReadSpool) -> None:
    def train() -> None:
        with start_run():
            raise ValueError("no more data")

    with pytest.raises(ValueError, match="no more data"):
        train()
    end = only(spool_events())[-1]
    assert end.data is not None
    assert end.data["how"] == "exception"
    assert (end.data["error"]["type"], end.data["error"]["message"]) == (
        "ValueError",
        "no more data",
    )
    assert "in train" in end.data["error"]["traceback"]


@pytest.mark.parametrize(("code", "how"), [(0, "exit"), (None, "exit"), (3, "exception")])
def test_sys_exit_is_an_error_only_with_a_code(
    home: Path, spool_events: ReadSpool, code: int | None, how: str
) -> None:
    with pytest.raises(SystemExit), start_run():
        sys.exit(code)
    assert (only(spool_events())[-1].data or {})["how"] == how


def test_a_closed_run_ignores_the_hooks_of_a_trainer(home: Path, spool_events: ReadSpool) -> None:
    publisher = publisher_of(start_run())
    publisher.close("exit")
    publisher.close("exit")
    publisher.publish_hook("log", 1, None, 0, None, None, 1)
    publisher.update_status("log", 1, None, 0, None, None, 1)
    publisher.emit("log", 1, None, 0, None, 1)
    publisher.flag(raised=TRAINING)
    publisher.count_hook_error(ValueError())
    assert [event.kind for event in only(spool_events())] == ["run_start", "run_end"]


def test_a_status_update_starts_a_shipper_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = publisher_of(start_run())
    asked: list[int] = []
    monkeypatch.setattr(publisher._shipper_starter, "ensure", lambda: asked.append(1))
    for second in range(1, 4):
        publisher.update_status(
            "log", 1, None, 0, None, None, time.monotonic_ns() + second * 2_000_000_000
        )
    assert len(asked) == 3


def test_importing_the_emitter_loads_no_other_library(tmp_path: Path) -> None:
    body = """
        import sys
        import lineside.emitter
        heavy = {"zmq", "sqlalchemy", "fastapi", "torch", "transformers", "numpy", "typer"}
        assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
        lineside.emitter.Run
        assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
        try:
            lineside.emitter.nothing
        except AttributeError as error:
            print(error)
        """
    done = script(tmp_path, body)
    assert done.returncode == 0, done.stderr
    assert "no attribute 'nothing'" in done.stdout


@pytest.mark.parametrize(("given", "text"), [(0, "0"), (Path("runs/a"), "runs/a")])
def test_a_name_that_is_no_text_is_taken_as_text(
    home: Path, spool_events: ReadSpool, given: Any, text: str
) -> None:
    start_run(given, project=given, group=given, notes=given).finish()
    start = only(spool_events())[0].data
    assert start is not None
    assert [start[name] for name in ("name", "project", "group", "notes")] == [text] * 4
    state = LinesideCallback(given, given).__getstate__()
    assert (state["name"], state["project"]) == (text, text)
