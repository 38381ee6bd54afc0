"""One request against a real server that misbehaves."""

from __future__ import annotations

import socket
import threading
import time

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


def test_a_text_of_a_failure_that_does_not_end_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 No\r\nContent-Length: 1000\r\n\r\nbad")
                connection.recv(1)  # until the other side gives up

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(RequestFailed) as caught:
            request(f"http://127.0.0.1:{server.getsockname()[1]}", b"x", timeouts=SHORT)
        thread.join()
    assert (caught.value.status, caught.value.answer) == (400, "bad")


def test_the_answer_of_a_success_is_returned_as_far_as_wanted() -> None:
    with http_receiver((200, {}, b"0123456789"), (200, {}, b"0123456789")) as receiver:
        assert request(receiver.url, b"x", max_answer=4) == b"0123"
        assert request(receiver.url, b"x") == b""
