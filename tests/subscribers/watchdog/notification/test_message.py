"""What a person and a program read of an alert."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lineside.subscribers.watchdog.notification.digest import Digest
from lineside.subscribers.watchdog.notification.message import Message, duration, trial_message
from tests.subscribers.watchdog.notification.kit import ALERT, alert, closed

DOCS = Path(__file__).parents[4] / "docs"


def test_an_opening_has_what_happened_where_and_what_to_do_next() -> None:
    message = Message("m1", "opened", ALERT, page="https://lineside.example/")
    assert message.title == "[CRITICAL] resnet 50: the training ended without reporting why"
    assert message.text == (
        "Run: resnet 50 (run-1), project vision\n"
        "Rule: lost (critical)\n"
        "Opened: 2026-11-18 11:06:40 UTC\n"
        "Last step: 1200 of 5000, epoch 2.4\n"
        "Metrics: loss 0.25, grad_norm nan\n"
        "Host: gpu-7\n"
        "Exit: signal 9 (SIGKILL)\n"
        "Free gpus: 3\n"
        "Page: https://lineside.example/runs/run-1\n"
        "Next: lineside show run-1\n"
        "\n"
        "Last output:\n"
        "step 1199\n"
        "step 1200"
    )


def test_a_closing_has_how_long_it_lasted_and_whether_it_is_news() -> None:
    assert Message("m1", "closed", closed()).title.startswith("[Resolved] resnet 50: ")
    late = Message("m1", "closed", closed(), was_announced=False)
    assert late.title.startswith("[Opened and resolved] ")
    assert "Resolved: 2026-11-18 11:16:40 UTC, after 10 min\n" in late.text
    assert "Next:" not in late.text


@pytest.mark.parametrize(
    ("status", "word"), [("running", "Resolved"), ("finished", "Closed"), ("failed", "Closed")]
)
def test_what_a_run_had_at_its_end_is_not_resolved(status: str, word: str) -> None:
    at_end = replace(closed(), details={"status": status})
    message = Message("m1", "closed", at_end)
    assert message.title.startswith(f"[{word}] ")
    assert ("; the run is finished" in message.text) == (status == "finished")
    assert Digest([message, Message("m2", "closed", closed(2))]).title.startswith(f"[{word}] 2 ")


def test_a_digest_has_a_line_for_each_alert_the_open_ones_first() -> None:
    digest = Digest(
        [
            Message("m1", "closed", closed(1)),
            Message("m2", "opened", alert(2, severity="warning", rule="stalled", run="run-2")),
            Message("m3", "opened", alert(3), page="https://page.example"),
        ]
    )
    assert digest.title == "[CRITICAL] 3 alerts: 2 lost, 1 stalled"
    assert digest.text == (
        "[CRITICAL] resnet 50: the training ended without reporting why\n"
        "    https://page.example/runs/run-1\n"
        "[WARNING] resnet 50: the training ended without reporting why\n"
        "    lineside show run-1\n"
        "[Resolved] resnet 50: the training ended without reporting why"
    )
    assert Digest([Message("m1", "closed", closed(1))] * 2).title == "[Resolved] 2 alerts: 2 lost"


def test_an_alert_of_no_run_names_none() -> None:
    message = Message("m1", "opened", alert(run="", run_name="", project="", details={}))
    assert message.title == "[CRITICAL] the training ended without reporting why"
    assert "Run:" not in message.text
    assert message.to_json()["data"]["run"] is None


def test_text_of_a_run_stays_in_its_line_and_is_cut() -> None:
    foreign = alert(run_name="evil\r\nBcc: all@example.org", summary="x" * 2000)
    message = Message("m1", "opened", foreign)
    assert "\n" not in message.title
    assert len(message.title) == 200
    assert message.text.startswith("x" * 2000), "what the title has not, the text has"
    assert not any(line.startswith("Bcc") for line in message.text.splitlines())


def test_the_body_of_a_webhook_is_strict_json() -> None:
    body = Message("m1", "closed", closed(), was_announced=False).to_json()
    parsed = json.loads(json.dumps(body, allow_nan=False))
    assert parsed["type"] == "alert.closed"
    assert parsed["timestamp"] == "2026-11-18T11:16:40.000Z"
    assert parsed["data"]["run"] == {"id": "run-1", "name": "resnet 50", "project": "vision"}
    assert parsed["data"]["details"]["metrics"] == {"loss": 0.25, "grad_norm": "NaN"}
    assert parsed["data"]["was_announced"] is False
    assert parsed["data"]["link"] is None


def test_the_documented_examples_are_what_is_sent() -> None:
    page = "https://lineside.example.org"
    reference = (DOCS / "reference" / "notifications.md").read_text()
    [example] = re.findall(r"^```json\n(.*?)^```", reference, re.S | re.M)
    details = {"step": 1200, "metrics": {"loss": float("nan")}, "host": "gpu-7"}
    one = replace(
        closed(),
        rule="nan",
        subject="loss",
        summary="loss is NaN since step 1,200",
        updated_at=ALERT.opened_at + 600,
        details=details,
    )
    assert json.loads(example) == Message("m1", "closed", one, page=page).to_json()
    how_to = (DOCS / "how-to" / "notifications.md").read_text()
    opened = alert(details={**ALERT.details, "free_gpus": None})
    message = Message("m1", "opened", opened, page=page)
    assert f"```\n{message.title}\n\n{message.text}\n```" in how_to


def test_a_trial_states_that_nothing_happened() -> None:
    message = trial_message("m1", now=0.0)
    assert message.title == ("[Test] Lineside can reach you here: a test, nothing has happened")


def test_durations_are_rounded_to_two_units() -> None:
    given = (45, 720, 12_000, 7200, 90_000, 259_200)
    assert [duration(seconds) for seconds in given] == [
        "45 s",
        "12 min",
        "3 h 20 min",
        "2 h",
        "1 d 1 h",
        "3 d",
    ]
