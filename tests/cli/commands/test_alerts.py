"""``lineside alerts`` against a running stack."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from lineside.bus.protocol.events import INTERNAL_RUN, Event, Stream, new_attempt
from lineside.bus.testing import Producer
from lineside.cli.commands.tail import format_line
from tests.cli.homes import RUN_ID, Home
from tests.support.waiting import wait_until

RULE = "of_this_test"


def publish(home: Home, run: str, alert_id: str) -> None:
    now = time.time()
    data = {
        "id": alert_id,
        "rule": RULE,
        "subject": "GPU 1",
        "state": "open",
        "severity": "critical",
        "summary": "GPU 1 \x1b[31mfell off the bus",
        "opened_at": now,
        "updated_at": now,
    }
    address = f"ipc://{home.path}/bus.sock"
    with Producer(address, Stream(run, "watchdog", new_attempt())) as watchdog:
        watchdog.emit("alert", data=data)
        watchdog.flush()


def listed(home: Home) -> dict[str, dict[str, Any]]:
    document = json.loads(home.lineside("alerts", "--rule", RULE, "--all", "--json").stdout)
    return {item["id"]: item for item in document["items"]}


def test_alerts_are_listed_acknowledged_muted_and_unmuted(running_home: Home) -> None:
    home = running_home
    publish(home, RUN_ID, "abc1")
    publish(home, INTERNAL_RUN, "abd2")
    wait_until(lambda: len(listed(home)) == 2, "they are recorded")
    shown = home.lineside("alerts", "--rule", RULE, "--run", RUN_ID).stdout
    assert shown.splitlines()[0].split()[:3] == ["ID", "SEVERITY", "STATE"]
    row = shown.splitlines()[1]
    assert row.startswith(f"abc1  critical  open   {RULE} (GPU 1)  {RUN_ID}")
    assert "\x1b" not in row
    assert f"({RULE}, abc1)" in home.lineside("show", RUN_ID).stdout
    document = json.loads(home.lineside("show", RUN_ID, "--json").stdout)
    assert "abc1" in [alert["id"] for alert in document["alerts"]]

    assert home.lineside("alerts", "ack", "abc", "--note", "seen").stdout == "acknowledged abc1\n"
    wait_until(lambda: listed(home)["abc1"]["acknowledged_note"] == "seen", "it is recorded")
    muted = home.lineside("alerts", "mute", "abd2", "--for", "8h", "--json")
    mute = json.loads(muted.stdout)
    assert (mute["run"], mute["rule"]) == (None, RULE)
    assert mute["until"] == pytest.approx(time.time() + 28_800, abs=100)
    wait_until(lambda: listed(home)["abd2"]["mute"] is not None, "it is recorded")
    assert f"{mute['id']}  {RULE}  every run" in home.lineside("alerts").stdout
    lifted = home.lineside("alerts", "unmute", "abd2")
    assert lifted.stdout == f"unmuted {mute['id']}\n"
    wait_until(lambda: listed(home)["abd2"]["mute"] is None, "it is recorded")
    of_run = home.lineside("alerts", "mute", "--run", RUN_ID, "--rule", RULE)
    assert of_run.stdout.startswith(f"muted {RULE} in {RUN_ID} until `lineside alerts unmute ")
    wait_until(lambda: listed(home)["abc1"]["mute"] is not None, "it is recorded")
    entries = json.loads(home.lineside("audit", "--run", RUN_ID, "--json").stdout)["items"]
    assert [entry["action"] for entry in entries][:2] == [
        f"mute alerts of {RULE}",
        "acknowledge alert abc1",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ack"], "ID is missing"),
        (["ack", "zzz"], "no alert 'zzz' in the store"),
        (["unmute", "zzz"], "no alert 'zzz' in the store"),
        (["mute"], "expected the ID of an alert; or --run, --rule or both; or --all"),
        (["mute", "x", "--all"], "expected the ID of an alert; or"),
        (["mute", "--all", "--for", "soon"], "--for 'soon': expected a time of 1s to 365d"),
        (["list", "x"], "expected no id"),
        (["--severity", "loud"], "no alert has the severity 'loud': expected critical"),
    ],
)
def test_a_wrong_use_is_one_sentence(running_home: Home, words: list[str], message: str) -> None:
    done = running_home.lineside("alerts", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_store_an_answer_goes_to_the_run_that_is_named(
    home: Home, running_home: Home
) -> None:
    refused = home.lineside("alerts", "ack", "abe3")
    assert refused.returncode == 1
    assert refused.stderr.endswith("; or name the whole id of a run with --run\n")
    publish(running_home, RUN_ID, "abe3")
    wait_until(lambda: "abe3" in listed(running_home), "it is recorded")
    broker = {"LINESIDE_BROKER": f"ipc://{running_home.path}/bus.sock"}
    done = home.lineside("alerts", "ack", "abe3", "--run", RUN_ID, env=broker)
    assert done.stdout == "acknowledged abe3\n"
    wait_until(lambda: listed(running_home)["abe3"]["acknowledged_at"] is not None, "recorded")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"state": "closed", "rule": "lost", "summary": "gone"}, "closed lost: gone"),
        ({"rule": "flat", "why": "no better"}, "flat: no better"),
    ],
)
def test_tail_prints_what_an_alert_reports(data: dict[str, Any], text: str) -> None:
    line = format_line(Stream("run", "watchdog", "w"), Event(0, 1.7e9, 0, "alert", data=data))
    assert line.endswith(f"run/watchdog  alert  step 0  {text}")
