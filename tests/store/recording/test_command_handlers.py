"""A command and its answers become one row, and entries of the audit, in any order."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import Engine, delete, select

from lineside.bus.errors import RunNotFound, UsageError
from lineside.bus.protocol.commands import (
    APPLIED,
    COMMAND,
    CONTROL_ON,
    DELIVERED,
    EXPIRED,
    REJECTED,
    SUPERSEDED,
    Command,
)
from lineside.store.database import tables
from lineside.store.database.engine import write_transaction
from lineside.store.history import records
from lineside.store.history.history import History
from lineside.store.recording import audit as auditing
from lineside.store.recording.writer import Writer
from tests.store.trainer import ATTEMPT, START, FakeJournal, FakeProducer

LATE = START + 9e8
"""When commands of these tests expire by default."""


def training(journal: FakeJournal, run: str = "run") -> None:
    trainer = FakeProducer(run)
    trainer.begin()
    journal.deliver(trainer)


def control_event(
    kind: str, after: float, data: dict[str, Any], attempt: str, step: int = 0
) -> FakeProducer:
    """Record one event in a new control stream, ``after`` seconds."""
    trainer = FakeProducer("run", "control", attempt, START + after)
    trainer.step = step
    trainer.emit(kind, data)
    return trainer


def command_data(**changes: Any) -> dict[str, Any]:
    command = Command("set_lr", {"lr": 0.5}, "a try", "ada@here", LATE, "c1")
    return {**command.to_data(), **changes}


def answer_data(**changes: Any) -> dict[str, Any]:
    return {"id": "c1", "op": "set_lr", **changes}


def command_events() -> list[FakeProducer]:
    """A command that was sent twice, delivered, applied, and expired for another process."""
    return [
        control_event(COMMAND, 1, command_data(), "issuer"),
        control_event(COMMAND, 2, command_data(issued_by="eve@there", args={"lr": 9.0}), "replay"),
        control_event(DELIVERED, 3, answer_data(), ATTEMPT, 4),
        control_event(APPLIED, 4, answer_data(**{"from": 0.25, "to": 0.5}), "training", 5),
        control_event(REJECTED, 5, {"id": "c1", "why": "training ended"}, "shipper"),
    ]


def plain(entries: Iterable[Any]) -> list[tuple[Any, ...]]:
    return [(e.who, e.action, e.target, e.outcome, e.why, e.count) for e in entries]


ORDERS = [order for order in itertools.permutations(range(5)) if order.index(0) < order.index(1)]


@pytest.mark.parametrize("order", ORDERS[::7])
def test_a_command_and_its_answers_make_the_same_row_in_every_order(
    writer: Writer, history: History, order: tuple[int, ...]
) -> None:
    journal = FakeJournal(writer)
    training(journal)
    entries_before = command_events()
    for place in order:
        journal.deliver(entries_before[place])
    [command] = history.commands("run").items
    assert (command.id, command.op, command.args) == ("c1", "set_lr", {"lr": 0.5})
    assert (command.reason, command.issued_by) == ("a try", "ada@here")
    assert (command.state, command.step, command.attempt) == ("applied", 5, "training")
    assert command.detail == "from 0.25 to 0.5"
    times = (command.requested_at, command.delivered_at, command.settled_at, command.expires_at)
    assert [at.timestamp() for at in times if at] == [START + 1, START + 3, START + 4, LATE]
    assert history.command("run", "c1") == command
    assert plain(history.audit(run="run").items) == [
        ("ada@here", "set_lr 0.5", "run", "rejected", "training ended", 1),
        ("ada@here", "set_lr 0.5", "run", "applied", "from 0.25 to 0.5", 1),
        ("ada@here", "set_lr 0.5", "run", "delivered", "", 1),
        ("eve@there", "set_lr 9", "run", "requested", "a try", 1),
        ("ada@here", "set_lr 0.5", "run", "requested", "a try", 1),
    ]


def test_of_a_command_sent_twice_the_first_recorded_counts_whatever_its_time(
    writer: Writer, history: History
) -> None:
    journal = FakeJournal(writer)
    training(journal)
    journal.deliver(command_events()[0], command_events()[3])
    before, audit = history.command("run", "c1"), history.audit().items
    forged = command_data(op="stop", args={}, reason="mine", issued_by="eve@there")
    journal.deliver(control_event(COMMAND, -500, forged, "forger"))
    assert history.command("run", "c1") == before
    assert plain(history.audit().items) == [
        *plain(audit),
        ("eve@there", "stop", "run", "requested", "mine", 1),
    ]


def test_an_event_delivered_again_is_recorded_once(writer: Writer, history: History) -> None:
    journal = FakeJournal(writer)
    training(journal)
    trainer = command_events()[0]
    events = trainer.take_events()
    for _ in range(3):
        writer.apply("journal", [journal.batch(trainer.stream, events)])
    assert len(history.audit().items) == 1
    assert len(history.commands("run").items) == 1


@pytest.mark.parametrize(
    ("kind", "state", "data", "detail"),
    [
        (EXPIRED, "expired", {}, ""),
        (SUPERSEDED, "superseded", {"by": "c2"}, "by c2"),
        (REJECTED, "rejected", {"why": "no"}, "no"),
    ],
)
def test_a_command_that_was_not_applied_has_the_reason(
    writer: Writer, history: History, kind: str, state: str, data: dict[str, Any], detail: str
) -> None:
    journal = FakeJournal(writer)
    training(journal)
    journal.deliver(command_events()[0], control_event(kind, 3, answer_data(**data), ATTEMPT, 7))
    [command] = history.commands("run").items
    assert (command.state, command.step, command.detail) == (state, 7, detail)


def test_a_command_without_an_answer_is_shown_as_expired_or_unknown(
    writer: Writer, history: History
) -> None:
    journal, now = FakeJournal(writer), time.time()
    training(journal)
    journal.deliver(
        control_event(COMMAND, 1, command_data(id="open", expires_at=now + 60), "a"),
        control_event(COMMAND, 2, command_data(id="late", expires_at=now - 60), "b"),
        control_event(COMMAND, 3, command_data(id="taken", expires_at=now - 60), "c"),
        control_event(DELIVERED, 4, {"id": "taken"}, ATTEMPT, 3),
        control_event(COMMAND, 5, command_data(id="endless", expires_at=1e300), "d"),
    )
    states = {c.id: (c.state, c.detail) for c in history.commands("run").items}
    assert states["open"] == states["endless"] == ("requested", "")
    assert states["late"] == ("expired", "no training took it in time")
    assert states["taken"][0] == "delivered"
    assert "whether it was applied is not known" in states["taken"][1]


def test_the_audit_and_the_list_agree_on_a_command_that_no_training_took(
    writer: Writer, history: History
) -> None:
    journal, now = FakeJournal(writer), time.time()
    training(journal)
    late = command_data(id="late", expires_at=now - 60)
    journal.deliver(
        control_event(COMMAND, 1, late, "a"),
        control_event(COMMAND, 2, late, "again"),
        control_event(COMMAND, 3, command_data(id="open", expires_at=now + 60), "b"),
        control_event(COMMAND, 4, command_data(id="taken", expires_at=now - 60), "c"),
        control_event(DELIVERED, 5, {"id": "taken"}, ATTEMPT, 3),
    )
    expired, *others = history.audit(run="run").items
    assert plain([expired]) == [
        ("ada@here", "set_lr 0.5", "run", "expired", "no training took it in time", 1)
    ]
    assert expired.command == "late"
    assert expired.time.timestamp() == pytest.approx(now - 60)
    assert {entry.outcome for entry in others} == {"requested", "delivered"}
    paged = history.audit(limit=1)
    assert paged.items == (expired,)
    assert history.audit(cursor=paged.next).items == tuple(others)
    assert history.audit(run="another").items == ()
    journal.deliver(
        control_event(APPLIED, 6, {"id": "late"}, "d", 4)
    )  # a training took it in time after all
    assert "expired" not in {entry.outcome for entry in history.audit().items}


def test_commands_and_audit_come_in_pages_without_repeats(writer: Writer, history: History) -> None:
    journal = FakeJournal(writer)
    training(journal)
    for number in range(7):
        journal.deliver(
            control_event(COMMAND, number // 3, command_data(id=f"c{number}"), f"a{number}")
        )
    for read in (
        lambda cursor: history.commands("run", limit=2, cursor=cursor),
        lambda cursor: history.audit(run="run", limit=2, cursor=cursor),
    ):
        seen: list[Any] = []
        cursor: str | None = None
        while True:
            page = read(cursor)
            seen += [
                item.id if isinstance(item, records.Command) else item.command
                for item in page.items
            ]
            cursor = page.next
            if cursor is None:
                break
        assert seen == [f"c{number}" for number in reversed(range(7))]
        for odd in ("", "x", history.runs(limit=1).next or "W10="):
            with pytest.raises(UsageError):
                read(odd)


def test_an_invalid_command_event_is_kept_with_a_problem(writer: Writer, history: History) -> None:
    journal = FakeJournal(writer)
    training(journal)
    rank = FakeProducer()
    rank.seq = 3
    rank.emit(COMMAND, command_data(id="from a rank"))
    journal.deliver(
        rank,
        control_event(COMMAND, 1, command_data(id=""), "a"),
        control_event(COMMAND, 1, command_data(op=3), "b"),
        control_event(DELIVERED, 1, {"id": "x" * 65}, "c"),
        control_event(CONTROL_ON, 1, {"ops": ["stop"], "why": None}, "d"),
    )
    assert history.commands("run").items == ()
    problems = [row.problem for row in history.events("run", kinds=[COMMAND, DELIVERED]).items]
    assert len(problems) == 4
    assert all(problems)


def test_deleting_a_run_deletes_its_commands_and_keeps_the_audit(
    engine: Engine, writer: Writer, history: History
) -> None:
    journal = FakeJournal(writer)
    training(journal)
    journal.deliver(
        *command_events(),
        control_event(COMMAND, 6, command_data(id="late", expires_at=START + 9), "late"),
    )
    before = history.audit().items
    assert before[0].outcome == "expired"
    writer.delete_run("run")
    with pytest.raises(RunNotFound):
        history.commands("run")
    assert history.audit().items == before
    with write_transaction(engine) as (connection, _):
        assert connection.execute(delete(tables.commands)).rowcount == 0


def test_a_command_recorded_before_its_run_belongs_to_the_run(
    writer: Writer, history: History
) -> None:
    journal = FakeJournal(writer)
    journal.deliver(command_events()[0])
    assert history.runs().items == ()
    training(journal)
    assert [command.id for command in history.commands("run").items] == ["c1"]


def test_refusals_of_brokers_and_dashboards_are_in_the_audit(
    engine: Engine, writer: Writer, history: History
) -> None:
    journal = FakeJournal(writer)
    broker = FakeProducer("audit", "broker")
    refused = {"who": "eve", "role": "read", "action": "publish", "why": "it may only read"}
    broker.emit("refused", {**refused, "target": "run/control/x", "count": 3})
    broker.emit("refused", {**refused, "target": "/api/runs/run/commands"})
    broker.emit("refused", {**refused, "target": "tcp://here:1"})
    broker.emit("refused", {**refused, "target": 1})
    broker.emit("train_begin")
    reserved = FakeProducer("audit", "rank0")
    reserved.begin()
    elsewhere = FakeProducer("run", "broker")
    elsewhere.emit("refused", {**refused, "target": "run"})
    journal.deliver(broker, reserved, elsewhere)
    entries = history.audit().items
    assert [(e.who, e.role, e.action, e.outcome, e.run, e.count) for e in entries] == [
        ("eve", "read", "publish", "refused", None, 1),
        ("eve", "read", "publish", "refused", "run", 1),
        ("eve", "read", "publish", "refused", "run", 3),
    ]
    assert len(history.audit(run="run").items) == 2
    assert history.runs().items == ()
    with write_transaction(engine) as (connection, _):
        kept = connection.execute(
            select(tables.events.c.kind, tables.events.c.problem)
            .join(tables.runs, tables.runs.c.key == tables.events.c.run_key)
            .where(tables.runs.c.id == "audit")
        ).all()
    assert [kind for kind, _ in kept] == ["refused"]  # the one without a row in the audit
    assert "1 is no text" in kept[0][1]


def test_the_newest_refusals_stay_and_all_entries_about_commands(
    writer: Writer, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "REFUSALS_KEPT", 5)
    monkeypatch.setattr(auditing, "_PRUNE_EVERY", 10)
    journal = FakeJournal(writer)
    training(journal)
    journal.deliver(command_events()[0])
    entries_before = len(history.audit().items)
    broker = FakeProducer("audit", "broker")
    for number in range(40):
        broker.emit(
            "refused", {"who": str(number), "role": "", "action": "http", "target": "/", "why": ""}
        )
    journal.deliver(broker)
    entries = history.audit().items
    refused = [entry.who for entry in entries if entry.outcome == "refused"]
    assert refused == [str(number) for number in range(39, 39 - len(refused), -1)]
    assert 5 <= len(refused) < 15
    assert len(entries) - len(refused) == entries_before
