"""What a key may do over TCP, and that the rest is refused, noted, and harmless."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside.bus.broker import connections
from lineside.bus.broker.storage.journal import Write
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal
from lineside.bus.client.command_client import CommandClient
from lineside.bus.client.producer import Producer
from lineside.bus.client.reader import Reader
from lineside.bus.errors import (
    BusError,
    ReaderDenied,
)
from lineside.bus.protocol.alerts import RESPONSE_KINDS
from lineside.bus.protocol.commands import Command
from lineside.bus.protocol.events import INTERNAL_RUN, Stream
from lineside.bus.protocol.messages import (
    INVALID,
    LIVE,
    START,
    Ack,
    Cur,
    Evt,
    GapMessage,
    Hi,
    Put,
    Sub,
    Who,
)
from lineside.bus.testing import read_all
from tests.bus.broker.secured_broker import (
    SecuredBroker,
    answer_of,
    command,
    denial_of,
    is_accepted,
)
from tests.bus.conftest import STREAM, BrokerThread, RawClient, StartBroker, record
from tests.support.waiting import wait_until

StartSecured = Callable[[], BrokerThread]
ConnectWith = Callable[[Path], RawClient]


def begin(peer: RawClient, stream: Stream = STREAM) -> None:
    assert is_accepted(peer.request(Hi(stream)))
    assert is_accepted(peer.request(Put(stream, 0, 1, record(0))))


def test_a_run_is_written_by_the_key_that_began_it_and_no_other(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    one, two = secured.key("one", "emit"), secured.key("two", "emit")
    broker_thread = start_secured()
    mine, other = connect_with(one), connect_with(two)
    assert is_accepted(other.request(Hi(STREAM)))  # HI alone claims nothing
    invalid = other.request(Put(STREAM, 0, 2, record(0)))
    assert isinstance(invalid, Ack)
    assert invalid.status == INVALID
    begin(mine)
    assert "belongs to key 'one'" in denial_of(other.request(Put(STREAM, 1, 1, record(1))))
    assert "belongs to key 'one'" in denial_of(other.request(GapMessage(STREAM, 1, 5)))
    for stream in (STREAM, STREAM._replace(producer="rank1"), STREAM._replace(attempt="b")):
        answer = other.request(Hi(stream))
        assert "run run belongs to key 'one', and this is key 'two'" in denial_of(answer)
        assert isinstance(answer, Ack)
        assert (answer.key, answer.next) == (str(stream), 0)
    assert [event.seq for event in read_all(secured.local, ["run"])] == [0]
    reports = secured.refusals(lambda found: sum(one["count"] for one in found) == 6)
    assert {(one["who"], one["role"], one["action"]) for one in reports} == {
        ("two", "emit", "protocol"),
        ("two", "emit", "publish"),
    }

    # Nor after a restart, when the owner is not connected.
    broker_thread.stop()
    start_secured()
    assert "belongs to key 'one'" in denial_of(connect_with(two).request(Hi(STREAM)))
    assert is_accepted(connect_with(one).request(Hi(STREAM)))


def test_runs_of_the_brokers_own_machine_are_nobodys_elses(
    secured: SecuredBroker,
    start_secured: StartSecured,
    start_broker: StartBroker,
    connect_with: ConnectWith,
) -> None:
    alone = start_broker()
    with Producer(secured.local, "before/rank0/a") as producer:
        producer.emit("log")
        producer.flush()
    alone.stop()
    key, admin = secured.key("one", "emit"), secured.key("chief", "admin")
    start_secured()
    with Producer(secured.local, STREAM) as producer:
        producer.emit("log")
        producer.flush()
    peer = connect_with(key)
    for run in ("before", "run"):
        stream = STREAM._replace(run=run, attempt="b")
        assert "belongs to the broker's own machine" in denial_of(peer.request(Hi(stream)))
        assert is_accepted(connect_with(admin).request(Hi(stream)))


def test_a_key_for_some_runs_has_no_others(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    key = secured.key("nlp", "emit", "read", "control", runs=("nlp-*", "shared"))
    start_secured()
    peer = connect_with(key)
    assert is_accepted(peer.request(Hi(STREAM._replace(run="nlp-7"))))
    for run in ("vision", "nlp"):
        text = denial_of(peer.request(Hi(STREAM._replace(run=run))))
        assert f"key 'nlp' is for runs nlp-*, shared, not for {run}" in text
    assert is_accepted(peer.request(Sub("", START, 0, ("nlp-7", "shared/rank0"), 64)))
    for pattern in ("vision", "*", "*/control"):
        assert "is for runs" in denial_of(peer.request(Sub("", START, 0, ("nlp-7", pattern), 64)))
    assert "not for everything" in denial_of(peer.request(Sub("", START, 0, (), 64)))
    assert "not for vision" in denial_of(
        peer.request(Hi(STREAM._replace(run="vision", producer="control")))
    )


def test_a_reader_may_read_and_nothing_else(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    key = secured.key("eyes", "read")
    start_secured()
    with (
        CommandClient(secured.address(key)) as client,
        pytest.raises(BusError, match="takes the role emit: key 'eyes' has read"),
    ):
        client.send("run", Command("stop"))
    [report] = secured.refusals()
    assert report["target"].startswith("run/control/")
    peer = connect_with(key)
    assert "takes the role emit: key 'eyes' has read" in denial_of(peer.request(Hi(STREAM)))
    assert is_accepted(peer.request(Sub("", START, 0, (), 64)))
    assert is_accepted(connect_with(key).request(Sub("mine", START, 0, (), 64)))
    assert read_all(secured.local, ["run"]) == []
    reports = secured.refusals(lambda found: sum(one["count"] for one in found) == 2)
    assert {one["who"] for one in reports} == {"eyes"}


def test_a_durable_name_stays_with_whose_it_is(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    one, two, chief = (
        secured.key("one", "read"),
        secured.key("two", "read"),
        secured.key("chief", "admin"),
    )
    emits = secured.key("emits", "emit")
    start_secured()
    with Reader(secured.local, name="recorder") as recorder:
        recorder.wait_connected(5)
        assert is_accepted(connect_with(one).request(Sub("ones", START, 0, (), 64)))
        for name in ("recorder", "ones", "ones/run"):
            text = denial_of(connect_with(two).request(Sub(name, START, 0, (), 64)))
            assert f"name {name.partition('/')[0]!r} belongs to another client" in text
        assert is_accepted(connect_with(one).request(Sub("ones/run", START, 0, (), 64)))
        text = denial_of(connect_with(emits).request(Sub("x", START, 0, ("new/control",), 64)))
        assert "durable name takes the role read" in text
        assert recorder.poll(0.2) is None  # and was not displaced
        assert is_accepted(connect_with(chief).request(Sub("recorder", START, 0, (), 64)))
        with pytest.raises(ReaderDenied, match="took over"):
            wait_until(lambda: recorder.poll(0.2))


def test_training_answers_on_its_control_stream_and_cannot_command_itself(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    key, other = secured.key("node7", "emit"), secured.key("node8", "emit")
    start_secured()
    mine, theirs = connect_with(key), connect_with(other)
    stream = STREAM._replace(producer="control")
    assert is_accepted(mine.request(Hi(stream)))
    assert is_accepted(mine.request(Put(stream, 0, 1, answer_of("control_on"))))
    assert is_accepted(connect_with(key).request(Sub("", START, 0, ("run/control",), 64)))
    forged = STREAM._replace(producer="control", attempt="forged")
    assert is_accepted(mine.request(Hi(forged)))
    for blob in (command(), answer_of("evaluation_reviewed")):
        text = denial_of(mine.request(Put(forged, 0, 1, blob)))
        assert "a command to run takes the role control" in text
    for kind in ("log", "run_end"):
        assert f"commands and answers, not {kind}" in denial_of(
            mine.request(Put(forged, 0, 1, answer_of(kind)))
        )
    assert "belongs to key 'node7'" in denial_of(theirs.request(Hi(forged)))
    assert "belongs to key 'node7'" in denial_of(
        theirs.request(Sub("", START, 0, ("run/control",), 64))
    )
    assert "takes the role read" in denial_of(theirs.request(Sub("", START, 0, ("*/control",), 64)))
    assert "takes the role read" in denial_of(theirs.request(Sub("", START, 0, ("run/rank0",), 64)))
    reports = secured.refusals(lambda found: any(one["action"] == "command" for one in found))
    assert {"node7", "node8"} >= {one["who"] for one in reports}


def test_a_key_subscribed_before_a_run_began_gets_no_commands_once_another_key_owns_it(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    listens, trains, pilot = (
        secured.key("a", "emit"),
        secured.key("b", "emit"),
        secured.key("c", "control"),
    )
    start_secured()
    early, own = connect_with(listens), connect_with(trains)
    for peer in (early, own):
        assert is_accepted(peer.request(Sub("", LIVE, 0, ("run/control",), 64)))
    begin(own)
    with CommandClient(secured.address(pilot)) as client:
        client.send("run", Command("stop"))
    assert isinstance(own.receive(), Evt)
    assert early.request(Cur(0, 0)) == Who("")  # and not the command
    answer = early.request(Sub("", START, 0, ("run/control",), 64))
    assert "belongs to key 'b'" in denial_of(answer)


def test_streams_that_were_opened_and_not_used_take_no_room(
    secured: SecuredBroker,
    start_secured: StartSecured,
    connect_with: ConnectWith,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_STREAMS_MAX", 3)
    key = secured.key("one", "emit")
    broker_thread = start_secured()
    peer = connect_with(key)
    streams = [STREAM._replace(run=f"run{number}") for number in range(5)]
    for stream in streams:
        assert is_accepted(peer.request(Hi(stream)))
    assert broker_thread.broker._journal.owners == {}
    assert peer.request(Put(streams[0], 0, 1, record(0))) == Who(str(streams[0]))
    begin(peer, streams[0])
    assert broker_thread.broker._journal.owners == {"run0": "one"}
    [known] = broker_thread.broker._connections.values()
    assert len(known.streams) == 3


def test_control_commands_any_run_and_writes_nothing_else(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    key, trains = secured.key("pilot", "control"), secured.key("node7", "emit")
    second = secured.key("second", "control")
    start_secured()
    training = connect_with(trains)
    begin(training)
    pilot = connect_with(key)
    stream = STREAM._replace(producer="control", attempt="c")
    assert is_accepted(pilot.request(Hi(stream)))
    assert "an answer of run takes the role emit" in denial_of(
        pilot.request(Put(stream, 0, 1, answer_of("control_applied")))
    )
    blob = command() + answer_of("evaluation_reviewed", 1)
    assert is_accepted(pilot.request(Put(stream, 0, 2, blob)))
    assert "takes the role emit" in denial_of(pilot.request(Hi(STREAM)))
    assert is_accepted(pilot.request(Sub("", LIVE, 0, ("*/control",), 64)))
    assert "takes the role read" in denial_of(pilot.request(Sub("", LIVE, 0, ("run",), 64)))
    assert "begun by another client" in denial_of(connect_with(second).request(Hi(stream)))
    assert "begun by another client" in denial_of(training.request(Hi(stream)))
    events = read_all(secured.local, ["run/control"])
    assert [event.kind for event in events] == ["command", "evaluation_reviewed"]


def test_control_acknowledges_and_mutes_alerts_also_those_of_no_run(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    keys = [secured.key("pilot", "control"), secured.key("node7", "emit", "annotate")]
    some = secured.key("some", "control", runs=("mine*",))
    chief = secured.key("chief", "admin")
    start_secured()
    pilot, training = connect_with(keys[0]), connect_with(keys[1])
    for run in ("run", INTERNAL_RUN):
        stream = STREAM._replace(run=run, producer="control", attempt="c")
        assert is_accepted(pilot.request(Hi(stream)))
        for seq, kind in enumerate(RESPONSE_KINDS):
            assert is_accepted(pilot.request(Put(stream, seq, 1, answer_of(kind, seq))))
        assert is_accepted(pilot.request(Put(stream, 3, 1, answer_of("checkpoint_request", 3))))
        assert "takes commands and answers, not alert" in denial_of(
            pilot.request(Put(stream, 4, 1, answer_of("alert", 4)))
        )
    begin(training)
    own = STREAM._replace(producer="control")
    assert is_accepted(training.request(Hi(own)))
    assert "alert_muted to run takes the role control" in denial_of(
        training.request(Put(own, 0, 1, answer_of("alert_muted")))
    )
    assert "checkpoint_request to run takes the role control" in denial_of(
        training.request(Put(own, 0, 1, answer_of("checkpoint_request")))
    )
    for producer in ("rank0", "watchdog", "node7", "control"):
        stream = STREAM._replace(run=INTERNAL_RUN, producer=producer)
        assert "takes the role admin" in denial_of(training.request(Hi(stream)))
    control = STREAM._replace(run=INTERNAL_RUN, producer="control", attempt="s")
    assert "is for runs mine*" in denial_of(connect_with(some).request(Hi(control)))
    watchdog = STREAM._replace(run=INTERNAL_RUN, producer="watchdog")
    admin = connect_with(chief)
    assert is_accepted(admin.request(Hi(watchdog)))
    assert is_accepted(admin.request(Put(watchdog, 0, 1, answer_of("alert"))))


def test_a_command_before_a_run_begins_does_not_make_it_the_commanders(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    both, trains = secured.key("both", "control", "emit"), secured.key("node7", "emit")
    broker_thread = start_secured()
    for run, address in (("run", secured.address(both)), ("own", secured.local)):
        with CommandClient(address) as client:
            client.send(run, Command("stop"))
    for is_restarted in (False, True):
        if is_restarted:
            broker_thread.stop()
            start_secured()
        peer = connect_with(trains)
        for stream in (STREAM, STREAM._replace(run="own")):
            assert is_accepted(peer.request(Hi(stream)))
            assert is_accepted(peer.request(Hi(stream._replace(producer="control"))))


def test_no_key_but_an_admins_dashboard_writes_to_the_audit(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    keys = [secured.key("chief", "admin"), secured.key("one", "emit", "control")]
    some = secured.key("some", "admin", runs=("*",))
    start_secured()
    peers = [connect_with(key) for key in keys] + [RawClient(secured.local)]
    for peer in peers:
        for stream in (
            STREAM._replace(run="_bus", producer="broker"),
            STREAM._replace(run="audit"),
            STREAM._replace(run="audit", producer="broker"),
            STREAM._replace(run="audit", producer="control"),
        ):
            text = denial_of(peer.request(Hi(stream)))
            assert "belongs to the audit" in text or "is the broker's own" in text
    audit_stream = STREAM._replace(run="audit", producer="dashboard")
    for peer in (peers[1], connect_with(some)):
        assert "belongs to the audit" in denial_of(peer.request(Hi(audit_stream)))
    for number, peer in enumerate((peers[0], peers[2])):
        assert is_accepted(peer.request(Hi(audit_stream)))
        assert "takes only refused, not log" in denial_of(
            peer.request(Put(audit_stream, number, 1, record(0)))
        )
        assert is_accepted(peer.request(Put(audit_stream, number, 1, answer_of("refused"))))
    peers[2].close()


def test_a_flood_of_refusals_is_few_reports(
    secured: SecuredBroker,
    start_secured: StartSecured,
    connect_with: ConnectWith,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = secured.key("eyes", "read")
    broker_thread = start_secured()
    peer = connect_with(key)
    with caplog.at_level(logging.WARNING):
        began = time.monotonic()
        for number in range(2000):
            peer.send(Hi(STREAM._replace(run=f"run{number}")))
            peer.receive()
        secured.refusals(lambda found: any(one["count"] > 1 for one in found))
        assert time.monotonic() - began < 60
    broker_thread.stop()
    start_secured()
    reports = secured.refusals(lambda found: sum(one["count"] for one in found) >= 2000)
    assert sum(one["count"] for one in reports) == 2000
    assert len(reports) <= 100
    assert {one["who"] for one in reports} == {"eyes"}


def test_owners_are_kept_also_by_a_journal_from_before_there_were_any(home: Path) -> None:
    path = home / "journal.db"
    SqliteJournal(path).close()
    with sqlite3.connect(path) as before:
        before.execute("DROP TABLE owners")
    before.close()
    journal = SqliteJournal(path)
    assert journal.owners == {}
    journal.append([Write(STREAM, 0, 1, b"one")], {}, 0, {"run": "node7"})
    journal.append([], {}, 0, {"@name": ""})
    journal.close()
    again = SqliteJournal(path)
    assert again.owners == {"run": "node7", "@name": ""}
    assert set(again.streams()) == {STREAM}
    again.close()
