"""Two homes in which many trainings end at once, and the statuses that their stores show."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from lineside.bus.errors import RunNotFound
from lineside.store.history.history import History
from lineside.store.history.records import Run
from tests.endings_loop import EVENT_TIME_FILE
from tests.faults.stack import Stack
from tests.support.fork_server import ROOT
from tests.support.forked import ForkedCommand, ForkedScript
from tests.support.processes import environment
from tests.support.waiting import wait_until

SCRIPT = ROOT / "tests" / "endings_train.py"
LOOP = ROOT / "tests" / "endings_loop.py"
TIMEOUT_SECONDS = 240.0
_ENTER_CGROUP = """
import os, pathlib, sys
pathlib.Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class StatusHistory:
    """Polls a store: every status and reason that it showed for each run, with the time."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._seen: dict[str, list[tuple[float, str, str]]] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()

    def statuses(self, run: str) -> list[str]:
        return [status for _, status, _ in self._seen.get(run, [])]

    def since(self, run: str, status: str, reason: str, after: float = 0.0) -> float | None:
        """When the store first showed this after ``after``, in seconds since the epoch."""
        for at, status_then, reason_then in list(self._seen.get(run, [])):
            if at >= after and status_then == status and re.fullmatch(reason, reason_then):
                return at
        return None

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._closed.wait(0.2):
            for run in self._history.runs(limit=1000).items:
                seen = self._seen.setdefault(run.id, [])
                now = (run.status, run.reason or "")
                if not seen or seen[-1][1:] != now:
                    seen.append((time.time(), *now))


class Deployment:
    """A home with a broker and a recorder, and the history of the statuses in its store."""

    def __init__(self, home: Path) -> None:
        self.stack = Stack(home)
        self.stack.start()
        self.history = self.stack.history()
        self.status_history = StatusHistory(self.history)

    def run(self, name: str) -> Run | None:
        with contextlib.suppress(RunNotFound):
            return self.history.run(name)
        return None

    def close(self) -> None:
        self.status_history.close()
        self.stack.__exit__(None, None, None)


class EndingsHarness:
    """Two homes, so that the broker of one can be frozen, and the processes started there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.main, self.other = Deployment(folder / "main"), Deployment(folder / "other")
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> EndingsHarness:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.main.close()
        self.other.close()

    def output(self, run: str) -> Path:
        return self.folder / "output" / run

    def fork(
        self, run: str, script: Sequence[str | Path], env: Mapping[str, str], deployment: Deployment
    ) -> subprocess.Popen[bytes]:
        """Start a script without a launcher, forked from the server that has torch loaded."""
        home = str(deployment.stack.home)
        return self._start(ForkedScript, run, script, {**env, "LINESIDE_HOME": home})

    def train(
        self, run: str, scenario: str, env: Mapping[str, str], deployment: Deployment
    ) -> subprocess.Popen[bytes]:
        """Start a training without a launcher."""
        return self.fork(run, [SCRIPT, scenario, self.output(run)], env, deployment)

    def _start(
        self,
        popen: Callable[..., subprocess.Popen[bytes]],
        run: str,
        command: Sequence[str | Path],
        env: Mapping[str, str],
    ) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own."""
        output = self.output(run)
        output.mkdir(parents=True)
        more = {"PYTHONPATH": str(ROOT), "LINESIDE_RUN_ID": run, **env}
        with (output / "log").open("wb") as log:
            process = popen(
                command,
                env={**environment(self.main.stack.home), **more},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def launch(
        self,
        run: str,
        script: Path,
        scenario: str,
        env: Mapping[str, str],
        group: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start ``script`` under ``lineside run``, in the cgroup ``group``."""
        training = [sys.executable, str(script), scenario, str(self.output(run))]
        own = [sys.executable, "-m", "lineside.cli", "run", "--", *training]
        if group is None:
            return self._start(ForkedCommand, run, own, env)
        enter = [sys.executable, "-c", _ENTER_CGROUP, str(group)]
        return self._start(subprocess.Popen, run, [*enter, *own], env)

    def wait_training(self, run: str, deployment: Deployment) -> int:
        """Wait until the training has done two steps; its pid."""

        def is_training() -> bool:
            found = deployment.run(run)
            return found is not None and (found.step or 0) >= 2

        wait_until(is_training, f"{run} trains", TIMEOUT_SECONDS)
        pid: int = deployment.history.configuration(run)["process"]["pid"]
        return pid

    def event_time(self, run: str) -> float:
        """When the training acted on itself, in seconds since the epoch."""
        path = self.output(run) / EVENT_TIME_FILE
        wait_until(path.exists, f"{run} acts", TIMEOUT_SECONDS)
        wait_until(path.read_text, f"{run} writes the time", TIMEOUT_SECONDS)
        return float(path.read_text())

    def log(self, run: str) -> str:
        path = self.output(run) / "log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""
