"""A producer beside hostile peers: what they cost it, and the broker.

    with HealthyProducer(broker) as healthy:
        ...  # be hostile
    healthy.assert_unharmed()

As a script it is that producer: ``healthy_producer.py ADDRESS BROKER_PID``, until stdin is closed.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from lineside.bus import sockets
from lineside.bus.client.reader import Reader
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import OK, START, Ack, Hi, Put, decode
from lineside.bus.protocol.wire import Encoder

if TYPE_CHECKING:
    from typing_extensions import Self

    from lineside.bus.testing import BrokerProcess

PAUSE_MAX = 0.1
"""Seconds for which any one peer may keep the broker from answering another."""
MEMORY_MAX = 64 << 20
"""Bytes that the broker may need for hostile peers."""
_STREAM = Stream("healthy", "rank0", "a")
_INTERVAL = 0.005
_ANSWER_SECONDS = 60.0


class HealthyProducer:
    """A process that publishes an event every few ms and measures how long its answers take.

    ``longest_pause`` is the time that the broker worked before it answered. Time in which the
    machine ran other processes does not count, so the bound holds on a busy machine too.
    """

    def __init__(self, broker: BrokerProcess) -> None:
        self._broker = broker
        self.longest_pause = 0.0
        self.events = 0
        self.memory = 0

    def __enter__(self) -> Self:
        # A peak before this is not counted.
        Path(f"/proc/{self._broker.pid}/clear_refs").write_text("5")
        self._memory_before = _status_bytes(self._broker.pid, "VmRSS")
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._broker.address, str(self._broker.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            report = self._process.communicate(timeout=_ANSWER_SECONDS)[0]
        finally:
            self._process.kill()
            self._process.wait()
        if kind is None:
            assert self._process.returncode == 0, "the healthy producer failed: see its traceback"
            self.longest_pause, self.events = json.loads(report)
            self.memory = _status_bytes(self._broker.pid, "VmHWM") - self._memory_before

    def __repr__(self) -> str:
        return (
            f"<{self.events} events, at most {self.longest_pause * 1000:.0f} ms apart from an "
            f"answer, {self.memory / (1 << 20):.0f} MiB more>"
        )

    def assert_unharmed(self) -> None:
        """The broker answered in time, stayed small, and has every event of the producer."""
        seqs: list[int] = []
        deadline = time.monotonic() + _ANSWER_SECONDS
        with Reader(self._broker.address, start=START, streams=[_STREAM.run]) as reader:
            while len(seqs) < self.events:
                assert time.monotonic() < deadline, f"{len(seqs)} of {self.events} events"
                batch = reader.poll(1.0)
                seqs += [event.seq for event in batch.events] if batch else []
        assert seqs == list(range(self.events))
        assert self.longest_pause <= PAUSE_MAX
        assert self.memory <= MEMORY_MAX, f"{self.memory >> 20} MiB more than before"


def _status_bytes(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) << 10


def busy_seconds(pid: int) -> float:
    """For how long the threads of a process have run."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _produce(address: str, broker_pid: int) -> None:
    finished = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        finished.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    encoder, seq, longest = Encoder(), 0, 0.0
    with zmq.Context() as context, sockets.dealer(context, address) as socket:
        assert socket.poll(int(_ANSWER_SECONDS * 1000), zmq.POLLOUT)
        socket.send_multipart(Hi(_STREAM).encode())
        _receive(socket, 0)
        print("ready", flush=True)
        while not finished.wait(_INTERVAL):
            record = encoder.encode(seq, time.time(), time.monotonic_ns(), "log", seq, None, 0, {})
            began, busy = time.monotonic(), busy_seconds(broker_pid)
            socket.send_multipart(Put(_STREAM, seq, 1, record).encode())
            seq += 1
            _receive(socket, seq)
            worked = busy_seconds(broker_pid) - busy
            longest = max(longest, min(worked, time.monotonic() - began))
    print(json.dumps([longest, seq]))


def _receive(socket: sockets.Socket, next_seq: int) -> None:
    assert socket.poll(int(_ANSWER_SECONDS * 1000)), "no answer"
    answer = decode(socket.recv_multipart())
    assert isinstance(answer, Ack)
    assert (answer.status, answer.next) == (OK, next_seq), answer


if __name__ == "__main__":
    _produce(sys.argv[1], int(sys.argv[2]))
