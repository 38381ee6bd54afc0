"""The processes of a fault test in one home: broker, recorder, dashboard and producers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import TracebackType

from sqlalchemy import Engine

from lineside.bus.errors import RunNotFound, StoreError
from lineside.bus.testing import BrokerProcess
from lineside.emitter.spool.sidecar_process import shipper_pid
from lineside.store.database.engine import open_store
from lineside.store.history.history import History
from tests.faults.accounts import Journal, is_recorded, journal
from tests.faults.producer_process import Producer, notes_file, stop_file
from tests.faults.session import REPEATS
from tests.support.leftovers import kill_processes_of
from tests.support.processes import Child, environment, supervised
from tests.support.waiting import DEADLINE, wait_until

HERE = Path(__file__).parent


class Stack:
    """One home with its processes, which end with the context."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.spool = home / "spool"
        self.url = f"sqlite:///{home}/store.db"
        self.producers: list[Producer] = []
        self.dashboard: Child | None = None
        self.broker = BrokerProcess(home)
        self._engine: Engine | None = None
        self.move_broker(home)

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._engine is not None:
                self._engine.dispose()
            for producer in self.producers:
                producer.kill()
            for child in (self.dashboard, self.recorder):
                if child is not None:
                    child.stop()
            self.broker.stop()
        finally:
            kill_processes_of(self.home)

    def move_broker(self, home: Path) -> None:
        """Put the broker and its journal into another home."""
        self.broker = BrokerProcess(home)
        self.recorder = self.service("recorder")

    def move_store(self, url: str) -> None:
        """Put the store elsewhere."""
        self.url = url
        self.recorder = self.service("recorder")

    def service(self, name: str, *options: str) -> Child:
        """A ``lineside`` process, not yet started."""
        where = {"LINESIDE_BROKER": self.broker.address, "LINESIDE_STORE": self.url}
        env = supervised(self.home, **where)
        return Child(["-m", "lineside.cli", name, *options], env, self.home / f"{name}.log")

    def start(self) -> None:
        """Start broker and recorder."""
        self.broker.start()
        self.recorder.start()

    def serve(self) -> str:
        """Start the dashboard; its address. Poll it until it answers."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.dashboard = self.service("dashboard", "--port", str(port))
        self.dashboard.start()
        return f"http://127.0.0.1:{port}"

    def produce(
        self,
        *runs: str,
        pause: float = 0.0005,
        ballast: int = 0,
        steps: bool = False,
        rare: int = 0,
        cap: int = 0,
        exit_code: int = 0,
        **env: str,
    ) -> Producer:
        """Start ``producer.py`` with ``runs`` (default: run)."""
        runs = runs or ("run",)
        plan = {
            "runs": {run: str(notes_file(self.home, run)) for run in runs},
            "stop": str(stop_file(self.home, runs[0])),
            "pause": pause,
            "ballast": ballast,
            "steps": steps,
            "rare": rare,
            "cap": cap,
            "exit_code": exit_code,
        }
        return self._begin(runs[0], [str(HERE / "producer.py"), json.dumps(plan)], env)

    def train(self, *, steps: int, exit_code: int = 0, **env: str) -> Producer:
        """Start ``training.py``, a real Trainer, as run ``run``."""
        out = self.home / "checkpoints"
        options = [str(notes_file(self.home, "run")), str(out), str(steps), str(exit_code)]
        env = {"LINESIDE_RUN_ID": "run", **env}
        return self._begin("run", [str(HERE / "training.py"), *options], env, fork=True)

    def history(self) -> History:
        """The store, once the recorder has made it."""

        def opened() -> bool:
            try:
                self._engine = self._engine or open_store(self.url)
            except StoreError:
                return False
            return True

        wait_until(opened, "the recorder makes the store")
        if self._engine is None:
            raise RuntimeError("unreachable: waited for")
        return History(self._engine)

    def wait_recorded(self, *runs: str, seconds: float = DEADLINE) -> Journal:
        """The journal, once the store holds all its events of ``runs``."""
        history = self.history()
        until = time.monotonic() + seconds
        while True:
            journaled = journal(self.broker.address)
            try:
                missing = [run for run in runs if not is_recorded(history, journaled, run)]
            except RunNotFound as error:
                missing = [error.run]
            if not missing:
                return journaled
            if time.monotonic() > until:
                raise TimeoutError(f"store and journal differ after {seconds:g} s: {missing}")
            time.sleep(0.05)

    def wait_status(self, run: str, *statuses: str) -> None:
        """Wait until the run has one of these statuses."""
        history = self.history()
        wait_until(lambda: history.run(run).status in statuses, f"{run} is {' or '.join(statuses)}")

    def shipper_pid(self, spool: Path | None = None) -> int:
        """The process id of the spool's shipper; 0 if none runs."""
        return shipper_pid(spool or self.spool) or 0

    def kill_shipper(self) -> None:
        """``kill -9`` the shipper, or the next one to start."""
        wait_until(self.shipper_pid, "there is a shipper")
        pid = self.shipper_pid()
        with contextlib.suppress(ProcessLookupError):  # it had just ended by itself
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.shipper_pid() != pid, "the killed shipper is gone")

    def ship(self, spool: Path | None = None) -> str:
        """Run ``lineside ship``; its output."""
        env = environment(self.home, LINESIDE_BROKER=self.broker.address)
        options = ["--spool", str(spool)] if spool else []
        child = Child(["-m", "lineside.cli", "ship", *options], env, self.home / "ship.log")
        child.start()
        code = child.wait(60)
        assert code == 0, child.log_text()
        return child.log_text()

    def logs(self) -> dict[str, str]:
        """The logs of all processes, by file name."""
        found = [
            *self.home.glob("*.log"),
            *self.broker.home.glob("*.log"),
            *self.spool.glob("*.log"),
        ]
        return {log.name: log.read_text(errors="replace") for log in found}

    def _begin(
        self, run: str, command: list[str], env: dict[str, str], *, fork: bool = False
    ) -> Producer:
        env = {"LINESIDE_BROKER": self.broker.address, **env}
        producer = Producer(self.home, run, command, env, fork=fork)
        self.producers.append(producer)
        producer.start()
        return producer


def inject_faults(
    rng: Random,
    seconds: float,
    actions: Sequence[Callable[[], object]],
    *,
    shortest: float = 0.05,
    longest: float = 0.8,
) -> None:
    """Run each of ``actions`` once at random moments; in ``make faults`` go on for ``seconds``."""
    order = rng.sample(actions, len(actions))
    until = time.monotonic() + (seconds if REPEATS > 1 else 0.0)
    while order or time.monotonic() < until:
        time.sleep(rng.uniform(shortest, longest))
        action = order.pop() if order else rng.choice(actions)
        action()
