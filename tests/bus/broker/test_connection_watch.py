"""Network connections that send too much without a message are cut; heartbeats are not counted."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from lineside.bus.broker.connection_watch import ConnectionWatch
from lineside.bus.protocol.messages import MAX_MESSAGE, MAX_WAITING

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


@pytest.mark.parametrize(("taken", "is_cut"), [(1.0, False), (0.5, True)])
def test_a_connection_is_cut_when_too_much_of_it_waits_for_a_broker_that_lags(
    connection: tuple[socket.socket, socket.socket], taken: float, is_cut: bool
) -> None:
    client, accepted = connection
    reasons: list[str] = []
    watch = ConnectionWatch(reasons.append)
    watch.add(accepted.fileno())
    watched = watch._connections[accepted.fileno()]
    now = time.monotonic()
    for _ in range(3 * MAX_WAITING // MAX_MESSAGE):
        left = MAX_MESSAGE
        while left:
            client.sendall(bytes(min(left, 64 << 10)))
            left -= len(accepted.recv(64 << 10, socket.MSG_WAITALL))
        now += 1.0
        watch.sample(now)
        watched.received += int(MAX_MESSAGE * taken)
        watch.check(is_drained=False)
        if reasons:
            break
    watch.close()
    assert bool(reasons) == is_cut
    assert not reasons or f"more than {MAX_WAITING} bytes that wait" in reasons[0]


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
