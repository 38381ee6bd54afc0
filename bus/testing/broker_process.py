"""For tests of any process on the bus: a real broker, its faults, and its log.

with BrokerProcess(tmp_path) as broker:
    ...
    events = read_all(broker.address, until=lambda events: len(events) == 10)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from lineside.bus.broker.address_lock import listening_pid
from lineside.bus.client.reader import Reader
from lineside.bus.errors import BrokerUnreachable, BusError
from lineside.bus.module_process import WORKING_FOLDER, module_command, module_environment
from lineside.bus.protocol.events import Event
from lineside.bus.protocol.messages import LIVE, START
from lineside.bus.protocol.patterns import Patterns
from lineside.bus.service import SUPERVISOR_PID

__all__ = ["BrokerProcess", "read_all"]

READY_SECONDS = 30.0
STOP_SECONDS = 10.0


class BrokerProcess:
    """A broker process, started by the command ``lineside broker``, with its journal in ``home``.

    It starts with the context, is ready once it answers a subscription, and stops with the context
    or with the test process. Its log is ``home/broker.log``. ``options`` are those of the command.

    Raises:
        BrokerUnreachable: it did not answer within ``READY_SECONDS``.
        BusError: it exited at once, or by itself before it was stopped, killed, frozen or resumed;
            the message holds its exit code and the end of its log.
    """

    popen: ClassVar[type[subprocess.Popen[bytes]]] = subprocess.Popen
    """The class that starts the process: a test suite may have its own."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.address = f"ipc://{home}/bus.sock"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> BrokerProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id; 0 when it is not running."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start it, also after ``stop`` or ``kill``, and wait until it answers."""
        if self._process is not None:
            return
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "LINESIDE_HOME": str(self.home),
            "LINESIDE_BROKER": self.address,
            SUPERVISOR_PID: str(os.getpid()),
        }
        with (self.home / "broker.log").open("ab") as output:
            self._process = self.popen(
                module_command("lineside.cli", "broker", *self._options),
                env=module_environment(environment),
                cwd=WORKING_FOLDER,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            self._wait_ready(self._process)
        except BaseException:
            self._process.kill()
            self._process.wait()
            self._process = None
            raise

    def stop(self) -> None:
        """Stop it with SIGTERM, after ``STOP_SECONDS`` with SIGKILL."""
        if self._process is None:
            return
        self.resume()
        process, self._process = self._process, None
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()

    def kill(self) -> None:
        """Send SIGKILL."""
        if self._process is not None:
            self._send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Send SIGSTOP: the process stays and does nothing."""
        self._send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT."""
        self._send_signal(signal.SIGCONT)

    def _send_signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise BusError("the broker does not run: start it first")
        if self._process.poll() is not None:
            process, self._process = self._process, None
            raise BusError(f"the broker ended by itself{self._ending(process)}")
        self._process.send_signal(number)

    def _ending(self, process: subprocess.Popen[bytes]) -> str:
        log_tail = (self.home / "broker.log").read_text(errors="replace")[-2000:]
        return f" with exit code {process.returncode}: {log_tail}"

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + READY_SECONDS
        with Reader(self.address, start=LIVE) as reader:
            while time.monotonic() < until:
                if process.poll() is not None:
                    raise BusError(f"the broker ended{self._ending(process)}")
                with contextlib.suppress(BrokerUnreachable):
                    reader.wait_connected(0.1)
                    # Another broker may answer there, while this one is about to exit.
                    if listening_pid(self.address) == process.pid:
                        return
                    reader.poll(0.05)
        raise BrokerUnreachable(self.address, READY_SECONDS)


def read_all(
    address: str,
    streams: Sequence[str] = (),
    *,
    until: Callable[[list[Event]], bool] | None = None,
    timeout: float = 30.0,
) -> list[Event]:
    """Every event of the journal from its start, until ``until`` returns True.

    ``streams`` are patterns ``run[/producer[/attempt]]``. Without ``until`` reading ends at the
    entry that was the newest when the broker answered.

    Raises:
        BrokerUnreachable: no broker answered within ``timeout`` seconds.
        TimeoutError: ``until`` was not met within ``timeout`` seconds; with the number of events.
    """
    events: list[Event] = []
    deadline = time.monotonic() + timeout
    patterns = Patterns(streams)
    with Reader(address, start=START) as reader:
        reader.wait_connected(timeout)
        head = reader.head
        while not (until(events) if until else reader.offset >= head):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(f"{len(events)} events within {timeout:g} s, and not enough")
            batch = reader.poll(min(remaining, 0.2))
            if batch is not None and batch.stream in patterns:
                events += batch.events
    return events
