"""Alerts open, update, close, and are sent once: across cool-downs, mutes and crashes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.protocol.events import Stream
from lineside.subscribers.state.state_file import StateFileError
from lineside.subscribers.watchdog.alert import Alert, AlertChange, AlertKey, Severity
from lineside.subscribers.watchdog.engine import (
    UPDATE_SECONDS,
    Engine,
    Found,
    Judgement,
    Subject,
    Timing,
)
from lineside.subscribers.watchdog.rules.rule import Finding
from lineside.subscribers.watchdog.state import WatchdogState

KEY = AlertKey("run", "nan", "loss")
COOL_DOWN, REPEAT = 900.0, 3600.0


class Outbox:
    """Keeps what it is given, in the transaction that it is given in."""

    def __init__(self, state: WatchdogState) -> None:
        self._state = state
        with state.transaction() as db:
            db.execute("CREATE TABLE IF NOT EXISTS sent (change TEXT, summary TEXT)")
        self.fails = False

    def add(self, db: sqlite3.Connection, change: AlertChange, alert: Alert) -> None:
        if self.fails:
            raise StateFileError("no space left")
        if change != "updated":
            db.execute("INSERT INTO sent VALUES (?, ?)", (change, alert.summary))

    @property
    def sent(self) -> list[str]:
        return [change for (change,) in self._state.fetch("SELECT change FROM sent")]


class Bench:
    """An engine whose clock and findings are those of the test."""

    def __init__(self, path: Path | None = None) -> None:
        self.state = WatchdogState(path)
        self.outbox = Outbox(self.state)
        self.engine = Engine(self.state, self.outbox, Timing(COOL_DOWN, REPEAT))
        self.now = 1000.0
        self.judgement: dict[str, Any] = {}

    def judge(self, after: float, *found: Found, judged: Iterable[AlertKey] | None = None) -> bool:
        """Judge again ``after`` seconds; by default everything is judged."""
        self.now += after
        keys = None if judged is None else set(judged)
        judgement = Judgement(found, lambda key: keys is None or key in keys, **self.judgement)
        return self.engine.apply(judgement, self.now)

    @property
    def sent(self) -> list[str]:
        return self.outbox.sent

    @property
    def published(self) -> list[dict[str, Any]]:
        stream = Stream("run", "watchdog", self.state.attempt)
        return [dict(one.publication.data or {}) for one in self.state.pending(stream, 0, 100)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.state.close()


def nan(
    summary: str = "loss is NaN",
    hold: float = 0.0,
    severity: Severity = "critical",
    key: AlertKey = KEY,
) -> Found:
    subject = Subject(key.run, "a run", "tests", {"step": 7})
    return Found(
        key.rule, severity, hold, Finding(summary, "lineside stop run", key.subject), subject
    )


def test_an_alert_opens_when_it_has_held_for_its_time(bench: Bench) -> None:
    bench.judge(0, nan(hold=60))
    bench.judge(59, nan(hold=60))
    assert bench.engine.open_alerts == []
    assert bench.engine.watched_runs == {"run"}
    assert bench.judge(1, nan(hold=60))
    [alert] = bench.engine.open_alerts
    assert (alert.key, alert.opened_at, alert.details) == (KEY, 1060.0, {"step": 7})
    assert bench.sent == ["opened"]
    [data] = bench.published
    assert (data["state"], data["summary"], data["openings"]) == ("open", "loss is NaN", 1)


def test_what_stops_before_its_time_opens_no_alert(bench: Bench) -> None:
    for _ in range(5):
        bench.judge(30, nan(hold=60))
        bench.judge(30)
    assert not bench.sent
    assert not bench.published
    assert bench.engine.watched_runs == set()


def test_what_cannot_be_judged_neither_opens_nor_closes_and_keeps_its_time(bench: Bench) -> None:
    bench.judge(0, nan())
    bench.judge(10, judged=[])
    assert bench.engine.open_alerts
    other = KEY._replace(subject="eval_loss")
    bench.judge(0, nan(), nan(hold=60, key=other))
    bench.judge(60, nan(), judged=[KEY])
    bench.judge(0, nan(), nan(hold=60, key=other))
    assert {alert.key for alert in bench.engine.open_alerts} == {KEY, other}


def test_an_alert_that_closes_is_published_and_sent_once(bench: Bench) -> None:
    bench.judge(0, nan())
    assert bench.judge(5)
    assert not bench.judge(5)
    assert bench.sent == ["opened", "closed"]
    assert [data["state"] for data in bench.published] == ["open", "closed"]
    assert bench.published[-1]["closed_at"] == 1005.0
    assert len({data["id"] for data in bench.published}) == 1


def test_an_open_alert_is_published_again_when_its_summary_changes_or_it_becomes_worse(
    bench: Bench,
) -> None:
    bench.judge(0, nan("1", severity="warning"))
    for _ in range(10):
        bench.judge(1, nan("2", severity="warning"))
    assert len(bench.published) == 1, "not more often than once a minute"
    bench.judge(UPDATE_SECONDS, nan("2", severity="warning"))
    bench.judge(UPDATE_SECONDS, nan("2", severity="warning"))
    assert [data["summary"] for data in bench.published] == ["1", "2"]
    assert bench.sent == ["opened"]
    bench.judge(1, nan("3", severity="critical"))
    assert bench.published[-1]["severity"] == "critical"
    assert bench.sent == ["opened", "reminder"]


def test_within_the_cool_down_an_alert_is_the_same_one_and_is_not_sent_again(bench: Bench) -> None:
    bench.judge(0, nan())
    bench.judge(5)
    for _ in range(5):
        bench.judge(5, nan())
        bench.judge(5)
    assert bench.sent == ["opened", "closed"]
    assert len({data["id"] for data in bench.published}) == 1
    assert bench.published[-1]["openings"] == 6
    bench.judge(COOL_DOWN, nan())
    assert bench.sent == ["opened", "closed", "opened"]
    assert len({data["id"] for data in bench.published}) == 2


def test_an_alert_that_is_still_open_after_the_cool_down_is_sent(bench: Bench) -> None:
    bench.judge(0, nan())
    bench.judge(5)
    bench.judge(5, nan())
    bench.judge(COOL_DOWN - 6, nan())
    assert bench.sent == ["opened", "closed"]
    bench.judge(1, nan())
    bench.judge(1, nan())
    bench.judge(1)
    assert bench.sent == ["opened", "closed", "opened", "closed"]


def test_what_fails_again_and_again_is_sent_once_in_each_cool_down(bench: Bench) -> None:
    for _ in range(8):  # restarted after five minutes, and failed again at once
        bench.judge(300, nan())
        bench.judge(5)
    assert bench.sent == ["opened", "closed"] * 3


def test_a_clock_that_is_set_back_delays_nothing_and_later_changes_count(bench: Bench) -> None:
    bench.now = 1_000_000.0
    bench.judge(0, nan())
    bench.judge(5, nan(), nan(hold=60, key=KEY._replace(subject="other")))
    bench.now -= 86_400
    bench.engine.begin_again_at(bench.now)
    bench.judge(0, nan("2"), nan(hold=60, key=KEY._replace(subject="other")))
    bench.judge(60, nan("2"), nan(hold=60, key=KEY._replace(subject="other")))
    bench.judge(5)
    assert bench.sent == ["opened", "opened", "closed", "closed"]
    times = [data["updated_at"] for data in bench.published if data["subject"] == "loss"]
    assert len(times) == 3
    assert times == sorted(set(times)), "the recorder keeps the newest"
    bench.judge(COOL_DOWN, nan())
    assert bench.sent[4:] == ["opened"]


def test_what_held_before_a_sleep_holds_from_its_end_on(bench: Bench) -> None:
    bench.judge(0, nan(hold=60))
    bench.engine.begin_again_at(bench.now + 30_000)
    bench.judge(30_005, nan(hold=60))
    assert bench.engine.pending_runs == {"run"}
    bench.judge(55, nan(hold=60))
    assert bench.sent == ["opened"]
    assert bench.engine.pending_runs == set()


def test_a_closing_has_the_status_of_the_run(bench: Bench) -> None:
    bench.judge(0, nan())
    bench.judgement = {"statuses": {"run": "finished"}}
    bench.judge(5)
    assert bench.published[-1]["details"] == {"step": 7, "status": "finished"}


def test_a_muted_alert_is_shown_and_sent_only_when_it_is_no_longer_muted(bench: Bench) -> None:
    bench.judgement = {"is_muted": lambda _: True}
    bench.judge(0, nan())
    bench.judge(REPEAT, nan())
    assert len(bench.published) == 1
    assert bench.sent == []
    bench.judgement = {}
    bench.judge(5, nan())
    assert bench.sent == ["opened"]
    bench.judgement = {"is_muted": lambda _: True}
    bench.judge(5)
    assert bench.sent == ["opened", "closed"], "an incident that was sent is closed"


def test_a_muted_alert_that_closes_was_never_sent(bench: Bench) -> None:
    bench.judgement = {"is_muted": lambda _: True}
    bench.judge(0, nan())
    bench.judge(5)
    assert bench.sent == []
    assert [data["state"] for data in bench.published] == ["open", "closed"]


def test_only_open_critical_alerts_without_an_acknowledgement_are_repeated(bench: Bench) -> None:
    warning = KEY._replace(rule="loss_spike")
    found = (nan(), nan(severity="warning", key=warning))
    bench.judge(0, *found)
    bench.judge(REPEAT - 1, *found)
    assert bench.sent == ["opened", "opened"]
    bench.judge(1, *found)
    bench.judge(1, *found)
    assert bench.sent == ["opened", "opened", "reminder"]
    bench.judgement = {"is_acknowledged": lambda _: True}
    bench.judge(REPEAT, *found)
    assert bench.sent == ["opened", "opened", "reminder"]


def test_the_alerts_of_a_deleted_run_close_and_are_gone(bench: Bench) -> None:
    bench.judge(0, nan())
    bench.judgement = {"gone": frozenset({"run"})}
    bench.judge(5)
    assert bench.engine.open_alerts == []
    assert list(bench.state.alerts()) == []
    assert bench.sent == ["opened", "closed"]
    assert [data["state"] for data in bench.published] == ["open", "closed"]


def test_a_change_that_cannot_be_kept_is_neither_published_nor_forgotten(bench: Bench) -> None:
    bench.outbox.fails = True
    with pytest.raises(StateFileError):
        bench.judge(0, nan())
    assert bench.published == []
    bench.outbox.fails = False
    bench.judge(5, nan())
    assert bench.sent == ["opened"]
    assert len(bench.published) == 1


def test_a_restart_neither_opens_nor_sends_an_alert_again(tmp_path: Path) -> None:
    first = Bench(tmp_path / "watchdog.db")
    first.judge(0, nan())
    first.state.close()
    second = Bench(tmp_path / "watchdog.db")
    second.now = 1010.0
    assert [alert.key for alert in second.engine.open_alerts] == [KEY]
    second.judge(0, nan())
    assert second.sent == ["opened"]
    second.judge(5)
    second.state.close()
    third = Bench(tmp_path / "watchdog.db")
    third.now = 1020.0
    third.judge(0, nan())
    assert third.sent == ["opened", "closed"], "the cool-down survives as well"
    assert [data["openings"] for data in third.published] == [1, 1, 2]
    third.state.close()


def test_another_producers_alert_is_sent_once(bench: Bench) -> None:
    alert = Alert(
        "a1", "run", "a run", "", "my rule", "", "closed", "warning", "it held", "", 1.0, 1.0, 1.0
    )
    assert bench.engine.pass_on(alert, bench.now)
    assert not bench.engine.pass_on(alert, bench.now)
    assert bench.sent == ["opened"]
    assert bench.published == []


def test_another_producers_alert_that_is_muted_is_not_sent(bench: Bench) -> None:
    alert = Alert("a1", "run", "", "", "rule", "", "closed", "warning", "held", "", 1.0, 1.0, 1.0)
    bench.engine.pass_on(alert, bench.now, is_muted=True)
    bench.engine.pass_on(alert, bench.now)
    assert bench.sent == []
