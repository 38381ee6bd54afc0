"""Alerts as they are read: filters, pages, counts, mutes, and the changes that update a page."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lineside.bus.errors import AlertNotFound, UsageError
from lineside.bus.protocol.alerts import Acknowledgement, Mute, Unmute
from lineside.bus.protocol.events import INTERNAL_RUN
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.store.trainer import START, FakeJournal, FakeProducer


class Alerting:
    """A run with a name, and a watchdog that publishes alerts."""

    def __init__(self, journal: FakeJournal) -> None:
        self.journal = journal
        self.producers: dict[tuple[str, str], FakeProducer] = {}
        training = FakeProducer()
        training.begin()
        journal.deliver(training)

    def alert(self, alert_id: str, after: float, run: str = "run", **changes: Any) -> None:
        data = {
            "id": alert_id,
            "rule": "gpu_idle",
            "state": "open",
            "severity": "warning",
            "summary": f"alert {alert_id}",
            "opened_at": START + after,
            "updated_at": START + after,
            **changes,
        }
        self.emit(run, "watchdog", "alert", data)

    def respond(self, response: Acknowledgement | Mute | Unmute, run: str = "run") -> None:
        self.emit(run, "control", response.kind, response.to_data())

    def emit(self, run: str, producer: str, kind: str, data: Any) -> None:
        key = run, producer
        made = self.producers.setdefault(key, FakeProducer(run, producer, "w1"))
        made.emit(kind, data)
        self.journal.deliver(made)


@pytest.fixture
def alerting(journal: FakeJournal) -> Alerting:
    return Alerting(journal)


def ids(found: Any) -> list[str]:
    return [alert.id for alert in found]


def test_alerts_are_listed_by_time_and_filtered(alerting: Alerting, history: History) -> None:
    alerting.alert("a1", 1)
    alerting.alert("a2", 2, rule="lost", severity="critical")
    alerting.alert("a3", 3, state="closed", closed_at=START + 4)
    alerting.alert("d1", 4, run=INTERNAL_RUN, rule="disk_filling", severity="info")
    alerts = history.alerts
    assert ids(alerts.page().items) == ["d1", "a3", "a2", "a1"]
    assert ids(alerts.page(state="closed").items) == ["a3"]
    assert ids(alerts.page(run="run", state="open").items) == ["a2", "a1"]
    assert ids(alerts.page(rule="disk_filling").items) == ["d1"]
    assert ids(alerts.page(severity="critical").items) == ["a2"]
    assert ids(alerts.open()) == ["a2", "a1", "d1"]
    assert alerts.counts() == {"critical": 1, "warning": 1, "info": 1}
    assert alerts.counts(run="run") == {"critical": 1, "warning": 1}
    of_run, of_none = alerts.get("a1"), alerts.get("d1")
    assert (of_run.run, of_run.run_name, of_run.project) == ("run", "a run", "tests")
    assert (of_none.run, of_none.run_name) == (None, None)
    with pytest.raises(AlertNotFound, match="no alert 'zz'"):
        alerts.get("zz")
    with pytest.raises(UsageError, match=r"the state 'opn'.*did you mean open"):
        alerts.page(state="opn")


def test_pages_of_alerts_hold_each_once(alerting: Alerting, history: History) -> None:
    for number in range(5):
        alerting.alert(f"a{number}", number // 2)
    seen: list[str] = []
    cursor = None
    while True:
        page = history.alerts.page(limit=2, cursor=cursor)
        seen += ids(page.items)
        cursor = page.next
        if cursor is None:
            break
    assert seen == ["a4", "a3", "a2", "a1", "a0"]
    with pytest.raises(UsageError, match="cursor"):
        history.alerts.page(cursor="nonsense")


def test_a_mute_covers_its_run_and_rule_until_its_time_or_its_end(
    alerting: Alerting, history: History
) -> None:
    alerting.alert("a1", 1)
    alerting.alert("d1", 2, run=INTERNAL_RUN, rule="disk_filling")
    later = time.time() + 3600
    alerting.respond(Mute("gpu_idle", later, "ada", "known", "m1"))
    alerting.respond(Mute("gpu_idle", START + 5, "ada", "over", "m2"))
    alerting.respond(Mute(None, None, "bo", "", "m3"), INTERNAL_RUN)
    assert sorted(ids(history.alerts.mutes())) == ["m1", "m3"]
    assert history.alerts.get("d1").mute == history.alerts.mute("m3")
    alerting.respond(Unmute("m3", "bo"), INTERNAL_RUN)
    [mute] = history.alerts.mutes()
    assert (mute.run, mute.rule, mute.by, mute.note) == ("run", "gpu_idle", "ada", "known")
    assert history.alerts.get("a1").mute == mute
    assert history.alerts.get("d1").mute is None
    with pytest.raises(AlertNotFound, match="no mute that holds 'm3'"):
        history.alerts.mute("m3")


def test_an_acknowledgement_is_of_the_alert_and_stays_when_it_opens_again(
    alerting: Alerting, history: History
) -> None:
    alerting.alert("a1", 1)
    alerting.respond(Acknowledgement("a1", "ada", "on it"))
    alerting.alert("a1", 2, state="closed")
    alerting.alert("a1", 3, openings=2)
    found = history.alerts.get("a1")
    assert (found.is_open, found.openings) == (True, 2)
    assert (found.acknowledged_by, found.acknowledged_note) == ("ada", "on it")


def test_an_acknowledgement_of_an_alert_that_is_not_recorded_lists_nothing(
    alerting: Alerting, history: History
) -> None:
    alerting.respond(Acknowledgement("a1", "ada"))
    assert history.alerts.page().items == ()
    assert history.alerts.counts() == {}


def test_changes_report_alerts_of_no_run_and_those_of_a_run_as_its_own(
    alerting: Alerting, history: History
) -> None:
    before = history.revision()
    alerting.alert("a1", 1)
    assert (history.changes(before).run_ids, history.changes(before).alerts) == (("run",), False)
    before = history.revision()
    alerting.alert("d1", 2, run=INTERNAL_RUN)
    assert (history.changes(before).run_ids, history.changes(before).alerts) == ((), True)


def test_alerts_of_a_deleted_run_are_gone_at_once(
    alerting: Alerting, history: History, writer: Writer
) -> None:
    alerting.alert("a1", 1)
    alerting.respond(Mute(None, None, "ada", "", "m1"))
    writer.delete_run("run")
    assert history.alerts.page().items == ()
    assert history.alerts.counts() == {}
    assert history.alerts.mutes() == []
