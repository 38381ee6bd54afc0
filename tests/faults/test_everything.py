"""Every process is killed, frozen or cut off at random while several runs go on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from random import Random

import pytest

from lineside.bus.testing import FaultyProxy
from tests.faults.conftest import CheckAll
from tests.faults.producer_process import Producer
from tests.faults.stack import Stack, inject_faults

pytestmark = pytest.mark.fault

SECONDS = 8.0
AT_ONCE = 3


class FaultScenario:
    """Runs through a faulty connection, and the faults of their processes."""

    def __init__(self, stack: Stack, link: FaultyProxy, rng: Random) -> None:
        self.stack = stack
        self.link = link
        self.rng = rng
        self.finished: list[Producer] = []
        self._running: list[Producer] = []
        self._count = 0

    def begin(self) -> None:
        """Begin one more run."""
        self._count += 1
        run = f"run-{self._count}"
        producer = self.stack.produce(run, pause=0.001, LINESIDE_BROKER=self.link.address)
        self._running.append(producer)
        producer.wait_noted(1)

    def finish_one(self) -> None:
        """End one run and begin another."""
        self._end(self.rng.choice(self._running))
        self.begin()

    def finish_all(self) -> None:
        """End every run."""
        for producer in list(self._running):
            self._end(producer)

    def kill_broker(self) -> None:
        """Kill the broker and start it again."""
        self.stack.broker.kill()
        self.stack.broker.start()

    def kill_recorder(self) -> None:
        """Kill the recorder and start it again."""
        self.stack.recorder.kill()
        self.stack.recorder.start()

    def freeze_broker(self) -> None:
        """Freeze the broker for a moment."""
        self.stack.broker.freeze()
        self._wait()
        self.stack.broker.resume()

    def freeze_shipper(self) -> None:
        """Freeze the shipper for a moment."""
        pid = self.stack.shipper_pid()
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, signal.SIGSTOP)
                self._wait()
                os.kill(pid, signal.SIGCONT)

    def cut(self) -> None:
        """Break connections for a moment."""
        self.link.cut()
        self._wait()
        self.link.restore()

    def swallow(self) -> None:
        """Keep connections open for a moment without carrying data."""
        self.link.swallow()
        self._wait()
        self.link.restore()

    def _end(self, producer: Producer) -> None:
        assert producer.finish() == 0
        self._running.remove(producer)
        self.finished.append(producer)

    def _wait(self) -> None:
        time.sleep(self.rng.uniform(0.1, 2.0))


def test_random_faults_of_every_process_lose_nothing(
    stack: Stack, rng: Random, check_all: CheckAll
) -> None:
    stack.start()
    with FaultyProxy(stack.home / "link.sock", stack.broker.address) as link:
        scenario = FaultScenario(stack, link, rng)
        for _ in range(AT_ONCE):
            scenario.begin()
        stack.history()
        actions = [
            stack.kill_shipper,
            scenario.kill_broker,
            scenario.kill_recorder,
            scenario.finish_one,
            scenario.freeze_broker,
            scenario.freeze_shipper,
            scenario.cut,
            scenario.swallow,
        ]
        inject_faults(rng, SECONDS, actions)
        scenario.finish_all()
        stack.ship()
    check_all({producer.run: producer.items() for producer in scenario.finished})
    for producer in scenario.finished:
        stack.wait_status(producer.run, "finished")
