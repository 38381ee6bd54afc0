"""A training written from the protocol page in another language is a run that obeys commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.homes import Home
from tests.cli.stack.test_up import children
from tests.support.waiting import DEADLINE, wait_until

FOLDER = Path(__file__).parents[3] / "examples" / "plain_training"
RUN = "plain"
Training = subprocess.Popen[str]

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (FOLDER / "node_modules").is_dir(),
    reason="needs node, and `npm ci` in examples/plain_training",
)


@pytest.fixture
def training(home: Home) -> Iterator[Training]:
    process = subprocess.Popen(
        ["node", str(FOLDER / "training.mjs"), f"ipc://{home.path}/bus.sock", RUN, "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def shown(home: Home, *arguments: str) -> dict[str, Any]:
    done = home.lineside(*arguments, "--json")
    return json.loads(done.stdout) if done.returncode == 0 else {}


def command(home: Home, *arguments: str) -> None:
    done = home.lineside(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_training_in_javascript_is_a_run_and_obeys_each_command(
    home: Home, training: Training
) -> None:
    up, _ = home.up("--quiet")
    wait_until(lambda: shown(home, "show", RUN).get("status") == "running")
    command(home, "set-lr", RUN, "0.5")
    for op in ("evaluate", "log", "save", "pause", "resume"):
        command(home, op, RUN)
    os.kill(children(up.pid)["broker"], signal.SIGKILL)  # it goes on where it was
    wait_until(lambda: "broker" in children(up.pid))
    command(home, "stop", RUN, "--reason", "enough")
    output, _ = training.communicate(timeout=DEADLINE)
    assert (training.returncode, "all acknowledged" in output) == (0, True), output
    run = wait_until(lambda: (it := shown(home, "show", RUN))["status"] != "running" and it)
    assert (run["status"], run["reason"].split(" (")[0][-8:]) == ("stopped", ": enough")
    counts, account = run["event_counts"], run["loss_account"]
    assert (counts["control_applied"], counts["evaluate"], counts["save"]) == (7, 1, 2)
    assert run["metrics"]["learning_rate"] == 0.5
    assert (account["emitted"] - account["recorded"], account["gaps"]) == (0, 0)
    assert not any(stream["unreadable"] for stream in run["streams"])
