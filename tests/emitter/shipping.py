"""Producers, brokers and shippers in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from lineside.bus.protocol.events import Event, Stream
from lineside.bus.testing import BrokerProcess, read_all
from lineside.emitter.shipper.service import Shipper
from lineside.emitter.spool import directory, sidecar_process
from tests.support.forked import ForkedScript
from tests.support.processes import Child
from tests.support.waiting import DEADLINE, wait_until


class Producer:
    """The process of ``producer.py``."""

    def __init__(self, spool: Path, stream: Stream, segment: int = 8 << 20) -> None:
        self.stream = stream
        self.folder = spool.joinpath(*stream)
        script = Path(__file__).with_name("shipper") / "producer.py"
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(spool), str(stream), str(segment)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    @property
    def acked(self) -> int:
        return directory.acked_seq(self.folder)

    def send(self, instruction: str) -> int:
        """Run ``instruction``; the next seq afterwards."""
        self.start(instruction)
        return self._answer()

    def start(self, instruction: str) -> None:
        """Start ``instruction`` without waiting."""
        assert self.process.stdin is not None
        self.process.stdin.write(instruction + "\n")
        self.process.stdin.flush()

    def wait(self) -> int:
        """The next seq once the started instruction is done."""
        return self._answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        """Let the script end: it releases the lock and reports nothing."""
        self.process.communicate()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


class Bench:
    """A spool and the processes that a test starts for it; all end with the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.spool = folder / "spool"
        self._stack = stack

    def broker(self) -> BrokerProcess:
        return self._stack.enter_context(BrokerProcess(self.folder / "bus"))

    @property
    def address(self) -> str:
        return f"ipc://{self.folder}/bus/bus.sock"

    def producer(self, name: str = "run/rank0/a1", segment: int = 8 << 20) -> Producer:
        producer = Producer(self.spool, Stream.parse(name), segment)
        self._stack.callback(producer.kill)
        return producer

    def shipper(self, address: str | None = None) -> Child:
        """``python -m lineside.emitter.shipper``, its log in ``spool/shipper.log``."""
        self.spool.mkdir(parents=True, exist_ok=True)
        places = {"LINESIDE_SPOOL": str(self.spool), "LINESIDE_BROKER": address or self.address}
        log = self.spool / sidecar_process.LOG_NAME
        shipper = Child(["-m", "lineside.emitter.shipper"], {**os.environ, **places}, log)
        self._stack.callback(shipper.kill)
        shipper.start()
        return shipper

    def training(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """``steered_trainer.py`` with an output folder and these arguments."""
        script = Path(__file__).with_name("shipper") / "steered_trainer.py"
        process = ForkedScript(
            [script, self.folder / "out", *map(str, arguments)],
            env={
                **os.environ,
                "LINESIDE_SPOOL": str(self.spool),
                "LINESIDE_BROKER": self.address,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(process.communicate)
        self._stack.callback(process.kill)
        return process

    def events(self, stream: str, count: int, timeout: float = DEADLINE) -> list[Event]:
        """The events of ``stream`` at the broker once there are ``count``."""
        return read_all(
            self.address, [stream], until=lambda events: len(events) >= count, timeout=timeout
        )


STREAM = "run/rank0/a1"


SHIPPER = "run/shipper"


def seqs(bench: Bench, stream: str, count: int) -> list[int]:
    return [event.seq for event in bench.events(stream, count)]


def work_until(shipper: Shipper, condition: Callable[[], bool]) -> None:
    """Let ``shipper`` work in this process until ``condition()`` is true."""

    def turn() -> bool:
        shipper.work()
        return condition()

    wait_until(turn)
