"""Alerts over HTTP: listed, acknowledged, muted and unmuted, through a real broker and recorder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.bus.protocol.events import INTERNAL_RUN, Stream
from lineside.bus.testing import BrokerProcess
from lineside.dashboard.app import create_app
from tests.dashboard.alerts import record_alert
from tests.dashboard.api.test_api import problem
from tests.dashboard.conftest import Harness, serving
from tests.subscribers.conftest import ServiceProcess
from tests.support.waiting import DEADLINE, wait_until


@pytest.fixture
def recording(harness: Harness) -> Iterator[None]:
    """A broker, and a recorder of what it takes."""
    with BrokerProcess(harness.settings.home), ServiceProcess("recorder", harness.settings):
        yield


def listed(client: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get("/api/alerts", params=query).json()["items"]
    return items


def test_alerts_are_listed_with_their_facts_and_filters(
    harness: Harness, client: httpx.Client
) -> None:
    harness.begin()
    record_alert(harness, "a1", details={"value": float("nan")})
    record_alert(harness, "a2", rule="lost", severity="critical", state="closed")
    record_alert(harness, "d1", INTERNAL_RUN, rule="disk_filling")
    assert sorted(alert["id"] for alert in listed(client)) == ["a1", "a2", "d1"]
    assert [alert["id"] for alert in listed(client, state="closed")] == ["a2"]
    assert [alert["id"] for alert in listed(client, run="tiny-1", state="open")] == ["a1"]
    assert [alert["id"] for alert in listed(client, severity="critical")] == ["a2"]
    [of_none] = listed(client, rule="disk_filling")
    assert (of_none["run"], of_none["mute"], of_none["acknowledged_at"]) == (None, None, None)
    found = client.get("/api/alerts/a1").json()
    assert (found["run"], found["state"], found["details"]) == ("tiny-1", "open", {"value": None})
    assert found["non_finite"] == {"/details/value": "nan"}
    first = client.get("/api/alerts", params={"limit": 2}).json()
    assert len(first["items"]) == 2
    rest = listed(client, cursor=first["next"])
    assert {alert["id"] for alert in [*first["items"], *rest]} == {"a1", "a2", "d1"}
    problem(client.get("/api/alerts/zz"), 404, "unknown-alert")
    problem(client.get("/api/alerts", params={"state": "half"}), 422, "invalid-request")
    problem(client.get("/api/alerts", params={"cursor": "x"}), 400, "bad-request")


@pytest.mark.usefixtures("recording")
def test_an_alert_is_acknowledged_once_and_the_audit_has_it(
    harness: Harness, client: httpx.Client
) -> None:
    harness.begin()
    record_alert(harness, "a1")
    answer = client.post("/api/alerts/a1/acknowledge", json={"note": "on it"})
    assert (answer.status_code, answer.json()["acknowledged_by"]) == (202, "user@dashboard")
    wait_until(lambda: listed(client)[0]["acknowledged_at"] is not None, "it is recorded")
    again = client.post("/api/alerts/a1/acknowledge")
    assert (again.status_code, again.json()["acknowledged_note"]) == (202, "on it")
    entries = client.get("/api/audit", params={"run": "tiny-1"}).json()["items"]
    assert [(e["who"], e["action"], e["outcome"], e["why"]) for e in entries] == [
        ("user@dashboard", "acknowledge alert a1", "applied", "on it")
    ]
    problem(client.post("/api/alerts/zz/acknowledge"), 404, "unknown-alert")
    problem(client.post("/api/alerts/a1/acknowledge", json={"x": 1}), 422, "invalid-request")


@pytest.mark.usefixtures("recording")
def test_a_mute_of_a_run_or_of_all_holds_until_it_is_lifted(
    harness: Harness, client: httpx.Client
) -> None:
    harness.begin()
    record_alert(harness, "a1")
    record_alert(harness, "d1", INTERNAL_RUN, rule="disk_filling")
    body = {"run": "tiny-1", "rule": "gpu_idle", "seconds": 3600, "note": "known", "id": "m1"}
    mutes = [client.post("/api/alerts/mutes", json=body) for _ in range(2)]
    assert [mute.status_code for mute in mutes] == [202, 202]
    wait_until(lambda: client.get("/api/alerts/a1").json()["mute"] is not None, "it is recorded")
    [mute] = client.get("/api/alerts/mutes").json()["items"]
    assert (mute["id"], mute["run"], mute["rule"], mute["note"]) == (
        "m1",
        "tiny-1",
        "gpu_idle",
        "known",
    )
    assert client.get("/api/alerts/d1").json()["mute"] is None
    everything = client.post("/api/alerts/mutes", json={}).json()
    assert (everything["run"], everything["rule"], everything["until"]) == (None, None, None)
    wait_until(lambda: client.get("/api/alerts/d1").json()["mute"] is not None, "it is recorded")
    for mute_id in ("m1", everything["id"]):
        assert client.post(f"/api/alerts/mutes/{mute_id}/unmute").status_code == 202
    wait_until(lambda: client.get("/api/alerts/mutes").json()["items"] == [], "they are lifted")
    problem(client.post("/api/alerts/mutes/m1/unmute"), 404, "unknown-alert")
    problem(client.post("/api/alerts/mutes", json={"run": "zz"}), 404, "unknown-run")
    problem(client.post("/api/alerts/mutes", json={"seconds": 0}), 422, "invalid-request")


def test_without_a_broker_nothing_is_acknowledged_or_muted(
    harness: Harness, client: httpx.Client
) -> None:
    harness.begin()
    record_alert(harness, "a1")
    problem(client.post("/api/alerts/a1/acknowledge"), 503, "not-sent")
    problem(client.post("/api/alerts/mutes", json={}), 503, "not-sent")
    assert client.get("/api/alerts/a1").json()["acknowledged_at"] is None


def test_answers_to_alerts_take_the_role_control_and_come_from_this_site(harness: Harness) -> None:
    harness.begin()
    record_alert(harness, "a1")
    keyring = Keyring(keys_folder(harness.settings.home))
    token = keyring.new_token("viewer", ["read"])
    app = create_app(harness.history, harness.feeder.writer, harness.settings, keyring=keyring)
    viewer = {"authorization": f"Bearer {token}"}
    paths = ("/api/alerts/a1/acknowledge", "/api/alerts/mutes", "/api/alerts/mutes/m1/unmute")
    with serving(app) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
        assert client.get("/api/alerts", headers=viewer).status_code == 200
        problem(client.get("/api/alerts"), 401, "no-access")
        for path in paths:
            problem(client.post(path, json={}, headers=viewer), 403, "not-allowed")
            other = {**viewer, "origin": "http://elsewhere.example"}
            problem(client.post(path, json={}, headers=other), 403, "cross-site")


def test_the_live_stream_reports_alerts_of_no_run_to_every_page(
    harness: Harness, client: httpx.Client
) -> None:
    harness.begin()
    revision = harness.history.revision()
    stream = Stream(INTERNAL_RUN, "control", "c1")
    data = {"id": "m1", "rule": None, "until": None, "by": "ada", "note": ""}
    harness.feeder.record(stream, "alert_muted", time.time(), data=data)
    for query in ({}, {"run": "tiny-1"}):
        with client.stream("GET", "/api/live", params={"after": revision, **query}) as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("data:"))
            next(lines)
            assert '"runs":[],"deleted":[],"alerts":true' in next(lines)
