"""A run goes on while the broker gets garbage, truncated and oversized frames."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from random import Random

import pytest
import zmq

from lineside.bus import sockets
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import (
    MAX_BLOB,
    MAX_MESSAGE,
    START,
    Cur,
    Frames,
    GapMessage,
    Hi,
    Message,
    Put,
    Sub,
    Who,
)
from lineside.bus.protocol.wire import Encoder
from tests.faults.conftest import Check
from tests.faults.stack import Stack

pytestmark = pytest.mark.fault

SECONDS = 4.0
STREAM = Stream("noise", "rank0", "20260101T000000-0000")


def test_garbage_at_the_broker_neither_stops_nor_changes_a_run(
    stack: Stack, rng: Random, check: Check
) -> None:
    stack.start()
    producer = stack.produce()
    producer.wait_flowing()
    broker = stack.broker.pid
    threads = [
        threading.Thread(target=bother, args=(stack.broker.address, Random(rng.random())))
        for bother in (_send_bad_messages, _send_bad_bytes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    producer.wait_flowing()
    assert producer.finish() == 0
    check("run", producer.items())
    stack.wait_status("run", "finished")
    assert stack.broker.pid == broker
    log = stack.logs()["broker.log"]
    assert "refused" in log
    assert "could not be handled" not in log, log
    assert "Traceback" not in log, log


def _record(seq: int) -> bytes:
    return Encoder().encode(seq, 0.0, 0, "log", 0, None, 0, {"logs": {"x": 1.0}})


def _good(rng: Random) -> Frames:
    """A valid message of a producer or reader."""
    messages: list[Message] = [
        Hi(STREAM, {"kind": "rank"}),
        Put(STREAM, rng.choice([0, 1, 5, 1 << 62]), 1, _record(0)),
        GapMessage(STREAM, 3, 9),
        Sub("", START, 0, (), 4),
        Cur(1 << 40, 1 << 40),
        Who(""),
    ]
    return rng.choice(messages).encode()


def _bad(rng: Random) -> Frames:
    """An invalid message."""
    frames = _good(rng)
    spoils: list[Callable[[], Frames]] = [
        lambda: [rng.randbytes(rng.randrange(64)) for _ in range(rng.randrange(1, 8))],
        lambda: frames[: rng.randrange(1, len(frames) + 1)],
        lambda: [frames[0], *(part[: len(part) // 2] for part in frames[1:])],
        lambda: [frames[0], *(rng.randbytes(len(part)) for part in frames[1:])],
        lambda: [b"PUT", str(STREAM).encode(), bytes(8), b"\xff" * 8, _record(0)],
        lambda: Put(STREAM, 0, 1, bytes(MAX_BLOB + 1)).encode(),
        lambda: Put(STREAM, 0, 1, _record(0)[:-1] + b"\xff").encode(),
        lambda: [b"HI", b"../../etc/passwd", b"\x80"],
        lambda: [b"SUB", b"x" * 4096, b"cursor", bytes(8), b"\x90", bytes(8)],
        lambda: [b"SUB", b"", b"start", bytes(8), b"\xa5a/b/*", bytes(8)],
    ]
    return rng.choice(spoils)()


def _send_bad_messages(address: str, rng: Random) -> None:
    context: sockets.Context = zmq.Context()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        dealer = sockets.dealer(context, address)
        dealer.setsockopt(zmq.SNDTIMEO, 1000)
        with contextlib.suppress(zmq.Again):
            for _ in range(rng.randrange(1, 40)):
                dealer.send_multipart(_bad(rng) if rng.random() < 0.7 else _good(rng))
            if rng.random() < 0.1:
                dealer.send(bytes(MAX_MESSAGE + 1))
        dealer.close(linger=100)
        time.sleep(0.01)
    context.term()


def _send_bad_bytes(address: str, rng: Random) -> None:
    """Send bytes that are not ZeroMQ."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        with socket.socket(socket.AF_UNIX) as raw, contextlib.suppress(OSError):
            raw.settimeout(1.0)
            raw.connect(address.removeprefix("ipc://"))
            start = rng.choice([b"", b"GET / HTTP/1.1\r\n\r\n", greeting, greeting[:20]])
            raw.sendall(start + rng.randbytes(rng.randrange(4096)))
            time.sleep(rng.uniform(0, 0.02))
