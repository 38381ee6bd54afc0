"""Commands from the command line to a real training beside a real stack."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from lineside.store.database.engine import open_store
from lineside.store.database.migrate import REVISIONS
from tests.cli.homes import RUN_ID, Home
from tests.support.forked import ForkedScript
from tests.support.waiting import DEADLINE, wait_until

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "emitter" / "shipper" / "steered_trainer.py"
STEERED = "steered"


@pytest.fixture
def training(running_home: Home, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A slow training under the id ``steered``, known to the store."""
    process = ForkedScript(
        [SCRIPT, tmp_path / "out", "100000"],
        env=running_home.environment({"LINESIDE_RUN_ID": STEERED}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait_until(
            lambda: '"status": "running"' in running_home.lineside("show", STEERED, "--json").stdout
        )
        yield process
    finally:
        process.kill()
        process.communicate()


def test_commands_control_and_stop_a_training(
    running_home: Home, training: subprocess.Popen[str]
) -> None:
    unpaused = running_home.lineside("resume", STEERED)
    assert unpaused.returncode == 1
    assert "resume: rejected at step" in unpaused.stdout
    assert unpaused.stderr == "lineside: resume was not applied\n"

    changed = running_home.lineside("set-lr", STEERED, "0.001", "--json", "--reason", "a test")
    states = [json.loads(line) for line in changed.stdout.splitlines()]
    assert [state["state"] for state in states] == ["requested", "delivered", "applied"]
    assert states[-1]["detail"].endswith("to 0.001")

    # Over HTTP as from the command line, and results alike.
    address = f"{running_home.page}/api/runs/{STEERED}/commands"
    logged = httpx.post(
        address, json={"op": "log", "reason": "over HTTP", "id": "http-1"}, timeout=DEADLINE
    )
    assert (logged.status_code, logged.json()["state"]) == (202, "requested")
    applied = ("http-1", "applied")
    wait_until(
        lambda: any(
            (c["id"], c["state"]) == applied
            for c in httpx.get(address, timeout=DEADLINE).json()["items"]
        )
    )
    again = httpx.post(
        address, json={"op": "log", "reason": "over HTTP", "id": "http-1"}, timeout=DEADLINE
    )
    assert again.json()["state"] == "applied"

    assert running_home.lineside("save", STEERED, "--no-wait").stdout == "save: requested\n"
    stopped = running_home.lineside("stop", STEERED, "--no-save")
    assert stopped.returncode == 0
    *_, last = stopped.stdout.splitlines()
    output, _ = training.communicate(timeout=DEADLINE)
    assert last == f"stop: applied at step {int(output.split()[-1]):,}"

    wait_until(lambda: "stopped" in running_home.lineside("runs", STEERED).stdout)
    late = running_home.lineside("stop", STEERED)
    assert late.returncode == 2
    assert "takes no commands. The run is stopped" in late.stderr
    refused = httpx.post(address, json={"op": "stop"}, timeout=DEADLINE)
    assert (refused.status_code, refused.json()["type"]) == (
        409,
        "urn:lineside:problem:not-training",
    )

    def entries() -> list[dict[str, Any]]:
        audit = running_home.lineside("audit", "--run", STEERED, "--json", "--limit", "1000")
        found: list[dict[str, Any]] = json.loads(audit.stdout)["items"]
        return found if len(found) >= 15 else []

    recorded = wait_until(entries, "every command and answer is recorded")
    assert len(recorded) == 15
    counts = json.loads(running_home.lineside("show", STEERED, "--json").stdout)["event_counts"]
    assert counts["command"] == 5
    assert counts["control_applied"] == 4
    assert counts["control_rejected"] == 1

    assert [entry["outcome"] for entry in recorded if entry["command"] == "http-1"] == [
        "applied",
        "delivered",
        "requested",
    ]
    [first] = [entry for entry in recorded if entry["why"] == "over HTTP"]
    assert (first["who"], first["action"], first["target"]) == ("user@dashboard", "log", STEERED)
    lines = running_home.lineside("audit", "--run", STEERED, "--limit", "2").stdout.splitlines()
    assert [line.split()[0] for line in lines[:1]] == ["TIME"]
    assert len(lines) == 3
    nothing = running_home.lineside("audit", "--run", "no_broker")
    assert (nothing.returncode, nothing.stderr) == (0, "no entries about no_broker\n")

    exported = running_home.lineside("export", STEERED, "--what", "commands", "--format", "jsonl")
    rows = [json.loads(line) for line in exported.stdout.splitlines()]
    assert len(rows) == 5
    assert {row["op"] for row in rows} == {"resume", "set_lr", "log", "save", "stop"}
    assert all(row["state"] in ("applied", "rejected") for row in rows)


def test_an_unknown_or_ended_run_takes_no_commands(running_home: Home) -> None:
    ended = running_home.lineside("save", RUN_ID)
    assert ended.returncode == 2
    assert f"run '{RUN_ID}' takes no commands. The run is finished" in ended.stderr
    unknown = running_home.lineside("save", "no_broker")
    assert unknown.returncode == 2
    assert "no run 'no_broker' in the store" in unknown.stderr
    odd = running_home.lineside("save", "a b", "--ahead")
    assert odd.returncode == 2


def test_a_loop_takes_no_commands_and_is_not_waited_for(running_home: Home) -> None:
    script = (
        "import sys; from lineside.emitter import start_run; start_run(run_id='loop'); "
        "sys.stdin.read()"
    )
    loop = subprocess.Popen(
        [sys.executable, "-c", script], env=running_home.environment(), stdin=subprocess.PIPE
    )
    try:
        wait_until(
            lambda: '"status": "running"' in running_home.lineside("show", "loop", "--json").stdout
        )
        refused = running_home.lineside("stop", "loop")
    finally:
        loop.communicate()
    assert refused.returncode == 2
    assert "It is a loop with start_run, which takes no commands" in refused.stderr


def test_an_unanswered_command_is_reported_as_such(running_home: Home) -> None:
    sent = running_home.lineside("stop", "not-yet", "--ahead", "--expires", "1")
    assert sent.returncode == 1
    assert sent.stdout == "stop: requested\n"
    assert sent.stderr.startswith("lineside: stop: run not-yet has not answered in time; ")


def test_a_command_to_an_ended_run_is_not_waited_for(
    running_home: Home, training: subprocess.Popen[str]
) -> None:
    training.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(running_home.lineside, "save", STEERED)
        wait_until(
            lambda: len(running_home.lineside("audit", "--run", STEERED).stdout.splitlines()) > 1
        )
        training.kill()
        saved = saving.result()
    assert saved.returncode == 1
    assert saved.stdout.splitlines()[0] == "save: requested"
    assert "lineside: save was not applied" in saved.stderr


def test_text_of_others_is_printed_without_control_characters(running_home: Home) -> None:
    reason = "ok\n2026-11-21 18:00:00  eve  stop\x1b[2J"
    sent = running_home.lineside("save", "odd", "--ahead", "--no-wait", "--reason", reason)
    assert sent.returncode == 0
    audit = wait_until(lambda: running_home.lineside("audit", "--run", "odd").stdout)
    _, line = audit.splitlines()
    assert line.endswith(r"ok\n2026-11-21 18:00:00  eve  stop\x1b[2J")
    no_broker = running_home.lineside("audit", "--run", "x\x1b[2J").stderr
    assert no_broker == "no entries about x\\x1b[2J\n"


@pytest.mark.parametrize(
    ("command", "otherwise"),
    [("stop", "; or command it without a store, by --ahead"), ("tail", "; or leave out RUN")],
)
def test_an_unreadable_store_is_an_error_and_not_a_missing_one(
    home: Home, command: str, otherwise: str
) -> None:
    home.start("broker").until("listening")
    store = home.path / "store.db"
    open_store(f"sqlite:///{store}", create=True).dispose()
    with contextlib.closing(sqlite3.connect(store)) as older, older:
        older.execute("UPDATE lineside_version SET version_num = ?", REVISIONS[:1])
    elsewhere = {"LINESIDE_STORE": f"sqlite:///{home.path}/no.db"}
    for env, why in (({}, "brings it up to date"), (elsewhere, "there is no store at")):
        refused = home.lineside(command, "baseline", env=env)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert why in refused.stderr
        assert otherwise in refused.stderr
    ahead = home.lineside("stop", "baseline", "--ahead", "--no-wait")
    assert (ahead.returncode, ahead.stdout) == (0, "stop: requested\n")


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "x"])
def test_an_invalid_rate_is_rejected(running_home: Home, rate: str) -> None:
    done = running_home.lineside("set-lr", "--ahead", "not-yet", rate)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "No such option" not in done.stderr


def test_a_missing_broker_is_reported(home: Home) -> None:
    done = home.lineside("stop", "not-yet", "--ahead")
    assert done.returncode == 1
    assert "no broker answered" in done.stderr
