"""Measures one event into the spool, beside packing it and sending it by ZeroMQ.

Both encode the same 223 bytes every 400 us and take turns in one loop, so that a noisy machine is
noisy for both. Then the same with the shipper's broker up, frozen and missing.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import zmq

from benchmarks.table import Row, markdown
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess
from lineside.emitter.spool.status_page import PHASES, TRAINING
from lineside.emitter.training.identity import RankInfo, new_identity
from lineside.emitter.training.publisher import Publisher, named_values

EVENTS = 8_000
PACE_NS = 400_000
RECORD_BYTES = 223
WARM_UP = 200
LOGS = {
    "loss": 2.345678,
    "grad_norm": 1.2345678,
    "learning_rate": 4.9e-05,
    "entropy": 1.2345678,
    "mean_token_accuracy": 0.512345,
    "num_tokens": 1234567.0,
    "epoch": 0.1234567,
}
_TRAINING = PHASES.index("training")

_spawn = multiprocessing.get_context("spawn")


def measure() -> list[Row]:
    """Microseconds of one emit: alone, beside ZeroMQ, and without a broker."""
    with tempfile.TemporaryDirectory() as folder:
        ours, bare = _beside_zmq(Path(folder))
        up, frozen, down = _by_broker(Path(folder))
    p50, p999 = _quantile(ours, 0.5), _quantile(ours, 0.999)
    return [
        Row(
            "one emit, 223 B, paced, p50", p50, "us", 5, note=f"p99 {_quantile(ours, 0.99):.1f} us"
        ),
        Row(
            "one emit, p99.9",
            p999,
            "us",
            200,
            note=f"packb + zmq send {_quantile(bare, 0.999):.1f} us",
        ),
        Row(
            "one emit against packb + zmq send, p50",
            p50 / _quantile(bare, 0.5),
            "x",
            0.6,
            note=f"packb + zmq send {_quantile(bare, 0.5):.2f} us",
        ),
        Row(
            "one emit with no broker, p50",
            _quantile(down, 0.5) / _quantile(up, 0.5),
            "x",
            1.3,
            note=f"{_quantile(down, 0.5):.2f} us, broker up {_quantile(up, 0.5):.2f} us",
        ),
        Row(
            "one emit with the broker frozen, p50",
            _quantile(frozen, 0.5) / _quantile(up, 0.5),
            "x",
            1.3,
            note=f"{_quantile(frozen, 0.5):.2f} us",
        ),
    ]


def _beside_zmq(folder: Path) -> tuple[list[int], list[int]]:
    address = f"ipc://{folder}/sink"
    sink = _spawn.Process(target=_sink, args=(address,), daemon=True)
    sink.start()
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(address)
    socket.poll(10_000, zmq.POLLOUT)
    publisher = _publisher(folder, "bench", f"ipc://{folder}/nobody")
    try:
        ours, bare = _take_turns([_emit(publisher), _send(socket)])
    finally:
        publisher.close("exit")
        socket.close()
        context.term()
        sink.kill()
        sink.join()
    return ours, bare


def _by_broker(folder: Path) -> list[list[int]]:
    """Times of one emit with a running broker, with a frozen one and with none, in turns."""
    with BrokerProcess(folder / "up") as up, BrokerProcess(folder / "frozen") as frozen:
        addresses = {"up": up.address, "frozen": frozen.address, "down": f"ipc://{folder}/nobody"}
        publishers = [_publisher(folder, name, where) for name, where in addresses.items()]
        emits = [_emit(publisher) for publisher in publishers]
        _take_turns(emits, 1_000)
        frozen.freeze()
        try:
            return _take_turns(emits)
        finally:
            frozen.resume()
            for publisher in publishers:
                publisher.close("exit")


def _publisher(folder: Path, name: str, broker: str) -> Publisher:
    home = folder / f"home-{name}"
    settings = Settings.from_env({"LINESIDE_HOME": str(home), "LINESIDE_BROKER": broker})
    publisher = Publisher(settings, new_identity(settings, RankInfo(), run=name))
    publisher.flag(raised=TRAINING)  # a run that does not train is closed between its events
    return publisher


def _emit(publisher: Publisher) -> Callable[[int], None]:
    def emit(step: int) -> None:
        data = {"logs": named_values(LOGS)}
        publisher.publish_hook("log", step, 0.1234567, 0, data, _TRAINING, time.monotonic_ns())

    return emit


def _send(socket: zmq.Socket[bytes]) -> Callable[[int], None]:
    packb: Callable[[Any], bytes] = msgpack.packb
    noblock = zmq.NOBLOCK
    # Stands for the header and the full-width numbers of Lineside's record.
    padding = b"." * (RECORD_BYTES - len(packb((1, 0, 0.0, 0, "log", 0, 0.1, 0, LOGS, b""))))

    def send(step: int) -> None:
        body = (1, step, time.time(), time.monotonic_ns(), "log", step, 0.1, 0, LOGS, padding)
        socket.send(packb(body), noblock)

    return send


def _take_turns(acts: list[Callable[[int], None]], events: int = EVENTS) -> list[list[int]]:
    """Nanoseconds of each call of ``acts``, in turns, ``PACE_NS`` apart."""
    took: list[list[int]] = [[] for _ in acts]
    clock = time.perf_counter_ns
    for step in range(events + WARM_UP):
        for act, times in zip(acts, took, strict=True):
            started = clock()
            act(step)
            times.append(clock() - started)
            while clock() - started < PACE_NS:
                pass
    return [times[WARM_UP:] for times in took]


def _sink(address: str) -> None:
    os.nice(1)
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.bind(address)
    while True:
        socket.recv_multipart()


def _quantile(nanoseconds: list[int], part: float) -> float:
    """The quantile at ``part``, in microseconds."""
    if part == 0.5:
        return statistics.median(nanoseconds) / 1_000
    return sorted(nanoseconds)[int(len(nanoseconds) * part)] / 1_000


if __name__ == "__main__":
    print(markdown(measure()))
