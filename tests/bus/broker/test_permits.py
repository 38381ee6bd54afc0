"""What a key may do over TCP, and that the rest is refused, noted, and harmless."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside.bus.broker import broker as brokers
from lineside.bus.broker.journal import Write
from lineside.bus.broker.sqlite_journal import SqliteJournal
from lineside.bus.client.controller import Controller
from lineside.bus.client.producer import Producer
from lineside.bus.client.reader import Reader
from lineside.bus.errors import (
    BusError,
    ReaderDenied,
)
from lineside.bus.protocol.commands import Command
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import (
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
from tests.bus.broker.walls import Wall, answer_of, command, denied, taken
from tests.bus.conftest import STREAM, Peer, Serve, Served, record, wait_for

Open = Callable[[], Served]
Remote = Callable[[Path], Peer]


def begin(peer: Peer, stream: Stream = STREAM) -> None:
    assert taken(peer.ask(Hi(stream)))
    assert taken(peer.ask(Put(stream, 0, 1, record(0))))


def test_a_run_is_written_by_the_key_that_began_it_and_no_other(
    wall: Wall, open_wall: Open, remote: Remote
) -> None:
    one, two = wall.key("one", "emit"), wall.key("two", "emit")
    served = open_wall()
    mine, other = remote(one), remote(two)
    assert taken(other.ask(Hi(STREAM)))  # who only says that he would write has nothing
    assert "found" in denied(other.ask(Put(STREAM, 0, 2, record(0))))
    begin(mine)
    assert "belongs to key 'one'" in denied(other.ask(Put(STREAM, 1, 1, record(1))))
    assert "belongs to key 'one'" in denied(other.ask(GapMessage(STREAM, 1, 5)))
    for stream in (STREAM, STREAM._replace(producer="rank1"), STREAM._replace(attempt="b")):
        answer = other.ask(Hi(stream))
        assert "run run belongs to key 'one', and this is key 'two'" in denied(answer)
        assert isinstance(answer, Ack)
        assert (answer.key, answer.next) == (str(stream), 0)
    assert [event.seq for event in read_all(wall.local, ["run"])] == [0]
    told = wall.refused(lambda said: len(said) == 3)
    assert {(t["who"], t["role"], t["action"]) for t in told} == {("two", "emit", "publish")}

    # Nor after a restart, when it is no longer anybody's connection.
    served.stop()
    open_wall()
    assert "belongs to key 'one'" in denied(remote(two).ask(Hi(STREAM)))
    assert taken(remote(one).ask(Hi(STREAM)))


def test_runs_of_the_brokers_own_machine_are_nobodys_elses(
    wall: Wall, open_wall: Open, serve: Serve, remote: Remote
) -> None:
    alone = serve()
    with Producer(wall.local, "before/rank0/a") as producer:
        producer.emit("log")
        producer.flush()
    alone.stop()
    key, admin = wall.key("one", "emit"), wall.key("chief", "admin")
    open_wall()
    with Producer(wall.local, STREAM) as producer:
        producer.emit("log")
        producer.flush()
    peer = remote(key)
    for run in ("before", "run"):
        stream = STREAM._replace(run=run, attempt="b")
        assert "belongs to the broker's own machine" in denied(peer.ask(Hi(stream)))
        assert taken(remote(admin).ask(Hi(stream)))


def test_a_key_for_some_runs_has_no_others(wall: Wall, open_wall: Open, remote: Remote) -> None:
    key = wall.key("nlp", "emit", "read", "control", runs=("nlp-*", "shared"))
    open_wall()
    peer = remote(key)
    assert taken(peer.ask(Hi(STREAM._replace(run="nlp-7"))))
    for run in ("vision", "nlp"):
        text = denied(peer.ask(Hi(STREAM._replace(run=run))))
        assert f"key 'nlp' is for runs nlp-*, shared, not for {run}" in text
    assert taken(peer.ask(Sub("", START, 0, ("nlp-7", "shared/rank0"), 64)))
    for pattern in ("vision", "*", "*/control"):
        assert "is for runs" in denied(peer.ask(Sub("", START, 0, ("nlp-7", pattern), 64)))
    assert "not for everything" in denied(peer.ask(Sub("", START, 0, (), 64)))
    assert "not for vision" in denied(
        peer.ask(Hi(STREAM._replace(run="vision", producer="control")))
    )


def test_what_a_reader_may_not(wall: Wall, open_wall: Open, remote: Remote) -> None:
    key = wall.key("eyes", "read")
    open_wall()
    with (
        Controller(wall.address(key), "run") as controller,
        pytest.raises(BusError, match="takes the role emit: key 'eyes' has read"),
    ):
        controller.send(Command("stop"))
    peer = remote(key)
    assert "takes the role emit: key 'eyes' has read" in denied(peer.ask(Hi(STREAM)))
    assert taken(peer.ask(Sub("", START, 0, (), 64)))
    assert taken(peer.ask(Sub("mine", START, 0, (), 64)))
    assert read_all(wall.local, ["run"]) == []
    told = wall.refused(lambda said: len(said) == 2)
    assert {one["who"] for one in told} == {"eyes"}
    assert any(one["target"].startswith("run/control/") for one in told)


def test_a_durable_name_stays_with_whose_it_is(wall: Wall, open_wall: Open, remote: Remote) -> None:
    one, two, chief = wall.key("one", "read"), wall.key("two", "read"), wall.key("chief", "admin")
    emits = wall.key("emits", "emit")
    open_wall()
    with Reader(wall.local, name="recorder") as recorder:
        recorder.wait_connected(5)
        assert taken(remote(one).ask(Sub("ones", START, 0, (), 64)))
        for name in ("recorder", "ones"):
            text = denied(remote(two).ask(Sub(name, START, 0, (), 64)))
            assert f"name {name!r} belongs to somebody else" in text
        text = denied(remote(emits).ask(Sub("x", START, 0, ("new/control",), 64)))
        assert "durable name takes the role read" in text
        assert recorder.poll(0.2) is None  # and was not displaced
        assert taken(remote(chief).ask(Sub("recorder", START, 0, (), 64)))
        with pytest.raises(ReaderDenied, match="took over"):
            wait_for(lambda: recorder.poll(0.2))


def test_training_answers_on_its_control_stream_and_cannot_command_itself(
    wall: Wall, open_wall: Open, remote: Remote
) -> None:
    key, other = wall.key("node7", "emit"), wall.key("node8", "emit")
    open_wall()
    mine, theirs = remote(key), remote(other)
    stream = STREAM._replace(producer="control")
    assert taken(mine.ask(Hi(stream)))
    assert taken(mine.ask(Put(stream, 0, 1, answer_of("control_on"))))
    assert taken(remote(key).ask(Sub("", START, 0, ("run/control",), 64)))
    forged = STREAM._replace(producer="control", attempt="forged")
    assert taken(mine.ask(Hi(forged)))
    text = denied(mine.ask(Put(forged, 0, 1, command())))
    assert "a command to run takes the role control" in text
    for kind in ("log", "run_end"):
        assert f"commands and answers, not {kind}" in denied(
            mine.ask(Put(forged, 0, 1, answer_of(kind)))
        )
    assert "belongs to key 'node7'" in denied(theirs.ask(Hi(forged)))
    assert "belongs to key 'node7'" in denied(theirs.ask(Sub("", START, 0, ("run/control",), 64)))
    assert "takes the role read" in denied(theirs.ask(Sub("", START, 0, ("*/control",), 64)))
    assert "takes the role read" in denied(theirs.ask(Sub("", START, 0, ("run/rank0",), 64)))
    told = wall.refused(lambda said: any(one["action"] == "command" for one in said))
    assert {"node7", "node8"} >= {one["who"] for one in told}


def test_who_asked_for_a_runs_commands_before_it_began_hears_none_once_it_does(
    wall: Wall, open_wall: Open, remote: Remote
) -> None:
    listens, trains, pilot = wall.key("a", "emit"), wall.key("b", "emit"), wall.key("c", "control")
    open_wall()
    early, own = remote(listens), remote(trains)
    for peer in (early, own):
        assert taken(peer.ask(Sub("", LIVE, 0, ("run/control",), 64)))
    begin(own)
    with Controller(wall.address(pilot), "run") as controller:
        controller.send(Command("stop"))
    assert isinstance(own.hear(), Evt)
    assert early.ask(Cur(0, 0)) == Who("")  # and not the command
    answer = early.ask(Sub("", START, 0, ("run/control",), 64))
    assert "belongs to key 'b'" in denied(answer)


def test_streams_that_were_opened_and_not_used_take_no_room(
    wall: Wall, open_wall: Open, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brokers, "_STREAMS_MAX", 3)
    key = wall.key("one", "emit")
    served = open_wall()
    peer = remote(key)
    streams = [STREAM._replace(run=f"run{number}") for number in range(5)]
    for stream in streams:
        assert taken(peer.ask(Hi(stream)))
    assert served.broker._journal.owners == {}
    assert peer.ask(Put(streams[0], 0, 1, record(0))) == Who(str(streams[0]))
    begin(peer, streams[0])
    assert served.broker._journal.owners == {"run0": "one"}
    [known] = served.broker._peers.values()
    assert len(known.streams) == 3


def test_control_commands_any_run_and_writes_nothing_else(
    wall: Wall, open_wall: Open, remote: Remote
) -> None:
    key, trains = wall.key("pilot", "control"), wall.key("node7", "emit")
    second = wall.key("second", "control")
    open_wall()
    training = remote(trains)
    begin(training)
    pilot = remote(key)
    stream = STREAM._replace(producer="control", attempt="c")
    assert taken(pilot.ask(Hi(stream)))
    assert "an answer of run takes the role emit" in denied(
        pilot.ask(Put(stream, 0, 1, answer_of("control_applied")))
    )
    assert taken(pilot.ask(Put(stream, 0, 1, command())))
    assert "takes the role emit" in denied(pilot.ask(Hi(STREAM)))
    assert taken(pilot.ask(Sub("", LIVE, 0, ("*/control",), 64)))
    assert "takes the role read" in denied(pilot.ask(Sub("", LIVE, 0, ("run",), 64)))
    assert "begun by somebody else" in denied(remote(second).ask(Hi(stream)))
    assert "begun by somebody else" in denied(training.ask(Hi(stream)))
    assert [event.kind for event in read_all(wall.local, ["run/control"])] == ["command"]


def test_a_command_before_a_run_begins_does_not_make_it_the_commanders(
    wall: Wall, open_wall: Open, remote: Remote
) -> None:
    both, trains = wall.key("both", "control", "emit"), wall.key("node7", "emit")
    served = open_wall()
    for run, address in (("run", wall.address(both)), ("own", wall.local)):
        with Controller(address, run) as controller:
            controller.send(Command("stop"))
    for is_restarted in (False, True):
        if is_restarted:
            served.stop()
            open_wall()
        peer = remote(trains)
        for stream in (STREAM, STREAM._replace(run="own")):
            assert taken(peer.ask(Hi(stream)))
            assert taken(peer.ask(Hi(stream._replace(producer="control"))))


def test_the_audit_is_written_by_nobody_from_outside(
    wall: Wall, open_wall: Open, remote: Remote
) -> None:
    keys = [wall.key("chief", "admin"), wall.key("one", "emit", "control")]
    some = wall.key("some", "admin", runs=("*",))
    open_wall()
    peers = [remote(key) for key in keys] + [Peer(wall.local)]
    for peer in peers:
        for stream in (
            STREAM._replace(run="_bus", producer="broker"),
            STREAM._replace(run="audit"),
            STREAM._replace(run="audit", producer="broker"),
            STREAM._replace(run="audit", producer="control"),
        ):
            text = denied(peer.ask(Hi(stream)))
            assert "is the audit's" in text or "is the broker's own" in text
    told = STREAM._replace(run="audit", producer="dashboard")
    for peer in (peers[1], remote(some)):
        assert "is the audit's" in denied(peer.ask(Hi(told)))
    for number, peer in enumerate((peers[0], peers[2])):
        assert taken(peer.ask(Hi(told)))
        assert "takes only refused, not log" in denied(peer.ask(Put(told, number, 1, record(0))))
        assert taken(peer.ask(Put(told, number, 1, answer_of("refused"))))
    peers[2].close()


def test_a_flood_of_refusals_is_told_in_few_words(
    wall: Wall, open_wall: Open, remote: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    key = wall.key("eyes", "read")
    served = open_wall()
    peer = remote(key)
    with caplog.at_level(logging.WARNING):
        began = time.monotonic()
        for number in range(2000):
            peer.tell(Hi(STREAM._replace(run=f"run{number}")))
            peer.hear()
        wall.refused(lambda said: any(one["target"] == "(others)" for one in said))
        assert time.monotonic() - began < 60
    served.stop()
    open_wall()
    told = wall.refused(lambda said: sum(one["count"] for one in said) >= 2000)
    assert sum(one["count"] for one in told) == 2000
    assert len(told) <= 100
    assert {one["who"] for one in told} == {"eyes"}


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
