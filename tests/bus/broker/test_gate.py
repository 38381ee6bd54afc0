"""Who is let in over TCP, and that whoever is not is told, noted, and harmless."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from lineside.bus.auth.keyfile import KeyFile
from lineside.bus.auth.rights import LOCAL
from lineside.bus.broker.broker import Broker
from lineside.bus.broker.gate import proof_of, rights_at
from lineside.bus.client import reader as reading
from lineside.bus.client.producer import Producer
from lineside.bus.client.reader import Reader
from lineside.bus.errors import (
    AddressError,
    AddressInUse,
    BrokerUnreachable,
    KeyRefused,
    SettingsError,
)
from lineside.bus.protocol.messages import (
    LIVE,
    OK,
    START,
    Ack,
    Hi,
    Put,
    Sub,
    Who,
    decode,
)
from lineside.bus.settings import Settings
from lineside.bus.testing import read_all
from tests.bus.broker.walls import LISTEN, Wall, denied, taken
from tests.bus.conftest import STREAM, Peer, Serve, Served, record, records, wait_for

Open = Callable[[], Served]
Remote = Callable[[Path], Peer]


def test_without_a_key_nobody_listens_on_a_network(settings: Settings, serve: Serve) -> None:
    with pytest.raises(SettingsError, match="lineside keys new NAME --role emit"):
        serve(listen=LISTEN)
    with pytest.raises(AddressError, match=r"expected tcp://0\.0\.0\.0:7430"):
        serve(listen="ipc:///somewhere")


def test_the_own_machine_keeps_its_broker_when_the_last_key_is_revoked(
    wall: Wall, open_wall: Open, remote: Remote, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = home / "kept.key"
    kept.write_bytes(wall.key("a", "emit").read_bytes())
    kept.chmod(0o600)
    wall.keyring.revoke("a")
    open_wall()
    assert "every key is revoked: nobody is let in" in caplog.text
    with Producer(wall.local, STREAM) as producer:
        producer.emit("log")
        producer.flush()
    with (
        Reader(wall.address(kept), start=LIVE) as reader,
        pytest.raises(KeyRefused, match="or was revoked"),
    ):
        reader.wait_connected(0.2)
    assert taken(remote(wall.key("b", "emit")).ask(Hi(STREAM._replace(run="other"))))


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
    wall: Wall, open_wall: Open
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
    wall: Wall, open_wall: Open, home: Path
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
    wall: Wall, open_wall: Open, home: Path
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
    wall: Wall, open_wall: Open, remote: Remote
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
    wall: Wall, open_wall: Open, remote: Remote
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


def test_a_reader_whose_key_is_refused_says_so_and_reads_once_it_is_good(
    wall: Wall,
    open_wall: Open,
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


def test_the_name_of_a_connection_that_left_carries_no_rights(wall: Wall, open_wall: Open) -> None:
    key = KeyFile.read(wall.key("one", "emit"))
    served = open_wall()
    local = Peer(wall.local)
    assert taken(local.ask(Hi(STREAM)))
    assert taken(local.ask(Put(STREAM, 0, 1, record(0))))
    assert taken(local.ask(Sub("", LIVE, 0, ("run",), 64)))
    [name] = served.broker._peers
    local.close()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.ROUTING_ID, name)
        socket.curve_publickey, socket.curve_secretkey = key.public.encode(), key.secret.encode()
        socket.curve_serverkey = key.broker.encode()
        socket.linger = 0
        socket.connect(wall.endpoint)
        socket.send_multipart(Put(STREAM, 1, 1, record(1)).encode())
        assert socket.poll(5000)
        assert decode(socket.recv_multipart()) == Who(str(STREAM))
        socket.send_multipart(Hi(STREAM).encode())
        assert socket.poll(5000)
        assert "belongs to the broker's own machine" in denied(decode(socket.recv_multipart()))
    assert [event.seq for event in read_all(wall.local, ["run"])] == [0]


def test_only_who_opens_the_sockets_file_is_of_this_machine(home: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        local = f"ipc://{home}/probe.sock"
        router.bind(local)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        for address, is_here in ((local, True), (f"tcp://127.0.0.1:{port}", False)):
            with context.socket(zmq.DEALER) as dealer:
                dealer.connect(address)
                dealer.send(b"")
                assert router.poll(5000)
                frame = router.recv(copy=False)
                router.recv_multipart()
                assert (rights_at(None, proof_of(frame)) == LOCAL) is is_here


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
