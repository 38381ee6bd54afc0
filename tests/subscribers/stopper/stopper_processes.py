"""A stopper and trainings, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lineside.bus.protocol.events import Event
from lineside.bus.settings import Settings
from lineside.bus.testing import read_all
from tests.support.forked import ForkedScript, run_lineside
from tests.support.waiting import DEADLINE

RUN = "scripted"


def environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "LINESIDE_HOME": str(settings.home),
        "LINESIDE_RUN_ID": RUN,
        "LINESIDE_PROJECT": "tests",
    }


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
        values_text = ",".join(map(str, values))
        more = [f"{name}={value}" for name, value in options.items()]
        self.process = ForkedScript(
            [script, output, str(steps), values_text, *more],
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

    def wait_ended(self) -> tuple[int, float, str]:
        """Wait for its end; its last step, its learning rate and its stderr."""
        out, errors = self.process.communicate(timeout=DEADLINE)
        assert self.process.returncode == 0, errors
        step, rate = out.split()[-2:]
        return int(step), float(rate), errors


def events_of(settings: Settings, producer: str, *kinds: str) -> list[Event]:
    """The events of these kinds in the journal."""
    events = read_all(settings.broker, [f"{RUN}/{producer}"], timeout=DEADLINE)
    return [event for event in events if event.kind in kinds]


def data_of(events: Iterable[Event]) -> list[dict[str, Any]]:
    return [dict(event.data or {}) for event in events]


def backtest(settings: Settings, *options: str) -> dict[str, Any]:
    """The JSON of ``lineside stopper --backtest`` for the run."""
    arguments = ["stopper", "--backtest", RUN, "--json", *options]
    done = run_lineside(*arguments, env=environment(settings), timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
