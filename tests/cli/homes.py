"""Homes for the real command and the processes started there."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.forked import ForkedCommand, run_lineside
from tests.support.waiting import DEADLINE

NO_VARIABLES: Mapping[str, str] = {}
RUN_ID = "first-run"
STEPS = 300
TRAINING = f"""
import math
from lineside.emitter import start_run

with start_run("a first run", run_id="{RUN_ID}", project="tests", config=dict(lr=0.1)) as run:
    for step in range(1, {STEPS} + 1):
        for kind in ("step_begin", "step_end"):
            run.event(kind, step=step)
        values = dict(loss=math.nan if step == 7 else 1 / step, speed=math.inf)
        run.log(values, step=step, epoch=step / 100)
    run.event("save", dict(checkpoint="/somewhere/checkpoint-300"), step={STEPS})
"""


@dataclass
class Home:
    """A LINESIDE_HOME and its command line."""

    path: Path
    started: list[Process] = field(default_factory=list)
    popen: type[subprocess.Popen[str]] = ForkedCommand
    """How a command that ``lineside`` runs is started."""
    page: str = ""
    """The dashboard's address once ``up`` has printed it."""

    def environment(self, more: Mapping[str, str] = NO_VARIABLES) -> dict[str, str]:
        kept = {name: v for name, v in os.environ.items() if not name.startswith("LINESIDE_")}
        return kept | {"LINESIDE_HOME": str(self.path), "COLUMNS": "100", **more}

    def lineside(
        self, *arguments: str, env: Mapping[str, str] = NO_VARIABLES, seconds: float = DEADLINE
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that must end within ``seconds``."""
        environment = self.environment(env)
        return run_lineside(*arguments, env=environment, timeout=seconds, popen=self.popen)

    def start(
        self, *arguments: str, env: Mapping[str, str] = NO_VARIABLES, seconds: float = DEADLINE
    ) -> Process:
        """Start a command in the background; ``until`` waits ``seconds`` for its output."""
        self.started.append(Process(arguments, self.environment(env), seconds))
        return self.started[-1]

    def train(self, script: str = TRAINING) -> str:
        """Run a training script; its stderr."""
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=self.environment(),
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE,
        )
        sys.stderr.write(done.stderr)
        done.check_returncode()
        return done.stderr

    def up(self, *options: str) -> tuple[Process, str]:
        """``lineside up`` once it is ready, with the page's address."""
        process = self.start("up", "--port", "0", *options)
        self.page = process.until(r"page +(http://\S+)\n")
        process.until(r"Ctrl-C ends it")
        return process, self.page

    def close(self) -> None:
        for process in self.started:
            process.close()


def lineside_without(
    packages: Sequence[str], home: Home, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in an environment without ``packages``, simulated by the first finder."""
    code = f"""
import sys
missing = {set(packages)!r}
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in missing:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Missing())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in missing else find(name)
sys.argv = ["lineside", *{arguments!r}]
from lineside.cli.main import main
main()
"""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=home.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )


class Process:
    """A background command and its output so far."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str], seconds: float) -> None:
        self.out = ""
        self._seconds = seconds
        self._process = ForkedCommand(
            [sys.executable, "-m", "lineside.cli", *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def until(self, pattern: str) -> str:
        """The first group of ``pattern`` once it is printed."""
        assert self._process.stdout
        until = time.monotonic() + self._seconds
        while not (found := re.search(pattern, self.out)):
            ready, _, _ = select.select([self._process.stdout], [], [], until - time.monotonic())
            data = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            assert data, f"no {pattern!r} in: {self.out}"
            self.out += data.decode()
        return found[1] if found.groups() else found[0]

    def peek(self) -> bool:
        """Whether there is unread output."""
        assert self._process.stdout
        return bool(select.select([self._process.stdout], [], [], 1.0)[0])

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = DEADLINE) -> int:
        """The exit code; the rest of the output goes to ``out``."""
        rest, _ = self._process.communicate(timeout=timeout)
        self.out += rest.decode()
        return self._process.returncode

    def close(self) -> None:
        """End it by SIGTERM first, so that its children end too."""
        if self._process.stdout is None or self._process.stdout.closed:
            return
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(15)
            self._process.kill()
        self._process.communicate()
