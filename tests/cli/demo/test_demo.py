"""The demo and the examples, as a user runs them, with real training."""

from __future__ import annotations

import json
import math
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from lineside.cli.demo.demo_run import demo_settings, page_seconds
from lineside.cli.stack.http_probe import get_json
from tests.cli.homes import Home
from tests.support.waiting import wait_until

EXAMPLES = Path(__file__).parents[3] / "examples"
pytest.importorskip("transformers")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_demo_accounts_for_every_event_and_may_stay_up(home: Home) -> None:
    demo = home.start("demo", "--seconds", "5", "--keep", seconds=480)
    page = demo.until(r"(http://\S+)\n")
    output = demo.until(r"(Steered from outside(?:.*\n)+)The page stays up until Ctrl-C")
    emitted, recorded, lost, gaps = (
        int(re.search(rf"{word} +([\d,]+)\n", output)[1].replace(",", ""))  # type: ignore[index]
        for word in ("events emitted", "recorded", "lost", "gaps")
    )
    assert emitted == recorded > 100
    assert (lost, gaps) == (0, 0)
    assert re.search(
        r"what the hooks cost +[\d.]+ us an event\n +[\d.]+ % of the training's", output
    )
    run = get_json(page.replace("/runs/", "/api/runs/"))[1]
    assert run["status"] in ("finished", "stopped")
    assert run["project"] == "demo"
    # Each command was applied and changed something.
    commands = get_json(page.replace("/runs/", "/api/runs/") + "/commands")[1]["items"]
    assert [c["op"] for c in reversed(commands)] == ["pause", "resume", "set_lr", "stop"]
    for command in commands:
        assert command["state"] == "applied"
        line = (
            rf"  {command['op']} +requested, delivered .*, applied .* at step {command['step']}\b"
        )
        assert re.search(line, output), output
    assert run["step"] == commands[0]["step"] < run["max_steps"]
    assert commands[1]["detail"].endswith("to 0.0005")
    for kind in ("evaluate", "save", "substep_end", "log"):
        assert run["event_counts"][kind] > 0
    demo.until(rf"Ctrl-C:\n\n  {re.escape(page)}\n")
    demo.send(signal.SIGINT)
    assert demo.wait() == 0
    # Its home is its own: nothing else of the home it was started in was made.
    assert [path.name for path in home.path.iterdir()] == ["demo"]


def test_the_demos_page_stays_up_for_a_person_only() -> None:
    assert page_seconds(False, on_terminal=True) == 60
    assert page_seconds(False, on_terminal=False) == 0
    assert page_seconds(True, on_terminal=False) == math.inf


def test_the_demos_home_is_beside_the_users_and_short_enough_for_a_socket(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo_settings().home == tmp_path / ".lineside" / "demo"
    monkeypatch.setenv("LINESIDE_HOME", str(tmp_path / "mine"))
    assert demo_settings().home == tmp_path / "mine" / "demo"
    monkeypatch.setenv("LINESIDE_HOME", str(tmp_path / ("long" * 30)))
    made = demo_settings().home
    assert made.name.startswith("lineside-demo-")
    made.rmdir()


def test_a_failed_training_ends_the_demo_with_its_last_output(home: Home, tmp_path: Path) -> None:
    """A broken transformers package shadows the real one."""
    broken = tmp_path / "broken" / "transformers"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('broken on purpose')")
    demo = home.lineside("demo", "--seconds", "5", env={"PYTHONPATH": str(broken.parent)})
    assert demo.returncode == 1
    assert "the training ended with exit code 1" in demo.stderr
    assert "RuntimeError: broken on purpose" in demo.stderr
    assert "see " in demo.stderr
    assert "Traceback" not in demo.stderr


def recorded(home: Home, run: str) -> dict[str, Any] | None:
    """The run once the end of its command is recorded."""
    shown = home.lineside("show", run, "--json")
    document: dict[str, Any] = json.loads(shown.stdout) if shown.returncode == 0 else {}
    done = "process_exit" in document.get("event_counts", {})
    return document if done and document["loss_account"]["lag"] == 0 else None


@pytest.mark.timeout(300)
def test_an_unchanged_trl_script_is_recorded(running_home: Home, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    script = [sys.executable, str(EXAMPLES / "sft_trl.py"), "--output", str(tmp_path)]
    done = running_home.lineside(
        "run", "--name", "sums", "--", *script, "--max-steps", "12", seconds=240
    )
    assert done.returncode == 0, done.stderr
    run = wait_until(lambda: recorded(running_home, "sums"))
    assert (run["status"], run["step"]) == ("finished", 12)
    assert run["loss_account"]["gaps"] == 0
    assert run["metrics"]["train_loss"] > 0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_unchanged_torchrun_script_is_one_run_of_two_ranks(
    running_home: Home, tmp_path: Path
) -> None:
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2"]
    script = [str(EXAMPLES / "torchrun_regression.py"), "--output", str(tmp_path)]
    command = [*torchrun, *script, "--max-steps", "20"]
    done = running_home.lineside("run", "--name", "ranks", "--", *command, seconds=240)
    assert done.returncode == 0, done.stderr
    run = wait_until(lambda: recorded(running_home, "ranks"))
    assert (run["status"], run["step"]) == ("finished", 20)
    assert run["loss_account"]["gaps"] == 0
    producers = {stream["producer"] for stream in run["streams"]}
    assert {"rank0", "rank1", "launcher"} <= producers
    assert run["event_counts"]["run_end"] == 2
    assert run["event_counts"]["train_end"] == 1
    assert run["event_counts"]["step_end"] == 20
