"""Who is let in over TCP, and that whoever is not is told, noted, and harmless."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from lineside.bus import reader as reading
from lineside.bus.broker import Broker
from lineside.bus.commands import Command
from lineside.bus.controller import Controller
from lineside.bus.errors import (
    AddressError,
    AddressInUse,
    BrokerUnreachable,
    BusError,
    KeyRefused,
    ReaderDenied,
    SettingsError,
)
from lineside.bus.keyfile import KeyFile
from lineside.bus.messages import (
    DENIED,
    LIVE,
    OK,
    START,
    Ack,
    GapMessage,
    Hi,
    Put,
    Sub,
    Who,
    decode,
)
from lineside.bus.producer import Producer
from lineside.bus.reader import Reader
from lineside.bus.settings import Settings
from lineside.bus.testing import read_all
from lineside.bus.wire import Encoder
from tests.bus.conftest import STREAM, Peer, Serve, Served, record, records, wait_for
from tests.bus.walls import LISTEN, Wall


@pytest.fixture
def wall(home: Path) -> Wall:
    return Wall(home)


@pytest.fixture
def open_wall(wall: Wall, serve: Serve) -> Callable[[], Served]:
    """Starts the broker once there are keys."""

    def start() -> Served:
        served = serve(listen=LISTEN)
        wall.endpoint = served.broker.endpoint
        return served

    return start


Connect = Callable[[Path], Peer]


@pytest.fixture
def remote(wall: Wall) -> Iterator[Connect]:
    """Connections over TCP with a key."""
    peers: list[Peer] = []

    def connect(file: Path) -> Peer:
        peers.append(Peer(wall.address(file)))
        return peers[-1]

    yield connect
    for each in peers:
        each.close()


def denied(answer: object) -> str:
    assert isinstance(answer, Ack)
    assert answer.status == DENIED
    return answer.text


def taken(answer: object) -> bool:
    return isinstance(answer, Ack) and answer.status == OK


def command() -> bytes:
    data = Command("stop", issued_by="me").data()
    return Encoder().encode(0, 1.5, 7, "command", 0, None, 0, data)


def answer_of(kind: str) -> bytes:
    return Encoder().encode(0, 1.5, 7, kind, 0, None, 0, {"id": "x"})


def test_without_a_key_nobody_listens_on_a_network(settings: Settings, serve: Serve) -> None:
    with pytest.raises(SettingsError, match="lineside keys new NAME --role emit"):
        serve(listen=LISTEN)
    with pytest.raises(AddressError, match=r"expected tcp://0\.0\.0\.0:7430"):
        serve(listen="ipc:///somewhere")


def test_a_broker_whose_own_address_is_on_a_network_says_how_it_is_done(home: Path) -> None:
    env = {"LINESIDE_HOME": str(home), "LINESIDE_BROKER": "tcp://127.0.0.1:7430"}
    with pytest.raises(AddressError, match="--listen tcp://"):
        Broker(Settings.from_env(env)).startup()


def test_a_port_in_use_is_told(wall: Wall, serve: Serve) -> None:
    wall.key("a", "emit")
    with zmq.Context() as context, context.socket(zmq.ROUTER) as taken_:
        port = taken_.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(AddressInUse, match="already in use: another broker"):
            serve(listen=f"tcp://127.0.0.1:{port}")
    with pytest.raises(AddressError, match="cannot be listened at"):
        serve(listen="tcp://192.0.2.1:7430")


def test_a_key_gets_its_events_through_and_the_own_machine_needs_none(
    wall: Wall, open_wall: Callable[[], Served]
) -> None:
    key, reads = wall.key("node7", "emit"), wall.key("eyes", "read")
    open_wall()
    with Producer(wall.address(key), STREAM) as producer:
        for _ in range(100):
            producer.emit("log")
        producer.flush()
    assert len(read_all(wall.local, ["run"])) == 100
    assert len(read_all(wall.address(reads), ["run"])) == 100
    assert wall.quiet()


def test_a_key_that_is_not_listed_or_revoked_is_refused_and_noted(
    wall: Wall, open_wall: Callable[[], Served], home: Path
) -> None:
    good, gone = wall.key("good", "emit"), wall.key("gone", "read", "emit")
    kept = home / "kept.key"
    kept.write_bytes(gone.read_bytes())
    kept.chmod(0o600)
    open_wall()
    wall.keyring.revoke("gone")
    public, secret = (part.decode() for part in zmq.curve_keypair())
    unlisted = home / "unlisted.key"
    KeyFile("x", public, secret, KeyFile.read(good).broker).write(unlisted)
    for file in (kept, unlisted):
        with (
            Reader(wall.address(file), start=LIVE) as reader,
            pytest.raises(KeyRefused, match="not in the broker's list, or was revoked"),
        ):
            reader.wait_connected(0.2)
    told = wall.refused(lambda said: len(said) >= 2)
    assert {(one["who"], one["role"], one["action"]) for one in told} == {
        ("gone", "emit, read", "connect"),
        ("127.0.0.1", "", "connect"),
    }
    assert all(one["target"] == wall.endpoint and one["count"] >= 1 for one in told)
    assert any("was revoked at" in one["why"] for one in told)
    with Producer(wall.address(good), STREAM) as producer:
        producer.emit("log")
        producer.flush()


def test_a_key_made_for_another_broker_is_refused_and_noted(
    wall: Wall, open_wall: Callable[[], Served], home: Path
) -> None:
    key = KeyFile.read(wall.key("a", "emit"))
    other, _ = (part.decode() for part in zmq.curve_keypair())
    wrong = home / "wrong.key"
    KeyFile(key.name, key.public, key.secret, other).write(wrong)
    open_wall()
    with Producer(wall.address(wrong), STREAM) as producer:
        producer.emit("log")
        with pytest.raises(KeyRefused, match="not the one that this key was made for"):
            producer.flush(0.2)
    [told] = wall.refused()
    assert (told["who"], told["action"]) == ("", "connect")
    assert "not with this broker's public key" in told["why"]


def test_nobody_at_all_is_told_as_before(wall: Wall, home: Path) -> None:
    key = wall.key("a", "read")
    with (
        Reader(f"tcp://127.0.0.1:1?key={key}") as reader,
        pytest.raises(BrokerUnreachable, match="no broker answered") as told,
    ):
        reader.wait_connected(0.1)
    assert not isinstance(told.value, KeyRefused)


def test_a_revoked_key_is_done_with_on_its_standing_connection_too(
    wall: Wall, open_wall: Callable[[], Served], remote: Connect
) -> None:
    key = wall.key("a", "emit", "read")
    served = open_wall()
    emitter, reader = remote(key), remote(key)
    assert taken(emitter.ask(Hi(STREAM)))
    assert taken(emitter.ask(Put(STREAM, 0, 1, record(0))))
    assert taken(reader.ask(Sub("", LIVE, 0, ("run",), 64)))
    wall.keyring.revoke("a")
    wait_for(lambda: not served.broker._peers)
    assert "its key was revoked" in denied(emitter.ask(Put(STREAM, 1, 1, record(1))))
    assert "its key was revoked" in denied(emitter.ask(Hi(STREAM)))
    with Producer(wall.local, STREAM) as local:
        local.lose()
        local.emit("log")
        local.flush()
    assert reader.silent()
    assert len(read_all(wall.local, ["run"])) == 2
    [told] = wall.refused()
    assert (told["who"], told["action"], told["target"]) == ("a", "publish", str(STREAM))


def test_a_new_key_of_the_same_name_goes_on_where_the_revoked_one_was(
    wall: Wall, open_wall: Callable[[], Served], remote: Connect
) -> None:
    old = wall.key("a", "emit")
    served = open_wall()
    first = remote(old)
    assert taken(first.ask(Hi(STREAM)))
    assert taken(first.ask(Put(STREAM, 0, 2, records(0, 2))))
    wall.keyring.revoke("a")
    second = remote(wall.key("a", "emit"))
    assert second.ask(Hi(STREAM)) == Ack(str(STREAM), 2, OK, served.broker._journal.head)
    wait_for(lambda: len(served.broker._peers) == 1)
    assert "revoked" in denied(first.ask(Put(STREAM, 2, 1, record(2))))


def test_a_run_is_written_by_the_key_that_began_it_and_no_other(
    wall: Wall, open_wall: Callable[[], Served], remote: Connect
) -> None:
    one, two = wall.key("one", "emit"), wall.key("two", "emit")
    served = open_wall()
    mine, other = remote(one), remote(two)
    assert taken(mine.ask(Hi(STREAM)))
    for stream in (STREAM, STREAM._replace(producer="rank1"), STREAM._replace(attempt="b")):
        answer = other.ask(Hi(stream))
        assert "run run belongs to key 'one', and this is key 'two'" in denied(answer)
        assert isinstance(answer, Ack)
        assert (answer.key, answer.next) == (str(stream), 0)
    other.tell(Put(STREAM, 0, 1, record(0)))
    other.tell(GapMessage(STREAM, 0, 5))
    assert taken(mine.ask(Put(STREAM, 0, 1, record(0))))
    assert [event.seq for event in read_all(wall.local, ["run"])] == [0]
    told = wall.refused(lambda said: len(said) == 3)
    assert {(t["who"], t["role"], t["action"]) for t in told} == {("two", "emit", "publish")}

    # Nor after a restart, when it is no longer anybody's connection.
    served.stop()
    open_wall()
    assert "belongs to key 'one'" in denied(remote(two).ask(Hi(STREAM)))
    assert taken(remote(one).ask(Hi(STREAM)))


def test_runs_of_the_brokers_own_machine_are_nobodys_elses(
    wall: Wall, open_wall: Callable[[], Served], serve: Serve, remote: Connect
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


def test_a_key_for_some_runs_has_no_others(
    wall: Wall, open_wall: Callable[[], Served], remote: Connect
) -> None:
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


def test_what_a_reader_may_not(
    wall: Wall, open_wall: Callable[[], Served], remote: Connect
) -> None:
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


def test_a_durable_name_stays_with_whose_it_is(
    wall: Wall, open_wall: Callable[[], Served], remote: Connect
) -> None:
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
    wall: Wall, open_wall: Callable[[], Served], remote: Connect
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


def test_control_commands_any_run_and_writes_nothing_else(
    wall: Wall, open_wall: Callable[[], Served], remote: Connect
) -> None:
    key, trains = wall.key("pilot", "control"), wall.key("node7", "emit")
    second = wall.key("second", "control")
    open_wall()
    training = remote(trains)
    assert taken(training.ask(Hi(STREAM)))
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
    assert [event.kind for event in read_all(wall.local, ["run"])] == ["command"]


def test_a_command_before_a_run_begins_does_not_make_it_the_commanders(
    wall: Wall, open_wall: Callable[[], Served], remote: Connect
) -> None:
    both, trains = wall.key("both", "control", "emit"), wall.key("node7", "emit")
    open_wall()
    with Controller(wall.address(both), "run") as controller:
        controller.send(Command("stop"))
    peer = remote(trains)
    assert taken(peer.ask(Hi(STREAM)))
    assert taken(peer.ask(Hi(STREAM._replace(producer="control"))))


def test_the_audit_is_written_by_nobody_from_outside(
    wall: Wall, open_wall: Callable[[], Served], remote: Connect
) -> None:
    keys = [wall.key("chief", "admin"), wall.key("one", "emit", "control")]
    open_wall()
    peers = [remote(key) for key in keys] + [Peer(wall.local)]
    for peer in peers:
        for stream in (
            STREAM._replace(run="audit"),
            STREAM._replace(run="audit", producer="broker"),
            STREAM._replace(run="audit", producer="control"),
        ):
            assert "is the audit's" in denied(peer.ask(Hi(stream)))
    told = STREAM._replace(run="audit", producer="dashboard")
    assert "is the audit's" in denied(peers[1].ask(Hi(told)))
    for number, peer in enumerate((peers[0], peers[2])):
        assert taken(peer.ask(Hi(told)))
        assert "takes only refused, not log" in denied(peer.ask(Put(told, number, 1, record(0))))
        assert taken(peer.ask(Put(told, number, 1, answer_of("refused"))))
    peers[2].close()


def test_a_flood_of_refusals_is_told_in_few_words(
    wall: Wall, open_wall: Callable[[], Served], remote: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    key = wall.key("eyes", "read")
    served = open_wall()
    peer = remote(key)
    with caplog.at_level(logging.WARNING):
        began = time.monotonic()
        for number in range(2000):
            peer.tell(Hi(STREAM._replace(run=f"run{number}")))
            peer.hear()
        wall.refused(lambda said: said[-1:] and said[-1]["who"] == "(others)")
        assert time.monotonic() - began < 60
    served.stop()
    open_wall()
    told = wall.refused(lambda said: sum(one["count"] for one in said) >= 2000)
    assert sum(one["count"] for one in told) == 2000
    assert len(told) <= 400


def test_a_reader_whose_key_is_refused_says_so_and_reads_once_it_is_good(
    wall: Wall,
    open_wall: Callable[[], Served],
    home: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "SILENCE_SECONDS", 0.2)
    good = wall.key("good", "read")
    mine = home / "mine.key"
    mine.write_bytes(wall.key("gone", "read").read_bytes())
    mine.chmod(0o600)
    wall.keyring.revoke("gone")
    open_wall()
    with Producer(wall.local, STREAM) as producer:
        producer.emit("log")
        producer.flush()
    with Reader(wall.address(mine), start=START, streams=["run"]) as reader:
        wait_for(lambda: reader.poll(0.1) or "does not let this key in" in caplog.text)
        assert not reader.connected
        mine.write_bytes(good.read_bytes())
        wait_for(lambda: reader.poll(0.1))
    assert caplog.text.count("does not let this key in") == 1


def test_the_name_of_a_connection_that_left_carries_no_rights(
    wall: Wall, open_wall: Callable[[], Served]
) -> None:
    key = KeyFile.read(wall.key("one", "emit"))
    served = open_wall()
    local = Peer(wall.local)
    assert taken(local.ask(Hi(STREAM)))
    assert taken(local.ask(Sub("", LIVE, 0, ("run",), 64)))
    [name] = served.broker._peers
    local.close()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.ROUTING_ID, name)
        socket.curve_publickey, socket.curve_secretkey = key.public.encode(), key.secret.encode()
        socket.curve_serverkey = key.broker.encode()
        socket.linger = 0
        socket.connect(wall.endpoint)
        socket.send_multipart(Put(STREAM, 0, 1, record(0)).encode())
        assert socket.poll(5000)
        assert decode(socket.recv_multipart()) == Who(str(STREAM))
        socket.send_multipart(Hi(STREAM).encode())
        assert socket.poll(5000)
        assert "belongs to the broker's own machine" in denied(decode(socket.recv_multipart()))
    assert read_all(wall.local, ["run"]) == []


def test_names_of_connections_cannot_be_guessed_from_another_brokers(home: Path) -> None:
    code = (
        "import sys, zmq; from lineside.bus import sockets\n"
        "address = f'ipc://{sys.argv[1]}/bus.sock'\n"
        "context = zmq.Context(); claim = sockets.Claim(address)\n"
        "router, dealer = sockets.router(context, claim), sockets.dealer(context, address)\n"
        "dealer.poll(5000, zmq.POLLOUT); dealer.send(b''); print(router.recv_multipart()[0])\n"
        "context.destroy()"
    )
    names = {
        subprocess.run(
            [sys.executable, "-c", code, str(home)], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    }
    assert len(names) == 3
