"""A real stopper and real trainings beside it, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lineside.bus.events import Event
from lineside.bus.service import SUPERVISOR_PID
from lineside.bus.settings import Settings
from lineside.bus.testing import read_all
from tests.subscribers.conftest import wait_until

ROOT = Path(__file__).parents[2]
RUN = "scripted"
PATIENCE = 60.0


def environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "LINESIDE_HOME": str(settings.home),
        "LINESIDE_RUN_ID": RUN,
        "LINESIDE_PROJECT": "tests",
        "PYTHONPATH": str(ROOT),
    }


class StopperProcess:
    """``lineside stopper`` as a user would start it; killed and started again at will."""

    def __init__(self, settings: Settings, *options: str) -> None:
        self.log = settings.home / "stopper.log"
        self._settings = settings
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lineside.cli", "stopper", *self._options],
                env=environment(self._settings) | {SUPERVISOR_PID: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait_started(self) -> None:
        """Return once it says so."""
        assert self._process is not None
        said = f"started, pid {self._process.pid}\n"
        wait_until(lambda: said in self.log.read_text(), "the stopper is up")

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> StopperProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        print(self.log.read_text()[-4000:])  # pytest shows it if the test failed


class Training:
    """``scripted_trainer.py``; killed on leaving if it has not ended."""

    def __init__(
        self,
        settings: Settings,
        output: Path,
        steps: int,
        values: Sequence[float],
        **options: object,
    ) -> None:
        script = Path(__file__).with_name("scripted_trainer.py")
        said = ",".join(map(str, values))
        more = [f"{name}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(output), str(steps), said, *more],
            env=environment(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Training:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[int, float, str]:
        """Its last step, its learning rate, and what it said on stderr, once it has ended."""
        out, said = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, said
        step, rate = out.split()[-2:]
        return int(step), float(rate), said


def events_of(settings: Settings, producer: str, *kinds: str) -> list[Event]:
    """What the journal has of these kinds."""
    events = read_all(settings.broker, [f"{RUN}/{producer}"])
    return [event for event in events if event.kind in kinds]


def data_of(events: Iterable[Event]) -> list[dict[str, Any]]:
    return [dict(event.data or {}) for event in events]


def backtest(settings: Settings, *options: str) -> dict[str, Any]:
    """What ``lineside stopper --backtest`` says of the run."""
    done = subprocess.run(
        [sys.executable, "-m", "lineside.cli", "stopper", "--backtest", RUN, "--json", *options],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
