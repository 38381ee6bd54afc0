"""The events about an alert become one row, in any order; mutes, audit and deletion."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sqlalchemy import Engine, select

from lineside.bus.protocol.alerts import CLOSED, OPEN
from lineside.bus.protocol.event_kinds import (
    ALERT,
    ALERT_ACKNOWLEDGED,
    ALERT_MUTED,
    ALERT_UNMUTED,
)
from lineside.bus.protocol.events import INTERNAL_RUN
from lineside.store.database import tables
from lineside.store.database.engine import read_transaction
from lineside.store.history.history import History
from lineside.store.history.unclaimed import unclaimed_runs
from lineside.store.recording.writer import Writer
from tests.store.trainer import START, FakeJournal, FakeProducer


def alert(state: str, after: float, **changes: Any) -> dict[str, Any]:
    return {
        "id": "a1",
        "rule": "gpu_idle",
        "subject": "0",
        "state": state,
        "severity": "warning",
        "summary": f"{state} at {after:g}",
        "details": {"step": 7},
        "action": "lineside show run",
        "opened_at": START + 1,
        "updated_at": START + after,
        "closed_at": START + after if state == CLOSED else None,
        "openings": 1,
        **changes,
    }


def event(
    kind: str, data: dict[str, Any], attempt: str, run: str = "run", producer: str = "watchdog"
) -> FakeProducer:
    """One event in a stream of its own."""
    made = FakeProducer(run, producer, attempt)
    made.emit(kind, data)
    return made


def acknowledgement(who: str, after: float) -> FakeProducer:
    made = FakeProducer("run", "control", who, START + after)
    made.emit(ALERT_ACKNOWLEDGED, {"alert": "a1", "by": who, "note": "seen"})
    return made


def rows(engine: Engine, table: Any) -> list[dict[str, Any]]:
    with read_transaction(engine) as connection:
        found = connection.execute(select(table)).mappings().all()
    return [{name: row[name] for name in row if name != "run_key"} for row in found]


def begun(journal: FakeJournal) -> None:
    training = FakeProducer()
    training.begin()
    journal.deliver(training)


@pytest.mark.parametrize("order", list(itertools.permutations(range(5)))[::17])
def test_the_events_of_an_alert_make_the_same_row_in_every_order(
    journal: FakeJournal, engine: Engine, order: tuple[int, ...]
) -> None:
    begun(journal)
    parts = [
        event(ALERT, alert(OPEN, 1), "w1"),
        event(ALERT, alert(OPEN, 2, severity="critical"), "w2"),
        event(ALERT, alert(CLOSED, 3, openings=2), "w3"),
        acknowledgement("bo", 5),
        acknowledgement("ada", 4),
    ]
    for place in order:
        journal.deliver(parts[place])
    assert rows(engine, tables.alerts) == [
        {
            "id": "a1",
            "producer": "watchdog",
            "rule": "gpu_idle",
            "subject": "0",
            "state": CLOSED,
            "severity": "warning",
            "summary": "closed at 3",
            "details": '{"step":7}',
            "action": "lineside show run",
            "step": 0,
            "opened_at": START + 1,
            "updated_at": START + 3,
            "closed_at": START + 3,
            "openings": 2,
            "acknowledged_at": START + 4,
            "acknowledged_by": "ada",
            "acknowledged_note": "seen",
        }
    ]


def test_a_replay_and_another_journal_change_nothing(
    journal: FakeJournal, writer: Writer, engine: Engine
) -> None:
    begun(journal)
    watchdog = FakeProducer("run", "watchdog", "w1")
    watchdog.emit(ALERT, alert(OPEN, 1))
    watchdog.emit(ALERT, alert(CLOSED, 2))
    batch = journal.batch(watchdog.stream, watchdog.take_events())
    writer.apply("journal", [batch])
    before = rows(engine, tables.alerts), rows(engine, tables.audit)
    writer.apply("journal", [batch])
    FakeJournal(writer, "copy").writer.apply("copy", [batch])
    assert (rows(engine, tables.alerts), rows(engine, tables.audit)) == before


def test_an_update_changes_the_row_of_the_alert_and_is_no_event_of_the_timeline(
    journal: FakeJournal, engine: Engine, history: History
) -> None:
    begun(journal)
    watchdog = FakeProducer("run", "watchdog", "w1")
    for state, after in ((OPEN, 1), (OPEN, 2), (OPEN, 3), (CLOSED, 4), (OPEN, 5)):
        watchdog.emit(ALERT, alert(state, after))
    journal.deliver(watchdog)
    assert rows(engine, tables.alerts)[0]["summary"] == "open at 5"
    kept = history.events("run", kinds=[ALERT]).items
    assert [found.data["summary"] for found in kept if found.data] == [
        "open at 1",
        "closed at 4",
        "open at 5",
    ]
    assert history.run("run").event_counts[ALERT] == 5


def test_an_alert_of_the_stopper_is_opened_and_closed_at_once(
    journal: FakeJournal, engine: Engine
) -> None:
    begun(journal)
    data = {"id": "t1", "rule": "flat", "action": "stop", "why": "loss is flat", "dry_run": True}
    journal.deliver(event(ALERT, data, "s1", producer="stopper"))
    [row] = rows(engine, tables.alerts)
    assert (row["producer"], row["rule"], row["state"]) == ("stopper", "flat", CLOSED)
    assert (row["severity"], row["summary"]) == ("warning", "would have sent stop: loss is flat")
    assert row["opened_at"] == row["closed_at"] == START


def test_alerts_of_no_run_are_recorded_in_a_run_that_is_not_listed(
    journal: FakeJournal, engine: Engine, history: History
) -> None:
    journal.deliver(
        event(ALERT, alert(OPEN, 1), "w1", run=INTERNAL_RUN),
        event("log", {"logs": {"loss": 1.0}}, "x", run=INTERNAL_RUN, producer="other"),
        event("run_start", {}, "r", run=INTERNAL_RUN, producer="rank0"),
        event(ALERT, alert(OPEN, 1), "w1", run="_other"),
    )
    assert [row["id"] for row in rows(engine, tables.alerts)] == ["a1"]
    assert history.runs().items == ()
    assert unclaimed_runs(engine) == {}
    assert rows(engine, tables.events) == []


@pytest.mark.parametrize("unmuted_first", [False, True])
def test_a_mute_and_its_end_make_the_same_row_in_either_order(
    journal: FakeJournal, engine: Engine, unmuted_first: bool
) -> None:
    mute = {"id": "m1", "rule": "gpu_idle", "until": START + 60, "by": "ada", "note": "known"}
    parts = [
        event(ALERT_MUTED, mute, "c1", INTERNAL_RUN, "control"),
        event(ALERT_UNMUTED, {"id": "m1", "by": "bo"}, "c2", INTERNAL_RUN, "control"),
    ]
    journal.deliver(*(reversed(parts) if unmuted_first else parts))
    assert rows(engine, tables.alert_mutes) == [
        {
            "id": "m1",
            "muted_at": START,
            "rule": "gpu_idle",
            "until": START + 60,
            "by": "ada",
            "note": "known",
            "ended_at": START,
            "ended_by": "bo",
        }
    ]
    audited = {(row["who"], row["action"], row["outcome"]) for row in rows(engine, tables.audit)}
    assert audited == {
        ("ada", "mute alerts of gpu_idle", "applied"),
        ("bo", "lift mute m1", "applied"),
    }


@pytest.mark.parametrize(
    ("kind", "data", "producer", "problem"),
    [
        (ALERT, {"state": OPEN}, "watchdog", "id None is no text"),
        (ALERT, alert("half", 1), "watchdog", "expected open or closed"),
        (ALERT, alert(OPEN, 1, severity="loud"), "watchdog", "expected critical, warning, info"),
        (ALERT, alert(OPEN, 1, id="x" * 65), "watchdog", "no text of 1 to 64"),
        (ALERT, alert(OPEN, 1), "slack", "only watchdog publishes"),
        (ALERT_ACKNOWLEDGED, {"alert": "a1"}, "rank3", "counts only in a stream of 'control'"),
        (ALERT_MUTED, {"id": "m", "until": "soon"}, "control", "until 'soon' is no time"),
        (ALERT_MUTED, {"id": "m", "rule": 7}, "control", "rule 7 is no text"),
    ],
)
def test_malformed_data_is_kept_with_its_problem(
    journal: FakeJournal,
    engine: Engine,
    kind: str,
    data: dict[str, Any],
    producer: str,
    problem: str,
) -> None:
    begun(journal)
    journal.deliver(event(kind, data, "x1", producer=producer))
    problems = [row["problem"] for row in rows(engine, tables.events) if row["problem"]]
    assert len(problems) == 1
    assert problem in problems[0]
    assert rows(engine, tables.alerts) == rows(engine, tables.alert_mutes) == []


def test_an_alert_id_of_the_watchdog_is_not_taken_by_another_producer(
    journal: FakeJournal, engine: Engine
) -> None:
    begun(journal)
    journal.deliver(event(ALERT, alert(OPEN, 1), "w1"))
    journal.deliver(event(ALERT, {"id": "a1", "why": "mine"}, "s1", producer="slack"))
    [row] = rows(engine, tables.alerts)
    assert (row["producer"], row["state"]) == ("watchdog", OPEN)


def test_a_deleted_run_takes_its_alerts_along_until_it_begins_anew(
    journal: FakeJournal, writer: Writer, engine: Engine
) -> None:
    begun(journal)
    mute = event(ALERT_MUTED, {"id": "m1", "rule": None}, "c1", producer="control")
    journal.deliver(event(ALERT, alert(OPEN, 1), "w1"), mute, acknowledgement("ada", 2))
    writer.delete_run("run")
    journal.deliver(event(ALERT, alert(CLOSED, 3), "w2"), acknowledgement("bo", 4))
    assert rows(engine, tables.alerts) == rows(engine, tables.alert_mutes) == []
    again = FakeProducer("run", "rank0", "29990101T000000-ffff")
    again.begin()
    journal.deliver(again)
    journal.deliver(event(ALERT, alert(OPEN, 9, id="a2"), "w3"))
    assert [row["id"] for row in rows(engine, tables.alerts)] == ["a2"]
