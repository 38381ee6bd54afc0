"""The HTTP server of the page, against clients that behave badly."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from lineside.bus.auth.listener import listen
from lineside.subscribers.exporter import server
from lineside.subscribers.exporter.page import OwnMetrics, Page
from lineside.subscribers.exporter.server import MAX_CONNECTIONS, Health, PageServer
from tests.support.waiting import DEADLINE, wait_until


@pytest.fixture
def pages() -> Iterator[PageServer]:
    found = PageServer(listen("127.0.0.1", 0), None)
    found.publish(Page({}, OwnMetrics()), Health(is_connected=True))
    found.start()
    yield found
    found.stop()


def get(pages: PageServer, accept: str = "") -> str:
    request = urllib.request.Request(f"{pages.url}/metrics", headers={"Accept": accept})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:  # noqa: S310 - our own
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.parametrize("version", ["version=abc", "version=1.0.0; q=x", "version=", "q="])
def test_a_client_that_accepts_nonsense_gets_the_page(pages: PageServer, version: str) -> None:
    assert "process_cpu_seconds_total" in get(pages, f"application/openmetrics-text; {version}")


def test_clients_that_never_end_their_request_do_not_keep_others_out(
    pages: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_REQUEST_SECONDS", 1.0)
    address = urlsplit(pages.url)
    slow = [
        socket.create_connection((address.hostname, address.port)) for _ in range(MAX_CONNECTIONS)
    ]

    def answers() -> bool:
        for one in slow:
            one.send(b"G")  # each byte would begin the wait of a read anew
        return bool(get(pages))

    try:
        wait_until(lambda: get(pages) == "", "all connections are taken")
        wait_until(answers, "the page is served again")
    finally:
        for one in slow:
            one.close()
