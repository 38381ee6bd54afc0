"""The commands on checkpoints against a real stack: a Trainer, its holds and the archiver."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.checkpoints.hold import hold_path
from lineside.bus.testing import BrokerProcess
from lineside.store.archive.location import ArchiveLocation, open_archive
from tests.cli.checkpoints.archives import archive_checkpoint, checkpoint, files_of, part_of
from tests.cli.homes import Home
from tests.support.forked import ForkedCommand, ForkedScript
from tests.support.leftovers import kill_processes_of
from tests.support.resumed_training import SAVED, Leg
from tests.support.resumed_training import STEPS as LAST
from tests.support.waiting import DEADLINE, wait_until

RUN = "tiny"
STEPS = (1, 2, 3, 4)
TRAINING = f"""
import sys, warnings
from pathlib import Path
from lineside.emitter import LinesideCallback
from tests.support.tiny_trainer import trainer

warnings.filterwarnings("ignore")
trainer(
    Path(sys.argv[1]), LinesideCallback(run_id="{RUN}"), max_steps={STEPS[-1]},
    save_strategy="steps", save_steps=1, save_total_limit=1, eval_strategy="steps", eval_steps=1,
).train()
"""
RESUMED = "killed-in-a-save"
RESUMING = """
import json, os, signal, sys
from pathlib import Path
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint
from tests.support.resumed_training import STEPS, Leg

output, ending = sys.argv[1:]
save = Trainer._save_optimizer_and_scheduler

def save_or_die(self, folder):
    if ending == "killed" and self.state.global_step == STEPS:
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, folder)

Trainer._save_optimizer_and_scheduler = save_or_die
resume = get_last_checkpoint(output) if Path(output).is_dir() else None
print(json.dumps(Leg(output, resume or "").train().losses))
"""


@dataclass(frozen=True)
class ArchivedRun:
    """A run with ``save_total_limit=1``, of which all checkpoints are in the archive ``url``."""

    home: Home
    output: Path
    url: Path
    config: Path

    def lineside(self, *words: str) -> tuple[int, str, str]:
        done = self.home.lineside(*words)
        return done.returncode, done.stdout, done.stderr

    def items(self, run: str = RUN) -> dict[int, dict[str, Any]]:
        found = self.shown("checkpoints", run).get("items", [])
        return {item["step"]: item for item in found}

    def shown(self, command: str, run: str) -> dict[str, Any]:
        """What a command prints of ``run`` as JSON; empty while the store lacks it."""
        code, out, _ = self.lineside(command, run, "--json")
        found: dict[str, Any] = {} if code else json.loads(out)
        return found

    def manifests(self) -> list[int]:
        """The steps that the archive has."""
        found = (self.url / "runs" / RUN / "checkpoints").glob("*.json")
        return sorted(int(path.name.partition("-")[0]) for path in found)


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArchivedRun]:
    folder = tmp_path_factory.mktemp("archived")
    config, script = folder / "lineside.yaml", folder / "training.py"
    config.write_text("archive: {url: archive}\n")
    script.write_text(TRAINING)
    home = Home(folder / "home")
    run = ArchivedRun(home, folder / "out", folder / "archive", config)
    try:
        home.up("--quiet", "--config", str(config))
        with ForkedScript([str(script), str(run.output)], env=home.environment()) as training:
            assert training.wait(DEADLINE) == 0
        wait_until(lambda: home.lineside("show", RUN).returncode == 0, "the run is recorded")
        wait_until(
            lambda: [run.items().get(step, {}).get("state") for step in STEPS] == ["archived"] * 4,
            "every checkpoint is archived",
        )
        yield run
    finally:
        home.close()
        kill_processes_of(home.path)


def test_each_checkpoint_is_listed_where_it_is(archived: ArchivedRun) -> None:
    _, shown, _ = archived.lineside("checkpoints", RUN)
    _, last, *others = (line.split() for line in shown.splitlines())
    assert (last[0], last[-2:]) == ("4", ["local,", "archived"])
    assert [(line[0], line[-1]) for line in others] == [(str(n), "archived") for n in (3, 2, 1)]
    assert all("eval_loss" in line for line in [last, *others])
    here = archived.output / "checkpoint-4"
    path = archived.lineside("checkpoints", RUN, "--newest-whole", "--path")
    assert path == (0, f"{here}\n", "")


def test_what_is_restored_is_what_was_saved(archived: ArchivedRun, tmp_path: Path) -> None:
    here, aside = archived.output / "checkpoint-4", tmp_path / "aside"
    here.rename(aside)
    try:
        code, out, error = archived.lineside("checkpoints", RUN, "--newest-whole", "--path")
        assert (code, out) == (1, "")
        command = error.partition("`lineside ")[2].partition("`")[0].replace("DIR", str(here))
        words = (*command.split(), "--config", str(archived.config))
        assert archived.lineside(*words)[0] == 0
        assert files_of(here) == files_of(aside)
        path = archived.lineside("checkpoints", RUN, "--newest-whole", "--path")
        assert path == (0, f"{here}\n", "")
    finally:
        shutil.rmtree(here, ignore_errors=True)
        aside.rename(here)


def test_a_pinned_checkpoint_is_not_deleted_until_it_is_unpinned(archived: ArchivedRun) -> None:
    step = ("--step", "1")
    delete = ("delete", RUN, *step, "--yes")
    assert archived.lineside("pin", RUN, *step) == (0, f"step 1 of {RUN}: pinned\n", "")
    wait_until(lambda: archived.items()[1]["pinned"], "it is recorded")
    refused = f"step 1 of {RUN} was not deleted from the archive: it is pinned; unpin it first"
    assert archived.lineside(*delete) == (1, "", f"lineside: {refused}\n")
    code, out, _ = archived.lineside(*delete, "--json")
    document = json.loads(out)
    assert (code, document["state"]) == (1, "refused")
    assert document["why"] == "it is pinned; unpin it first"
    assert archived.lineside("unpin", RUN, *step) == (0, f"step 1 of {RUN}: unpinned\n", "")
    deleted = f"step 1 of {RUN}: deleted from the archive\n"
    assert archived.lineside(*delete) == (0, deleted, "")
    assert 1 not in archived.manifests()
    wait_until(lambda: archived.items()[1]["state"] == "deleted", "it is recorded")
    assert archived.lineside("verify", RUN, "--config", str(archived.config))[0] == 0


def test_delete_asks_on_a_terminal_and_does_nothing_elsewhere_without_yes(
    archived: ArchivedRun,
) -> None:
    command = ("delete", RUN, "--step", "2")
    error = "lineside: delete asks first, and stdin is no terminal: --yes does not ask\n"
    assert archived.lineside(*command) == (2, "", error)
    assert on_terminal(archived.home, *command, typed="n") == (1, "")
    assert 2 in archived.manifests()
    deleted = f"step 2 of {RUN}: deleted from the archive\n"
    assert on_terminal(archived.home, *command, typed="y") == (0, deleted)
    assert 2 not in archived.manifests()


def on_terminal(home: Home, *words: str, typed: str) -> tuple[int | None, str]:
    """The exit code and stdout of a command into which a person types a line."""
    person, terminal = pty.openpty()
    try:
        command = ForkedCommand(
            [sys.executable, "-m", "lineside.cli", *words],
            env=home.environment(),
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.write(person, f"{typed}\n".encode())
        out, error = command.communicate(timeout=DEADLINE)
    finally:
        os.close(person)
        os.close(terminal)
    assert "Delete step 2 of" in error
    return command.returncode, out


def test_a_checkpoint_that_verify_finds_damaged_is_corrupt_for_all_readers(
    archived: ArchivedRun,
) -> None:
    here = archived.output / "checkpoint-4"
    archive = open_archive(ArchiveLocation(str(archived.url)))
    for key in archive.entries(RUN):
        if key.step == 4:
            part = part_of(archived.url, archive.read_manifest(key), "optimizer.pt", RUN)
            part.write_bytes(part.read_bytes()[1:])
    options = ("--step", "4", "--config", str(archived.config))
    code, out, _ = archived.lineside("verify", RUN, *options)
    assert (code, out.splitlines()[0]) == (1, "step 4: 1 faulty object")
    wait_until(lambda: archived.items()[4]["state"] == "corrupt", "the archiver has found it too")
    path = ("checkpoints", RUN, "--newest-whole", "--path")
    assert archived.lineside(*path) == (0, f"{here}\n", "")
    shutil.rmtree(here)
    code, out, error = archived.lineside(*path)
    assert (code, out) == (1, "")
    assert "of step 3, is only in the archive" in error


def test_a_killed_training_continues_from_the_archive_as_if_nothing_had_happened(
    archived: ArchivedRun, tmp_path: Path
) -> None:
    home, output = archived.home, tmp_path / "out"
    whole = Leg(str(tmp_path / "whole")).train()
    command = ("--", sys.executable, "-c", RESUMING, str(output))
    killed = home.lineside("run", *command, "killed", env={"LINESIDE_RUN_ID": RESUMED})
    assert killed.returncode == 137, killed.stderr
    saved, cut_short = output / f"checkpoint-{SAVED}", output / f"checkpoint-{LAST}"
    assert cut_short.is_dir()
    wait_until(lambda: archived.shown("show", RESUMED).get("status") == "killed")
    wait_until(
        lambda: (
            {step: one["state"] for step, one in archived.items(RESUMED).items()}
            == {SAVED: "archived"}
        )
    )
    wait_until(lambda: not hold_path(saved).exists())
    optimizer = saved / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-100])
    options = ("--resume", RESUMED, "--config", str(archived.config))
    resumed = home.lineside("run", *options, *command, "ended")
    assert resumed.returncode == 0, resumed.stderr
    origin = f"{saved}, from {archived.url}"
    assert f"{RESUMED} resumes from step {SAVED}: {origin}" in resumed.stderr
    assert json.loads(resumed.stdout.splitlines()[-1]) == whole.losses[SAVED:]
    aside = output / "_lineside_aside"
    assert {path.name for path in aside.iterdir()} == {saved.name, cut_short.name}
    wait_until(lambda: archived.shown("show", RESUMED).get("status") == "finished")
    attempts = archived.shown("show", RESUMED)["attempts"]
    assert [attempt["resumed_step"] for attempt in attempts] == [None, SAVED]


def test_without_a_store_a_request_names_what_the_archive_has(home: Home, tmp_path: Path) -> None:
    url = tmp_path / "archive"
    archive_checkpoint(url, checkpoint(tmp_path, 300), 300, run=RUN)
    command = ("pin", RUN, "--step", "300", "--no-wait", "--archive", str(url))
    with BrokerProcess(home.path) as broker:
        done = home.lineside(*command, env={"LINESIDE_BROKER": broker.address})
    requested = f"step 300 of {RUN}: pin is requested\n"
    assert (done.returncode, done.stdout) == (0, requested), done.stderr
