"""One request against a real server that misbehaves."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lineside.subscribers.http.request import RequestFailed, Timeouts, request
from tests.support.http_receiver import DRIP, HANG, http_receiver

SHORT = Timeouts(connect=5, part=5, total=0.4)


@pytest.mark.parametrize("answer", [DRIP, HANG])
def test_a_request_ends_in_time_though_its_answer_does_not(answer: str) -> None:
    with http_receiver(answer) as receiver:
        begin = time.monotonic()
        with pytest.raises(RequestFailed, match="no answer in time"):
            request(receiver.url, b"x", timeouts=SHORT)
        assert 0.4 <= time.monotonic() - begin < 5


def test_a_receiver_that_reads_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(RequestFailed):
            request(url, bytes(64 << 20), timeouts=SHORT)
        assert time.monotonic() - begin < 5


def test_a_failure_has_the_text_of_the_answer() -> None:
    with (
        http_receiver((400, {}, b"no such field: loss")) as receiver,
        pytest.raises(RequestFailed) as caught,
    ):
        request(receiver.url, b"x")
    assert (caught.value.status, caught.value.answer) == (400, "no such field: loss")


@contextmanager
def raw_receiver(answer: bytes) -> Iterator[str]:
    """The address of a receiver that begins to answer, and goes on when the other side does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                while connection.recv(1):  # the body; then until the other side gives up
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_a_text_of_a_failure_that_does_not_end_is_not_waited_for() -> None:
    with (
        raw_receiver(b"HTTP/1.1 400 No\r\nContent-Length: 1000\r\n\r\nbad") as url,
        pytest.raises(RequestFailed) as caught,
    ):
        request(url, b"x", timeouts=SHORT)
    assert (caught.value.status, caught.value.answer) == (400, "bad")


def test_a_success_whose_headers_do_not_end_confirms_nothing() -> None:
    with (
        raw_receiver(b"HTTP/1.1 200 OK\r\nX-Other: ") as url,
        pytest.raises(RequestFailed, match="no answer in time"),
    ):
        request(url, b"x", timeouts=SHORT)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999", None),
    ],
)
def test_a_failure_has_the_seconds_that_the_receiver_asks_for(
    header: str, seconds: float | None
) -> None:
    with (
        http_receiver((503, {"Retry-After": header})) as receiver,
        pytest.raises(RequestFailed) as caught,
    ):
        request(receiver.url, b"x")
    assert caught.value.retry_after == seconds


def test_the_answer_of_a_success_is_returned_as_far_as_wanted() -> None:
    with http_receiver((200, {}, b"0123456789"), (200, {}, b"0123456789")) as receiver:
        assert request(receiver.url, b"x", max_answer=4) == b"0123"
        assert request(receiver.url, b"x") == b""
