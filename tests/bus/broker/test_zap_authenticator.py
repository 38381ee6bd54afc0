"""Which keys are accepted over TCP; refused ones are answered, reported and harmless."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest
import zmq

from lineside.bus.auth.key_file import KeyFile
from lineside.bus.auth.roles import LOCAL
from lineside.bus.broker.service import Broker
from lineside.bus.broker.zap_authenticator import principal_of, public_key_of
from lineside.bus.client import reader as reader_module
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
from tests.bus.broker.secured_broker import LISTEN, SecuredBroker, denial_of, is_accepted
from tests.bus.conftest import STREAM, BrokerThread, RawClient, StartBroker, record, records
from tests.support.waiting import wait_until

StartSecured = Callable[[], BrokerThread]
ConnectWith = Callable[[Path], RawClient]


def test_without_a_key_the_broker_does_not_listen_on_a_network(
    settings: Settings, start_broker: StartBroker
) -> None:
    with pytest.raises(SettingsError, match="lineside keys new NAME --role emit"):
        start_broker(listen=LISTEN)
    with pytest.raises(AddressError, match=r"expected tcp://0\.0\.0\.0:7430"):
        start_broker(listen="ipc:///somewhere")


def test_the_own_machine_keeps_its_broker_when_the_last_key_is_revoked(
    secured: SecuredBroker,
    start_secured: StartSecured,
    connect_with: ConnectWith,
    home: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = home / "kept.key"
    kept.write_bytes(secured.key("a", "emit").read_bytes())
    kept.chmod(0o600)
    secured.keyring.revoke("a")
    start_secured()
    assert "every key is revoked: no client can connect" in caplog.text
    with Producer(secured.local, STREAM) as producer:
        producer.emit("log")
        producer.flush()
    with (
        Reader(secured.address(kept), start=LIVE) as reader,
        pytest.raises(KeyRefused, match="or was revoked"),
    ):
        reader.wait_connected(0.2)
    assert is_accepted(
        connect_with(secured.key("b", "emit")).request(Hi(STREAM._replace(run="other")))
    )


def test_the_error_of_a_network_address_of_its_own_names_the_option_listen(home: Path) -> None:
    env = {"LINESIDE_HOME": str(home), "LINESIDE_BROKER": "tcp://127.0.0.1:7430"}
    with pytest.raises(AddressError, match="--listen tcp://"):
        Broker(Settings.from_env(env)).startup()


def test_a_port_in_use_is_an_error(secured: SecuredBroker, start_broker: StartBroker) -> None:
    secured.key("a", "emit")
    with zmq.Context() as context, context.socket(zmq.ROUTER) as occupied:
        port = occupied.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(AddressInUse, match="already in use: another broker"):
            start_broker(listen=f"tcp://127.0.0.1:{port}")
    with pytest.raises(AddressError, match="cannot be bound"):
        start_broker(listen="tcp://192.0.2.1:7430")


def test_a_key_gets_its_events_through_and_the_own_machine_needs_none(
    secured: SecuredBroker, start_secured: StartSecured
) -> None:
    key, reads = secured.key("node7", "emit"), secured.key("eyes", "read")
    start_secured()
    with Producer(secured.address(key), STREAM) as producer:
        for _ in range(100):
            producer.emit("log")
        producer.flush()
    assert len(read_all(secured.local, ["run"])) == 100
    assert len(read_all(secured.address(reads), ["run"])) == 100
    assert secured.has_no_refusals()


def test_a_key_that_is_not_listed_or_revoked_is_refused_and_noted(
    secured: SecuredBroker, start_secured: StartSecured, home: Path
) -> None:
    good, gone = secured.key("good", "emit"), secured.key("gone", "read", "emit")
    kept = home / "kept.key"
    kept.write_bytes(gone.read_bytes())
    kept.chmod(0o600)
    start_secured()
    secured.keyring.revoke("gone")
    public, secret = (part.decode() for part in zmq.curve_keypair())
    unlisted = home / "unlisted.key"
    KeyFile("x", public, secret, KeyFile.read(good).broker).write(unlisted)
    for file in (kept, unlisted):
        with (
            Reader(secured.address(file), start=LIVE) as reader,
            pytest.raises(KeyRefused, match="not in the broker's list, or was revoked"),
        ):
            reader.wait_connected(0.2)
    reports = secured.refusals(lambda found: len({one["who"] for one in found}) >= 2)
    assert {(one["who"], one["role"], one["action"]) for one in reports} == {
        ("gone", "emit, read", "connect"),
        ("127.0.0.1", "", "connect"),
    }
    assert all(one["target"] == secured.endpoint and one["count"] >= 1 for one in reports)
    assert any("was revoked at" in one["why"] for one in reports)
    with Producer(secured.address(good), STREAM) as producer:
        producer.emit("log")
        producer.flush()


def test_a_key_made_for_another_broker_is_refused_and_noted(
    secured: SecuredBroker, start_secured: StartSecured, home: Path
) -> None:
    key = KeyFile.read(secured.key("a", "emit"))
    other, _ = (part.decode() for part in zmq.curve_keypair())
    wrong = home / "wrong.key"
    KeyFile(key.name, key.public, key.secret, other).write(wrong)
    start_secured()
    with Producer(secured.address(wrong), STREAM) as producer:
        producer.emit("log")
        with pytest.raises(KeyRefused, match="not the one that this key was made for"):
            producer.flush(0.2)
    [report] = secured.refusals()
    assert (report["who"], report["action"]) == ("", "connect")
    assert "not with this broker's public key" in report["why"]


def test_without_a_broker_the_error_is_not_about_the_key(
    secured: SecuredBroker, home: Path
) -> None:
    key = secured.key("a", "read")
    with (
        Reader(f"tcp://127.0.0.1:1?key={key}") as reader,
        pytest.raises(BrokerUnreachable, match="no broker answered") as caught,
    ):
        reader.wait_connected(0.1)
    assert not isinstance(caught.value, KeyRefused)


def test_a_revoked_key_is_done_with_on_its_standing_connection_too(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    key = secured.key("a", "emit", "read")
    broker_thread = start_secured()
    emitter, reader = connect_with(key), connect_with(key)
    assert is_accepted(emitter.request(Hi(STREAM)))
    assert is_accepted(emitter.request(Put(STREAM, 0, 1, record(0))))
    assert is_accepted(reader.request(Sub("", LIVE, 0, ("run",), 64)))
    secured.keyring.revoke("a")
    wait_until(lambda: not broker_thread.broker._connections)
    assert "its key was revoked" in denial_of(emitter.request(Put(STREAM, 1, 1, record(1))))
    assert "its key was revoked" in denial_of(emitter.request(Hi(STREAM)))
    with Producer(secured.local, STREAM) as local:
        local.skip()
        local.emit("log")
        local.flush()
    assert reader.receives_nothing()
    assert len(read_all(secured.local, ["run"])) == 2
    [reports] = secured.refusals()
    assert (reports["who"], reports["action"], reports["target"]) == ("a", "publish", str(STREAM))


def test_a_new_key_of_the_same_name_goes_on_where_the_revoked_one_was(
    secured: SecuredBroker, start_secured: StartSecured, connect_with: ConnectWith
) -> None:
    old = secured.key("a", "emit")
    broker_thread = start_secured()
    first = connect_with(old)
    assert is_accepted(first.request(Hi(STREAM)))
    assert is_accepted(first.request(Put(STREAM, 0, 2, records(0, 2))))
    secured.keyring.revoke("a")
    second = connect_with(secured.key("a", "emit"))
    assert second.request(Hi(STREAM)) == Ack(
        str(STREAM), 2, OK, broker_thread.broker._journal.head, ANY
    )
    wait_until(lambda: len(broker_thread.broker._connections) == 1)
    assert "revoked" in denial_of(first.request(Put(STREAM, 2, 1, record(2))))


def test_a_reader_logs_that_its_key_is_refused_and_reads_once_it_is_accepted(
    secured: SecuredBroker,
    start_secured: StartSecured,
    home: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader_module, "SILENCE_SECONDS", 0.2)
    good = secured.key("good", "read")
    mine = home / "mine.key"
    mine.write_bytes(secured.key("gone", "read").read_bytes())
    mine.chmod(0o600)
    secured.keyring.revoke("gone")
    start_secured()
    with Producer(secured.local, STREAM) as producer:
        producer.emit("log")
        producer.flush()
    with Reader(secured.address(mine), start=START, streams=["run"]) as reader:
        wait_until(lambda: reader.poll(0.1) or "does not let this key in" in caplog.text)
        assert not reader.is_subscribed
        mine.write_bytes(good.read_bytes())
        wait_until(lambda: reader.poll(0.1))
    assert caplog.text.count("does not let this key in") == 1


def test_the_name_of_a_connection_that_left_carries_no_rights(
    secured: SecuredBroker, start_secured: StartSecured
) -> None:
    key = KeyFile.read(secured.key("one", "emit"))
    broker_thread = start_secured()
    local = RawClient(secured.local)
    assert is_accepted(local.request(Hi(STREAM)))
    assert is_accepted(local.request(Put(STREAM, 0, 1, record(0))))
    assert is_accepted(local.request(Sub("", LIVE, 0, ("run",), 64)))
    [name] = broker_thread.broker._connections
    local.close()
    # Until then libzmq ignores another connection of that name.
    wait_until(lambda: not broker_thread.broker._identities, "the broker notices that it left")
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.ROUTING_ID, name)
        socket.curve_publickey, socket.curve_secretkey = key.public.encode(), key.secret.encode()
        socket.curve_serverkey = key.broker.encode()
        socket.linger = 0
        socket.connect(secured.endpoint)
        socket.send_multipart(Put(STREAM, 1, 1, record(1)).encode())
        assert socket.poll(5000)
        assert decode(socket.recv_multipart()) == Who(str(STREAM))
        socket.send_multipart(Hi(STREAM).encode())
        assert socket.poll(5000)
        assert "belongs to the broker's own machine" in denial_of(decode(socket.recv_multipart()))
    assert [event.seq for event in read_all(secured.local, ["run"])] == [0]


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
                assert (principal_of(None, public_key_of(frame)) == LOCAL) is is_here


def test_names_of_connections_cannot_be_guessed_from_another_brokers(home: Path) -> None:
    code = (
        "import sys, zmq; from lineside.bus import sockets\n"
        "address = f'ipc://{sys.argv[1]}/bus.sock'\n"
        "context = zmq.Context()\n"
        "router, dealer = sockets.router(context, address), sockets.dealer(context, address)\n"
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
