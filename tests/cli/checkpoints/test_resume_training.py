"""A real Trainer is killed in a save, and ``lineside run --resume`` continues it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lineside.bus.checkpoints.hold import hold_path
from tests.cli.homes import Home
from tests.support.resumed_training import SAVED, STEPS, Leg
from tests.support.waiting import wait_until

SCRIPT = """
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
RUN = "killed-in-a-save"


def test_a_killed_training_continues_from_the_archive_as_if_nothing_had_happened(
    home: Home, tmp_path: Path
) -> None:
    whole = Leg(str(tmp_path / "whole")).train()
    output, config = tmp_path / "out", tmp_path / "lineside.yaml"
    config.write_text(f"archive: {{url: {tmp_path / 'archive'}}}\n")
    home.up("--quiet", "--config", str(config))
    command = ("--", sys.executable, "-c", SCRIPT, str(output))
    killed = home.lineside("run", *command, "killed", env={"LINESIDE_RUN_ID": RUN})
    assert killed.returncode == 137, killed.stderr
    saved, cut_short = output / f"checkpoint-{SAVED}", output / f"checkpoint-{STEPS}"
    assert cut_short.is_dir()
    wait_until(lambda: shown(home, "show").get("status") == "killed")
    wait_until(
        lambda: [one["state"] for one in shown(home, "checkpoints")["items"]] == ["archived"]
    )
    wait_until(lambda: not hold_path(saved).exists())
    optimizer = saved / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-100])
    resumed = home.lineside("run", "--resume", RUN, "--config", str(config), *command, "ended")
    assert resumed.returncode == 0, resumed.stderr
    assert f"{RUN} resumes from step {SAVED}: {saved}, from {tmp_path}/archive" in resumed.stderr
    assert json.loads(resumed.stdout.splitlines()[-1]) == whole.losses[SAVED:]
    aside = output / "_lineside_aside"
    assert {path.name for path in aside.iterdir()} == {saved.name, cut_short.name}
    wait_until(lambda: shown(home, "show").get("status") == "finished")
    attempts = shown(home, "show")["attempts"]
    assert [attempt["resumed_step"] for attempt in attempts] == [None, SAVED]


def shown(home: Home, command: str) -> dict[str, Any]:
    """What a command prints of the run as JSON; empty while the store lacks it."""
    done = home.lineside(command, RUN, "--json")
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found
