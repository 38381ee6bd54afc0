"""Network connections that send too much without a message are cut; heartbeats are not counted."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from lineside.bus.broker.connection_watch import ConnectionWatch

LISTENING_MINUTES, MINUTE_BYTES = 24 * 60, 60 * 60  # a day of heartbeats: 5 MB


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        accepted, _ = server.accept()
        with accepted:
            yield client, accepted


@pytest.mark.parametrize(("seconds", "is_cut"), [(60.0, False), (1.0, True)])
def test_heartbeats_of_a_day_do_not_count_as_a_message(
    connection: tuple[socket.socket, socket.socket], seconds: float, is_cut: bool
) -> None:
    client, accepted = connection
    reasons: list[str] = []
    watch = ConnectionWatch(reasons.append)
    watch.add(accepted.fileno())
    now = time.monotonic()
    for _ in range(LISTENING_MINUTES):
        client.sendall(bytes(MINUTE_BYTES))
        left = MINUTE_BYTES
        while left and not reasons:
            left -= len(accepted.recv(left))
        now += seconds
        watch.sample(now)
        watch.check(is_drained=True)
        if reasons:
            break
    watch.close()
    assert bool(reasons) == is_cut
