"""``lineside run --resume RUN``: the newest whole checkpoint, where the training looks for it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.trainer_utils import get_last_checkpoint

from lineside.bus.checkpoints.hold import hold_path
from lineside.bus.errors import RunNotFound, UsageError
from lineside.cli.checkpoints.archive_source import NamedArchive
from lineside.cli.checkpoints.resume import NothingWhole, Resumed, place_newest_whole
from lineside.emitter import CheckpointCallback
from lineside.emitter.training.checkpoints import run_file
from lineside.store.database.engine import open_store
from lineside.store.recording.writer import Writer
from tests.cli.checkpoints.archives import archive_checkpoint, files_of, manifest_of, part_of
from tests.cli.homes import Home
from tests.store.trainer import ATTEMPT, LATER_ATTEMPT, FakeJournal, FakeProducer

RUN = "tiny-20261129-070000-abc123"


@dataclass
class Lab:
    """A home with a store and a run whose Trainer saves into ``output``."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    source: str = "trainer"
    attempts: dict[str, FakeProducer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home = Home(self.folder / "home")
        self.home.path.mkdir()
        self.archive = self.folder / "archive"
        self.config = self.folder / "lineside.yaml"
        self.config.write_text(f"archive: {{url: {self.archive}}}\n")
        self.output = self.folder / "out"
        self.monkeypatch.setenv("LINESIDE_HOME", str(self.home.path))
        self.engine = open_store(f"sqlite:///{self.home.path}/store.db", create=True)
        self.journal = FakeJournal(Writer(self.engine))

    def attempt(self, name: str, **facts: Any) -> FakeProducer:
        if name not in self.attempts:
            self.attempts[name] = made = FakeProducer(RUN, attempt=name)
            made.begin(source=self.source, world_size=1, **facts)
        return self.attempts[name]

    def save(self, step: int, attempt: str = ATTEMPT, *, recorded: bool = True) -> Path:
        """A whole checkpoint of a Trainer, or of a loop, and its event."""
        path = self.output / f"checkpoint-{step}"
        weights(path / "model.safetensors", step)
        (path / "optimizer.pt").write_bytes(b"state")
        if self.source == "trainer":
            (path / "rng_state.pth").write_bytes(b"state")
            own(path, RUN, attempt, step)
        if recorded:
            producer = self.attempt(attempt)
            producer.step = step
            producer.emit("save", {"checkpoint": str(path)})
        return path

    def archived(self, step: int, attempt: str = ATTEMPT) -> Path:
        """A checkpoint that is recorded and archived, and that rotation has removed."""
        path = self.save(step, attempt)
        archive_checkpoint(self.archive, path, step, run=RUN, attempt=attempt)
        remove(path)
        return path

    def resume(self, run: str = RUN, *, config: bool = True) -> Resumed:
        """Record the end of all attempts, and place the newest whole checkpoint."""
        for producer in self.attempts.values():
            producer.end("exception")
        if self.attempts:
            self.journal.deliver(*self.attempts.values())
        named = NamedArchive(None, self.config if config else None)
        return place_newest_whole(run, named, self.home.path / "spool")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    made = Lab(tmp_path, monkeypatch)
    yield made
    made.engine.dispose()


def weights(file: Path, value: int) -> None:
    """A safetensors file of one number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes([value]))


def own(path: Path, run: str, attempt: str, step: int) -> None:
    state = path / "trainer_state.json"
    state.write_text(json.dumps({"global_step": step}))
    run_file.write(state, path.parent, {"run_id": run, "attempt": attempt})


def remove(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


def cut(path: Path) -> Path:
    """A checkpoint of which a killed training wrote a part."""
    weights(path / "model.safetensors", 0)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    return path


def picked(lab: Lab) -> Path:
    """The checkpoint that ``resume_from_checkpoint=True`` takes."""
    found = get_last_checkpoint(str(lab.output))
    assert found is not None
    return Path(found)


def test_the_newest_whole_one_here_stays_and_newer_incomplete_ones_are_moved_aside(
    lab: Lab,
) -> None:
    lab.save(2)
    whole = lab.save(4)
    cut(lab.output / "checkpoint-6")
    weights(lab.output / "checkpoint-8" / "model.safetensors", 8)  # a Trainer writes more
    lab.archive.write_text("no folder: the archive is not needed")
    resumed = lab.resume()
    assert (resumed.step, resumed.path, picked(lab)) == (4, whole, whole)
    aside = lab.output / "_lineside_aside"
    assert list(resumed.aside) == [aside / "checkpoint-6", aside / "checkpoint-8"]
    assert files_of(aside / "checkpoint-8").keys() == {"model.safetensors"}
    assert str(resumed) == (
        f"{RUN} resumes from step 4: {whole}; moved aside: {aside}/checkpoint-6, "
        f"{aside}/checkpoint-8"
    )


def test_what_is_moved_aside_twice_is_kept_twice(lab: Lab) -> None:
    lab.save(4)
    for _ in range(2):
        cut(lab.output / "checkpoint-6")
        lab.resume()
    names = {path.name for path in (lab.output / "_lineside_aside").iterdir()}
    assert names == {"checkpoint-6", "checkpoint-6.2"}


def test_a_newer_one_in_the_archive_is_restored_into_its_place(lab: Lab) -> None:
    lab.save(2)
    path = lab.save(4)
    saved = files_of(path)
    archive_checkpoint(lab.archive, path, 4, run=RUN, attempt=ATTEMPT)
    cut(path)
    resumed = lab.resume()
    assert (resumed.step, resumed.path, picked(lab)) == (4, path, path)
    assert files_of(path) == saved
    assert list(resumed.aside) == [lab.output / "_lineside_aside" / "checkpoint-4"]
    assert f"from {lab.archive}" in str(resumed)
    assert {one.name for one in lab.output.iterdir()} == {
        "checkpoint-2",
        "checkpoint-4",
        "_lineside_aside",
    }


def test_without_a_store_and_an_output_folder_the_archive_is_enough(lab: Lab) -> None:
    path = lab.archived(4)
    lab.output.rmdir()
    (lab.home.path / "store.db").unlink()
    lab.attempts.clear()
    resumed = lab.resume("tiny")
    assert (resumed.run, resumed.step, picked(lab)) == (RUN, 4, path)


def test_a_hold_is_put_back_and_stays(lab: Lab) -> None:
    path = lab.save(4)
    hold = hold_path(path)
    hold.parent.mkdir()
    path.rename(hold)
    resumed = lab.resume()
    assert (resumed.path, picked(lab), resumed.origin) == (path, path, str(hold))
    assert files_of(path) == files_of(hold)


def test_a_damaged_one_in_the_archive_gives_way_to_an_older_sound_one(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.archived(2)
    lab.archived(4)
    newest = lab.save(6)
    manifest = archive_checkpoint(lab.archive, newest, 6, run=RUN, attempt=ATTEMPT)
    remove(newest)
    part_of(lab.archive, manifest, "model.safetensors", RUN).write_bytes(b"\0" * 70)
    manifest_of(lab.archive, 4, RUN).write_bytes(b"{}")
    resumed = lab.resume()
    assert resumed.step == 2
    assert picked(lab) == lab.output / "checkpoint-2"
    assert capsys.readouterr().err.count("looking for an older checkpoint") == 2


def test_an_archive_of_weights_alone_is_no_place_to_resume_from(lab: Lab) -> None:
    lab.archived(2)
    path = lab.save(4)
    (path / "trainer_state.json").unlink()
    archive_checkpoint(lab.archive, path, 4, run=RUN, attempt=ATTEMPT)
    remove(path)
    assert lab.resume().step == 2


def test_what_a_later_attempt_went_back_from_is_not_the_newest(lab: Lab) -> None:
    for step in (2, 4, 6):
        lab.save(step)
    lab.attempt(LATER_ATTEMPT, resumed_from={"attempt": ATTEMPT, "step": 2})
    path = lab.save(3, LATER_ATTEMPT)
    resumed = lab.resume()
    assert (resumed.step, picked(lab)) == (3, path)
    assert [one.name for one in resumed.aside] == ["checkpoint-4", "checkpoint-6"]


def test_a_newer_whole_one_that_is_not_recorded_yet_is_the_newest(lab: Lab) -> None:
    lab.save(2)
    path = lab.save(4, recorded=False)
    resumed = lab.resume()
    assert (resumed.step, picked(lab), list(resumed.aside)) == (4, path, [])


def test_a_newer_one_of_another_run_is_left_alone_and_named(lab: Lab) -> None:
    lab.save(2)
    other = lab.save(9, recorded=False)
    own(other, "another", ATTEMPT, 9)
    with pytest.raises(UsageError, match=r"checkpoint-9 is newer than step 2 and of run another"):
        lab.resume()
    assert other.is_dir()


def test_a_newer_whole_one_of_an_unknown_run_is_left_alone_and_named(lab: Lab) -> None:
    lab.save(2)
    other = lab.save(9, recorded=False)
    (other / run_file.FILE_NAME).unlink()
    with pytest.raises(UsageError, match="move it away first"):
        lab.resume()
    assert other.is_dir()


def test_without_a_whole_one_the_error_names_what_there_is(lab: Lab) -> None:
    cut(lab.save(4))
    with pytest.raises(NothingWhole, match=r"/out/checkpoint-4 lacks model.safetensors \(cut"):
        lab.resume()
    with pytest.raises(NothingWhole, match="no archive to look in: name its configuration file"):
        lab.resume(config=False)
    assert (lab.output / "checkpoint-4").is_dir()


def test_an_unknown_run_is_named(lab: Lab) -> None:
    lab.save(4)
    with pytest.raises((RunNotFound, UsageError), match="nonesuch"):
        lab.resume("nonesuch")


def test_a_run_whose_process_lives_is_refused(lab: Lab) -> None:
    lab.save(4)
    script = (
        "import sys\n"
        "from lineside.emitter import start_run\n"
        f"run = start_run(run_id={RUN!r})\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env=lab.home.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "ready\n"
        with pytest.raises(UsageError, match=f"running, as process {living.pid}; stop it first"):
            lab.resume()
        living.kill()


def test_a_loops_file_goes_back_to_its_path(lab: Lab) -> None:
    lab.source = "loop"
    file = lab.output / "epoch-3.safetensors"
    weights(file, 3)
    saved = file.read_bytes()
    held = hold_path(file)
    held.mkdir(parents=True)
    file.rename(held / file.name)
    producer = lab.attempt(ATTEMPT)
    producer.emit("save", {"checkpoint": str(file)}, step=3)
    archive_checkpoint(lab.archive, held, 3, run=RUN, attempt=ATTEMPT, saved_as=file)
    remove(held)
    resumed = lab.resume()
    assert resumed.path == file
    assert file.read_bytes() == saved


def test_of_a_plain_loops_checkpoints_one_that_is_cut_short_is_moved_aside(lab: Lab) -> None:
    lab.source = "loop"
    callback = CheckpointCallback(lab.output, torch.nn.Linear(2, 1), save_steps=1)
    for step in (1, 2):
        callback.on_step_end(step, {"loss": 1.0})
        path = lab.output / f"checkpoint-{step}"
        lab.attempt(ATTEMPT).emit("save", {"checkpoint": str(path)}, step=step)
    file = path / "model.pt"
    file.write_bytes(file.read_bytes()[:-100])
    resumed = lab.resume()
    assert (resumed.step, picked(lab)) == (1, lab.output / "checkpoint-1")


def test_a_run_that_sends_signs_of_life_is_refused(lab: Lab) -> None:
    lab.save(4)
    living = FakeProducer(RUN, attempt=LATER_ATTEMPT, at=time.time())
    living.begin()
    lab.attempts[LATER_ATTEMPT] = living
    lab.journal.deliver(*lab.attempts.values())
    lab.attempts.clear()
    with pytest.raises(UsageError, match=f"`lineside stop {RUN}`, or wait 15 s"):
        lab.resume()


SCRIPT = """
import os, sys
from pathlib import Path
print(os.environ["LINESIDE_RUN_ID"], *Path(sys.argv[1]).glob("checkpoint-*"))
"""


def test_the_command_starts_with_the_runs_id_and_finds_the_checkpoint(lab: Lab) -> None:
    path = lab.archived(4)
    lab.attempts[ATTEMPT].end()
    lab.journal.deliver(*lab.attempts.values())
    options = ("--resume", "latest", "--config", str(lab.config))
    command = (sys.executable, "-c", SCRIPT, str(lab.output))
    done = lab.home.lineside("run", *options, "--", *command)
    assert done.stdout == f"{RUN} {path}\n", done.stderr
    assert f"lineside: {RUN} resumes from step 4: {path}, from {lab.archive}" in done.stderr


def test_without_a_checkpoint_the_command_is_not_started(lab: Lab) -> None:
    lab.attempt(ATTEMPT).end()
    lab.journal.deliver(*lab.attempts.values())
    done = lab.home.lineside("run", "--resume", RUN, "--", sys.executable, "-c", "print(1)")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"run {RUN} has no whole checkpoint: it has saved none" in done.stderr
