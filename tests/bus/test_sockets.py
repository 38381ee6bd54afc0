"""Addresses, the lock on one, and sockets without a peer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zmq

from lineside.bus import sockets
from lineside.bus.broker.address_lock import AddressLock, listening_pid
from lineside.bus.errors import AddressError, AddressInUse, SettingsError
from lineside.bus.protocol.addresses import ipc_path
from tests.support.waiting import DEADLINE

RAISES_AGAIN = pytest.raises(zmq.Again)
RAISES_UNREACHABLE = pytest.raises(zmq.ZMQError, match=r"No route to host|unreachable")


def test_an_ipc_address_names_its_socket() -> None:
    assert ipc_path("ipc:///run/lineside/bus.sock") == Path("/run/lineside/bus.sock")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "expected ipc:///absolute"),
        ("/run/bus.sock", "expected ipc:///absolute"),
        ("tcp://127.0.0.1:7430", "--listen tcp://"),
        ("inproc://bus", "expected ipc:///absolute"),
        ("udp://127.0.0.1:1", "expected ipc:///absolute"),
        ("ipc://", "absolute path"),
        ("ipc://bus.sock", "absolute path"),
        ("ipc://@bus", "absolute path"),
        ("ipc:///run/", "absolute path"),
        ("ipc:///run/\0x", "absolute path"),
        ("ipc:///" + "x" * 107, "has 108 bytes and a Unix socket takes 107"),
        ("ipc:///" + "é" * 54, "has 109 bytes"),
    ],
)
def test_the_error_of_an_invalid_address_names_a_valid_one(address: str, why: str) -> None:
    with pytest.raises(AddressError, match=why) as error_info:
        ipc_path(address)
    assert error_info.value.address == address
    assert error_info.value.exit_code == 2


def test_the_longest_path_that_is_allowed_works(home: Path) -> None:
    address = f"ipc://{home}/{'x' * (107 - len(str(home)) - 1)}"
    address_lock = AddressLock(address)
    with zmq.Context() as context, sockets.router(context, address_lock.address):
        pass
    address_lock.release()


def test_the_socket_and_its_folder_are_its_users_alone(home: Path) -> None:
    address = f"ipc://{home}/new/deeper/bus.sock"
    address_lock = AddressLock(address)
    with zmq.Context() as context, sockets.router(context, address_lock.address):
        path = ipc_path(address)
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert Path(f"{path}.lock").stat().st_mode & 0o777 == 0o600
    address_lock.release()


def test_an_address_is_claimed_once_and_free_again_after(home: Path) -> None:
    address = f"ipc://{home}/bus.sock"
    address_lock = AddressLock(address)
    assert listening_pid(address) == os.getpid()
    with pytest.raises(AddressInUse, match=f"process {os.getpid()} listens there"):
        AddressLock(address)
    address_lock.release()
    AddressLock(address).release()
    assert listening_pid(f"ipc://{home}/other") == 0


def test_a_folder_that_cannot_be_made_is_an_error(home: Path) -> None:
    (home / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be made"):
        AddressLock(f"ipc://{home}/file/bus.sock")


def test_a_path_that_cannot_be_bound_is_an_error(home: Path) -> None:
    (home / "bus.sock").mkdir()
    (home / "bus.sock" / "inside").write_text("")
    address_lock = AddressLock(f"ipc://{home}/bus.sock")
    with zmq.Context() as context, pytest.raises(AddressError, match="cannot be bound"):
        sockets.router(context, address_lock.address)
    address_lock.release()


def test_a_send_without_a_broker_raises_and_closing_does_not_wait(home: Path) -> None:
    began = time.monotonic()
    address = f"ipc://{home}/none"
    with zmq.Context() as context, sockets.dealer(context, address) as socket, RAISES_AGAIN:
        socket.send(b"x", zmq.NOBLOCK)
    assert time.monotonic() - began < 2


def test_a_client_that_lags_outlives_a_broker_that_ends(home: Path) -> None:
    source = """
import sys, zmq
from lineside.bus import sockets
sockets.HEARTBEAT_MS = 200
with zmq.Context() as context, sockets.dealer(context, sys.argv[1]) as socket:
    socket.send(b"x")
    sys.stdin.read()
    socket.poll(300)
"""
    address = f"ipc://{home}/bus.sock"
    with (
        zmq.Context() as context,
        subprocess.Popen(
            [sys.executable, "-c", source, address],
            stdin=subprocess.PIPE,
        ) as client,
    ):
        with context.socket(zmq.ROUTER) as router:
            router.setsockopt(zmq.HEARTBEAT_IVL, 200)
            router.bind(address)
            assert router.poll(int(DEADLINE * 1000))
            identity, _ = router.recv_multipart()
            for _ in range(600):
                router.send_multipart([identity, b"x" * 100])
            time.sleep(0.5)  # a heartbeat follows them
        time.sleep(0.5)  # the client's own heartbeat is due
        client.communicate(timeout=DEADLINE)
    assert client.returncode == 0


def test_a_send_to_a_peer_that_is_gone_raises(home: Path) -> None:
    address_lock = AddressLock(f"ipc://{home}/bus.sock")
    with (
        zmq.Context() as context,
        sockets.router(context, address_lock.address) as router,
        RAISES_UNREACHABLE,
    ):
        router.send_multipart([b"nobody", b"x"], zmq.NOBLOCK)
    address_lock.release()
