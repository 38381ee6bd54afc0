"""Whatever comes in at the network port, the broker lives, keeps to its rules and serves on."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest
import zmq
from hypothesis import strategies as st

from lineside.bus.protocol.messages import CURSOR, LIVE, OFFSET, START
from lineside.bus.protocol.wire import Encoder
from lineside.bus.testing import BrokerProcess, Producer, read_all
from tests.bus.broker.secured_broker import LISTEN, SecuredBroker
from tests.bus.conftest import RawClient, StartBroker
from tests.support.waiting import wait_until

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
HELLO = b"\x04\xc8" + b"\x05HELLO\x01\x00" + bytes(192)


def open_raw_tcp(secured: SecuredBroker) -> socket.socket:
    host, port = secured.endpoint.removeprefix("tcp://").rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=5)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return connection


def assert_serves(secured: SecuredBroker, key: Path, attempt: str) -> None:
    for address, producer_name in ((secured.address(key), "rank0"), (secured.local, "rank1")):
        with Producer(address, f"check/{producer_name}/{attempt}") as producer:
            for _ in range(100):
                producer.emit("log")
            producer.flush(20)
    events = read_all(secured.local, [f"check/*/{attempt}"])
    assert sorted(event.seq for event in events) == sorted([*range(100), *range(100)])


def test_bytes_that_are_no_handshake_leave_it_serving(secured: SecuredBroker) -> None:
    rng = random.Random(11)
    key = secured.key("node7", "emit")
    with BrokerProcess(secured.home, "--listen", LISTEN) as broker:
        secured.wait()
        assert_serves(secured, key, "before")
        before = psutil.Process(broker.pid).num_fds()
        beginnings = [b"", GREETING[:10], GREETING[:11], GREETING, GREETING + HELLO[:2]]
        for number in range(300):
            payload = rng.choice(beginnings) + rng.randbytes(rng.randrange(400))
            if number % 7 == 0:  # a frame whose length is 2^62 bytes
                payload = GREETING + b"\x06" + struct.pack(">Q", 1 << 62) + rng.randbytes(100)
            with open_raw_tcp(secured) as connection, contextlib.suppress(OSError):
                connection.sendall(payload)
                if number % 3 == 0:
                    connection.settimeout(0.01)
                    connection.recv(200)
        assert_serves(secured, key, "after")
        wait_until(lambda: psutil.Process(broker.pid).num_fds() <= before + 2)
        assert psutil.Process(broker.pid).memory_info().rss < 400 << 20
    log = secured.home / "broker.log"
    assert "Traceback" not in log.read_text()


def test_connections_that_never_finish_their_handshake_keep_no_client_out(
    secured: SecuredBroker,
) -> None:
    key = secured.key("node7", "emit")
    with BrokerProcess(secured.home, "--listen", LISTEN) as broker, contextlib.ExitStack() as stack:
        secured.wait()
        process = psutil.Process(broker.pid)
        before = process.num_fds()
        slow = [stack.enter_context(open_raw_tcp(secured)) for _ in range(400)]
        for at, connection in enumerate(slow):
            connection.sendall((GREETING + HELLO)[: at % len(GREETING + HELLO)])
        assert_serves(secured, key, "during")

        # They are cut off, however they drip on.
        def are_closed() -> bool:
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.send(b"\0")
            return process.num_fds() <= before + 5

        wait_until(are_closed)
        assert_serves(secured, key, "after")
        [report] = [one for one in secured.refusals() if one["action"] == "connect"][:1]
        assert report["who"] == ""


ROLES = ("emit", "read", "control", "admin")
KINDS = ("command", "evaluation_reviewed", "log", "control_applied", "run_end", "refused")
number = st.sampled_from([0, 1, 5, (1 << 63) - 1, 1 << 63]).map(lambda n: struct.pack("<Q", n))
noise = st.binary(max_size=12) | number


def streams(role: str) -> st.SearchStrategy[bytes]:
    runs = st.sampled_from([f"of-{role}", "audit", "_bus", "local"])
    producers = st.sampled_from(["rank0", "control", "broker", "dashboard"])
    return st.builds(lambda run, producer: f"{run}/{producer}/a".encode(), runs, producers)


def blob(kind: str, seq: int) -> bytes:
    return Encoder().encode(seq, 1.0, 1, kind, 0, None, 0, {"id": "x"})


def messages(role: str) -> st.SearchStrategy[list[bytes]]:
    stream_names = streams(role)
    blobs = st.builds(blob, st.sampled_from(KINDS), st.sampled_from([0, 1]))
    one = struct.pack("<Q", 1)
    first = st.sampled_from([0, 1, 2]).map(lambda n: struct.pack("<Q", n))
    start = st.sampled_from([CURSOR, START, LIVE, OFFSET]).map(str.encode)
    patterns = st.sampled_from([b"\x90", b"\x91\xa1*", b"\x91\xa7*/audit", b"\x91\xa9*/control"])
    shapes = st.one_of(
        st.tuples(st.just(b"HI"), stream_names, st.just(b"\x80")),
        st.tuples(st.just(b"PUT"), stream_names, first, st.just(one), blobs),
        st.tuples(st.just(b"GAP"), stream_names, number, number, number),
        st.tuples(st.just(b"SUB"), noise, start, number, patterns, number),
        st.tuples(st.just(b"CUR"), number, number),
        st.lists(st.sampled_from([b"HI", b"PUT", b"SUB", b"WHO", b"ACK"]) | noise, max_size=6),
    )
    return shapes.map(list)


@pytest.fixture
def client_of_role(
    secured: SecuredBroker, start_broker: StartBroker
) -> Iterator[Callable[[str], RawClient]]:
    """A standing connection in each role."""
    keys = {role: secured.key(role, role) for role in ROLES}
    secured.endpoint = start_broker(listen=LISTEN).broker.endpoint
    with Producer(secured.local, "local/rank0/a") as local:
        local.emit("log")
        local.flush()
    peers = {role: RawClient(secured.address(keys[role])) for role in ROLES}
    yield peers.__getitem__
    for peer in peers.values():
        peer.close()


def test_no_message_of_any_role_does_what_the_role_may_not(
    secured: SecuredBroker, client_of_role: Callable[[str], RawClient]
) -> None:
    conversations = st.sampled_from(ROLES).flatmap(
        lambda role: st.tuples(st.just(role), st.lists(messages(role), min_size=1, max_size=8))
    )

    @hypothesis.settings(max_examples=400)
    @hypothesis.given(conversations)
    def send_frames(given: tuple[str, list[list[bytes]]]) -> None:
        role, sent = given
        peer = client_of_role(role)
        for frames in sent:
            peer.socket.send_multipart(frames or [b""])
        while peer.socket.poll(0):
            peer.socket.recv_multipart()

    send_frames()
    for role in ROLES:  # whatever they sent has been taken once this is answered
        peer = client_of_role(role)
        peer.socket.send_multipart([b"CUR", bytes(8), bytes(8)])
        assert peer.socket.poll(5000, zmq.POLLIN)
    assert_serves(secured, secured.keyring.folder / "emit.key", "after")
    written: dict[str, set[tuple[str, str]]] = {}
    for stream in ("of-read", "of-control", "of-emit", "local", "audit"):
        for producer in ("rank0", "control", "broker", "dashboard"):
            events = read_all(secured.local, [f"{stream}/{producer}"])
            written[stream] = written.get(stream, set()) | {(producer, e.kind) for e in events}
    assert written["of-read"] == set()
    assert written["of-control"] <= {("control", "command"), ("control", "evaluation_reviewed")}
    assert {kind for producer, kind in written["of-emit"] if producer == "control"} <= {
        "control_applied"
    }
    assert written["audit"] <= {("broker", "refused"), ("dashboard", "refused")}
