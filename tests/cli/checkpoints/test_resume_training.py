"""A real Trainer is killed in a save and continued by ``lineside run --resume``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

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


def test_a_killed_training_continues_as_if_it_had_not_been(
    running_home: Home, tmp_path: Path
) -> None:
    whole = Leg(str(tmp_path / "whole")).train()
    output = tmp_path / "out"
    command = ("--", sys.executable, "-c", SCRIPT, str(output))
    killed = running_home.lineside("run", *command, "killed", env={"LINESIDE_RUN_ID": RUN})
    assert killed.returncode == 137, killed.stderr
    assert {path.name for path in output.glob("checkpoint-*")} == {
        f"checkpoint-{SAVED}",
        f"checkpoint-{STEPS}",
    }
    wait_until(lambda: shown(running_home).get("status") == "killed")
    resumed = running_home.lineside("run", "--resume", RUN, *command, "ended")
    assert resumed.returncode == 0, resumed.stderr
    assert f"lineside: {RUN} resumes from step {SAVED}: {output}/checkpoint-{SAVED}" in (
        resumed.stderr
    )
    assert json.loads(resumed.stdout.splitlines()[-1]) == whole.losses[SAVED:]
    assert (output / "_lineside_aside" / f"checkpoint-{STEPS}" / "model.safetensors").is_file()
    wait_until(lambda: shown(running_home).get("status") == "finished")
    attempts = shown(running_home)["attempts"]
    assert [attempt["resumed_step"] for attempt in attempts] == [None, SAVED]


def shown(home: Home) -> dict[str, Any]:
    """The run as ``show --json`` prints it; empty while the store lacks it."""
    done = home.lineside("show", RUN, "--json")
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found
