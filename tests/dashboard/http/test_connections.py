"""Clients that hold a connection without making progress."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import httpx
import pytest

from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.dashboard.app import create_app
from lineside.dashboard.http import connections
from lineside.dashboard.http.connections import BoundedConnection
from lineside.dashboard.http.static_files import plotly_script
from tests.dashboard.conftest import Harness, serving
from tests.dashboard.test_server import logged_url
from tests.support.waiting import DEADLINE, wait_until

HEADERS = b"POST /login HTTP/1.1\r\nhost: localhost\r\n"


def connect(url: str, receive_buffer: int = 0) -> socket.socket:
    address = urlsplit(url)
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(DEADLINE)
    client.connect((address.hostname, address.port))
    return client


@pytest.fixture
def quick_site(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A site that gives its clients half a second."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(connections, "SEND_SECONDS", 0.5)
    keyring = Keyring(keys_folder(harness.settings.home))
    app = create_app(harness.history, harness.feeder.writer, harness.settings, keyring=keyring)
    with serving(app) as url:
        yield url


@pytest.mark.parametrize(
    "sent", [b"", HEADERS, HEADERS + b"content-length: 9\r\n\r\ntoken="], ids=("0", "head", "body")
)
def test_a_request_that_is_not_completed_in_time_ends_its_connection(
    quick_site: str, sent: bytes
) -> None:
    with closing(connect(quick_site)) as client:
        client.sendall(sent)
        assert client.recv(1) == b""


def test_single_bytes_do_not_extend_the_time_for_a_request(quick_site: str) -> None:
    with closing(connect(quick_site)) as client:
        client.sendall(HEADERS)

        def is_closed() -> bool:
            try:
                client.sendall(b"x")
            except OSError:
                return True
            return False

        wait_until(is_closed, "the server closed the connection")


def test_a_client_that_does_not_read_its_response_is_disconnected(
    quick_site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    lost = BoundedConnection.connection_lost

    def connection_lost(connection: BoundedConnection, exc: Exception | None) -> None:
        lost(connection, exc)
        ended.set()

    monkeypatch.setattr(BoundedConnection, "connection_lost", connection_lost)
    with closing(connect(quick_site, receive_buffer=4096)) as client:
        client.sendall(b"GET /static/x/plotly.min.js HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert ended.wait(DEADLINE)
        received = 0
        while part := client.recv(1 << 20):
            received += len(part)
    assert received < plotly_script().stat().st_size


def test_half_sent_requests_do_not_lock_others_out_at_few_descriptors(harness: Harness) -> None:
    """The limit is inherited, so this is a process of its own kind."""
    command = f"ulimit -n 128; exec {sys.executable} -m lineside.cli dashboard --port 0"
    started = subprocess.Popen(
        ["/bin/sh", "-c", command],
        env={"LINESIDE_HOME": str(harness.settings.home)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stderr is not None
        assert "may open only 128 files" in started.stderr.readline()
        url = logged_url(started)
        with ExitStack() as stack:
            for _ in range(200):
                client = stack.enter_context(closing(connect(url)))
                client.sendall(HEADERS)
            for _ in range(20):
                assert httpx.get(f"{url}/api/runs", timeout=10).status_code == 200
    finally:
        started.terminate()
        rest = started.communicate(timeout=DEADLINE)[1]
    assert "Traceback" not in rest
    assert "out of system resource" not in rest


@pytest.mark.parametrize("path", ["/login", "/api/runs/tiny-1/commands"])
def test_a_client_that_leaves_in_the_middle_of_a_body_is_not_an_error(
    quick_site: str, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.INFO)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
    for _ in range(3):
        with closing(connect(quick_site)) as client:
            client.sendall(head.encode() + b"token=")
    with closing(connect(quick_site)) as client:  # is answered after them
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert b"200 OK" in client.recv(1000)
    assert "Traceback" not in caplog.text
    assert "failed" not in caplog.text
