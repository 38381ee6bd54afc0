"""How many events a second the broker takes, commits and delivers, beside a bare zmq.proxy.

One producer and one consumer process, the same messages and the same loops in both cases. The
proxy forwards and forgets; the broker checks every record, commits with fsync, confirms, delivers.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import zmq

from benchmarks.table import Row
from lineside.bus import sockets
from lineside.bus.protocol.events import Stream, new_attempt
from lineside.bus.protocol.messages import OK, START, Ack, Cur, Evt, Hi, Put, Sub, decode
from lineside.bus.protocol.wire import Encoder
from lineside.bus.testing import BrokerProcess

BATCHES = 8_000
RECORDS = 64
RECORD_BYTES = 223
WINDOW = 64  # batches without an acknowledgement, and the reader's credit
ROUNDS = 3

_Role: TypeAlias = "Callable[[str, _Clock], None]"
_spawn = multiprocessing.get_context("spawn")


def measure() -> list[Row]:
    """Events per second through each, side by side."""
    broker, proxy = [], []
    for _ in range(ROUNDS):
        broker.append(_through_broker())
        proxy.append(_through_proxy())
    lineside_rate, baseline = statistics.median(broker), statistics.median(proxy)
    spread = f"{min(broker):,.0f} to {max(broker):,.0f} in {ROUNDS} rounds"
    return [
        Row(
            "broker with journal FULL, batches of 64",
            lineside_rate,
            "events/s",
            200_000,
            True,
            note=spread,
        ),
        Row(
            "broker against zmq.proxy",
            100 * lineside_rate / baseline,
            "%",
            25,
            True,
            note=f"zmq.proxy {baseline:,.0f} events/s",
        ),
    ]


def _through_broker() -> float:
    with tempfile.TemporaryDirectory() as home, BrokerProcess(Path(home) / "b") as broker:
        return _measure_rate(_produce_to_broker, _consume_from_broker, broker.address)


def _through_proxy() -> float:
    with tempfile.TemporaryDirectory() as home:
        proxy = _spawn.Process(target=_proxy, args=(home,), daemon=True)
        proxy.start()
        try:
            return _measure_rate(_produce_to_proxy, _consume_from_proxy, home)
        finally:
            proxy.kill()
            proxy.join()


class _Clock:
    """Shared by the processes of one measurement: readiness, start and end."""

    def __init__(self) -> None:
        self._ready = _spawn.Semaphore(0)
        self._go = _spawn.Event()
        self._began = _spawn.Value("d")
        self._ended = _spawn.Value("d")

    def ready(self) -> None:
        self._ready.release()

    def begin(self) -> None:
        self.ready()
        self._go.wait()
        self._began.value = time.monotonic()

    def end(self) -> None:
        self._ended.value = time.monotonic()

    def start(self, processes: int) -> None:
        for _ in range(processes):
            if not self._ready.acquire(timeout=60):
                raise RuntimeError("a part of the measurement did not start")
        self._go.set()

    @property
    def seconds(self) -> float:
        return float(self._ended.value - self._began.value)


def _measure_rate(produce: _Role, consume: _Role, address: str) -> float:
    """Events per second from the first message sent to the last one received."""
    clock = _Clock()
    parts = [_spawn.Process(target=part, args=(address, clock)) for part in (produce, consume)]
    for part in parts:
        part.start()
    clock.start(len(parts))
    for part in parts:
        part.join()
    return BATCHES * RECORDS / clock.seconds


def _blob() -> bytes:
    encoder = Encoder()
    pad = 0
    while True:
        data = {"logs": {"loss": 1.25, "learning_rate": 5e-5, "pad": "x" * pad}}
        record = encoder.encode(10_000, time.time(), time.monotonic_ns(), "log", 9, 0.5, 0, data)
        if len(record) >= RECORD_BYTES:
            break
        pad += RECORD_BYTES - len(record)
    return record * RECORDS


def _produce_to_broker(address: str, clock: _Clock) -> None:
    stream, blob = Stream("bench", "rank0", new_attempt()), _blob()
    with zmq.Context() as context, sockets.dealer(context, address) as socket:
        socket.send_multipart(Hi(stream).encode())
        decode(socket.recv_multipart())
        clock.begin()
        sent = acked = 0
        while acked < BATCHES * RECORDS:
            while sent < BATCHES * RECORDS and sent - acked < WINDOW * RECORDS:
                socket.send_multipart(Put(stream, sent, RECORDS, blob).encode())
                sent += RECORDS
            answer = decode(socket.recv_multipart())
            assert isinstance(answer, Ack)
            assert answer.status == OK
            acked = answer.next


def _consume_from_broker(address: str, clock: _Clock) -> None:
    with zmq.Context() as context, sockets.dealer(context, address) as socket:
        socket.send_multipart(Sub("", START, 0, (), WINDOW).encode())
        socket.recv_multipart()
        clock.ready()
        got = unreturned = 0
        while got < BATCHES * RECORDS:
            message = decode(socket.recv_multipart())
            if isinstance(message, Evt):
                got += message.count
                unreturned += 1
                if unreturned == WINDOW // 4:
                    socket.send_multipart(Cur(message.offset, unreturned).encode())
                    unreturned = 0
        clock.end()


def _proxy(folder: str) -> None:
    with zmq.Context() as context:
        front, back = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        front.bind(f"ipc://{folder}/front")
        back.bind(f"ipc://{folder}/back")
        zmq.proxy(front, back)


def _produce_to_proxy(folder: str, clock: _Clock) -> None:
    stream, blob = Stream("bench", "rank0", new_attempt()), _blob()
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(f"ipc://{folder}/front")
        clock.begin()
        for sent in range(0, BATCHES * RECORDS, RECORDS):
            socket.send_multipart(Put(stream, sent, RECORDS, blob).encode())


def _consume_from_proxy(folder: str, clock: _Clock) -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.connect(f"ipc://{folder}/back")
        clock.ready()
        got = 0
        while got < BATCHES * RECORDS:
            message = decode(socket.recv_multipart())
            assert isinstance(message, Put)
            got += message.count
        clock.end()
