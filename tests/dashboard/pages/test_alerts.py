"""The HTML of alerts: on the run list, on the page of a run, on their own page, on the timeline."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest

from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.bus.protocol.events import INTERNAL_RUN, Stream
from lineside.dashboard.app import create_app
from lineside.dashboard.pages.alerts import alert_row
from lineside.dashboard.pages.timeline import entry
from tests.dashboard.alerts import record_alert
from tests.dashboard.conftest import Harness, serving
from tests.dashboard.pages.test_pages import EVIL
from tests.support.waiting import DEADLINE

HTML = {"accept": "text/html"}


def count(text: str) -> str:
    """The number of open alerts in the header of a page; empty without one."""
    found = re.search(r'class="count" data-severity="(\w+)">(\d+)', text)
    return f"{found[2]} {found[1]}" if found else ""


def ids(text: str) -> list[str]:
    return re.findall(r'<li class="alert" id="alert-([^"]+)"', text)


def test_open_alerts_are_on_the_run_list_and_counted_on_every_page(
    harness: Harness, client: httpx.Client
) -> None:
    harness.begin()
    assert 'id="open-alerts" data-live aria-labelledby="open-alerts-title" class="panel' in (
        client.get("/").text
    )
    assert count(client.get("/").text) == ""
    for number in range(4):
        record_alert(harness, f"w{number}")
    record_alert(harness, "d1", INTERNAL_RUN, severity="critical")
    record_alert(harness, "x1", state="closed")
    text = client.get("/").text
    assert "5 open alerts" in text
    assert ids(text)[0] == "d1"
    assert len(ids(text)) == 3
    for url in ("/", "/runs/tiny-1", "/alerts", "/alerts/count", "/nothing"):
        assert count(client.get(url, headers=HTML).text) == "5 critical", url


def test_the_page_of_a_run_has_its_alerts_with_the_command_to_run_next(
    harness: Harness, client: httpx.Client
) -> None:
    harness.begin()
    harness.begin("other")
    record_alert(harness, "a1")
    record_alert(harness, "o1", "other")
    for url in ("/runs/tiny-1", "/parts/tiny-1"):
        text = client.get(url).text
        assert ids(text) == ["a1"], url
        assert "<code>lineside show tiny-1</code>" in text
        assert "1 open alert<" in text


def test_the_page_of_alerts_has_open_and_closed_ones_and_mutes_and_filters(
    harness: Harness, client: httpx.Client
) -> None:
    harness.begin()
    record_alert(harness, "a1")
    record_alert(harness, "d1", INTERNAL_RUN, rule="disk_filling", severity="critical")
    for number in range(52):
        record_alert(harness, f"x{number:02}", state="closed", opened_at=1.7e9 + number)
    mute = {"id": "m1", "rule": "gpu_idle", "until": None, "by": "bo", "note": "known"}
    harness.feeder.record(Stream("tiny-1", "control", "c1"), "alert_muted", 1.7e9, data=mute)
    text = client.get("/alerts").text
    assert ids(text)[:3] == ["d1", "a1", "x51"]
    assert "muted until it is lifted by bo: known" in text
    assert 'data-mute="m1"' in text
    older = re.search(r'href="([^"]+)" rel="next">Older', text)
    assert older is not None
    rest = client.get(f"/{older[1].removeprefix('./')}".replace("&amp;", "&")).text
    assert ids(rest) == ["d1", "a1", "x01", "x00"]
    assert ids(client.get("/alerts?rule=disk_filling").text) == ["d1"]
    assert ids(client.get("/alerts?run=tiny-1&rule=gpu_idle").text)[:2] == ["a1", "x51"]
    assert "No alert is open." in client.get("/alerts?run=none").text


def test_texts_of_alerts_are_shown_as_text_only(harness: Harness, client: httpx.Client) -> None:
    harness.begin()
    evil: dict[str, Any] = dict.fromkeys(("rule", "subject", "summary", "action"), EVIL)
    details = {EVIL: EVIL, "odd \ud800": "\ud800", "deep": {"x": [EVIL]}}
    record_alert(harness, EVIL, details=details, **evil)
    response = {"alert": EVIL, "by": EVIL, "note": EVIL}
    harness.feeder.record(
        Stream("tiny-1", "control", "c1"), "alert_acknowledged", 1.7e9, data=response
    )
    for url in ("/", "/runs/tiny-1", "/parts/tiny-1", "/alerts", "/timeline/tiny-1?hide="):
        text = client.get(url).text
        assert "<script>alert" not in text, url
        assert "&lt;script&gt;alert" in text, url


def test_a_reader_sees_alerts_and_cannot_answer_and_a_stranger_sees_no_number(
    harness: Harness,
) -> None:
    harness.begin()
    record_alert(harness, "a1")
    keyring = Keyring(keys_folder(harness.settings.home))
    token = keyring.new_token("viewer", ["read"])
    app = create_app(harness.history, harness.feeder.writer, harness.settings, keyring=keyring)
    with serving(app) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
        login = client.get("/login", headers=HTML).text
        assert "Alerts" not in login
        assert client.get("/alerts/count").status_code in (303, 401)
        text = client.get("/alerts", headers={"authorization": f"Bearer {token}", **HTML}).text
    buttons = re.findall(r"<button[^>]*data-alert-action[^>]*>", text)
    assert len(buttons) == 2
    assert all(" disabled" in button for button in buttons)
    assert "takes the role control" in text


def test_details_of_an_alert_are_lines_of_text(harness: Harness) -> None:
    harness.begin()
    details = {
        "last_step": 1240,
        "metrics": {"loss": float("nan"), "lr": 3e-5, "eval": "inf"},
        "output": ["one", "two"],
        "exit": None,
    }
    record_alert(harness, "a1", details=details)
    facts = alert_row(harness.history.alerts.get("a1")).facts
    assert [(fact.name, fact.value, fact.is_text) for fact in facts] == [
        ("last step", "1,240", False),
        ("metrics", "loss NaN, lr 3e-5, eval inf", False),
        ("output", "one\ntwo", True),
        ("exit", "null", False),
    ]


@pytest.mark.parametrize(
    ("kind", "changes", "label", "text", "tone"),
    [
        ("alert", {"severity": "critical"}, "Alert opened", "lost: gone", "danger"),
        ("alert", {"severity": "warning"}, "Alert opened", "lost: gone", "caution"),
        ("alert", {"severity": "info"}, "Alert opened", "lost: gone", ""),
        (
            "alert",
            {"state": "closed", "opened_at": 1.7e9, "closed_at": 1.7e9 + 320},
            "Alert closed",
            "lost: gone, after 5m 20s",
            "clear",
        ),
    ],
)
def test_an_opened_and_a_closed_alert_are_one_line_of_the_timeline(
    harness: Harness, kind: str, changes: dict[str, Any], label: str, text: str, tone: str
) -> None:
    harness.begin()
    record_alert(harness, "a1", rule="lost", summary="gone", **changes)
    [row] = harness.history.events("tiny-1", kinds=[kind]).items
    found = entry(row, row.time)
    assert (found.label, found.text, found.tone) == (label, text, tone)


def test_updates_of_an_alert_are_neither_listed_nor_counted_on_the_timeline(
    harness: Harness, client: httpx.Client
) -> None:
    harness.begin()
    for second in range(5):
        record_alert(harness, "a1", updated_at=1.7e9 + second)
    record_alert(harness, "a1", state="closed", updated_at=1.7e9 + 9)
    text = client.get("/timeline/tiny-1").text
    assert len(re.findall(r"<li id=.event-\d+. data-id=.\d+. data-kind=.alert.", text)) == 2
    assert "Alert <small data-count>2</small>" in text


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("alert_acknowledged", {"alert": "a1", "by": "ada", "note": "seen"}, "by ada: seen"),
        (
            "alert_muted",
            {"id": "m1", "rule": None, "until": 1.7e9, "by": "ada"},
            "every rule until 22:13 UTC, by ada",
        ),
        ("alert_unmuted", {"id": "m1"}, "by somebody"),
    ],
)
def test_answers_to_alerts_are_lines_of_the_timeline(
    harness: Harness, kind: str, data: dict[str, Any], text: str
) -> None:
    harness.begin()
    harness.feeder.record(Stream("tiny-1", "control", "c1"), kind, time.time(), data=data)
    [row] = harness.history.events("tiny-1", kinds=[kind]).items
    assert entry(row, row.time).text == text
