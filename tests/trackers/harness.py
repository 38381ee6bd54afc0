"""One training whose values reach a tracker twice: in-process, and through the callback host."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lineside.bus.protocol.event_kinds import SUBSCRIBER_ERROR
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, read_all
from lineside.subscribers.callback_host.manager import MAX_PROCESSES
from lineside.subscribers.callback_host.worker_spec import callback_folder
from tests.subscribers.callback_host.host_process import HostProcess
from tests.support.leftovers import kill_processes_of
from tests.support.processes import Child, environment
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("train.py")
RUN = "twin"
TRAINING_SECONDS = 400.0
HOSTED_SECONDS = 400.0
OFFLINE = {
    "WANDB_MODE": "offline",
    "HF_HUB_OFFLINE": "1",
    "COMET_DISABLE_AUTO_LOGGING": "1",  # comet_ml copies the runs of the other trackers
    "DVCLIVE_LOGLEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
}


class Twins:
    """A broker and a callback host in ``folder``, and trainings beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.checkpoints = folder / "training/output"
        self.checkpoints.mkdir(parents=True)
        self.broker = BrokerProcess(self.home)
        self.host: HostProcess | None = None

    def __enter__(self) -> Self:
        self.broker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.host is not None:
                self.host.kill()
            self.broker.stop()
        finally:
            kill_processes_of(self.folder)

    def start_training(
        self, scenario: str, callbacks: Sequence[str], variables: Mapping[str, str]
    ) -> Child:
        """Start ``train.py`` with in-process ``callbacks``; ``variables`` are theirs."""
        env = environment(
            self.home,
            **{
                "LINESIDE_BROKER": self.broker.address,
                "LINESIDE_RUN_ID": RUN,
                "LINESIDE_SAMPLER": "0",
                **OFFLINE,
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                **variables,
            },
        )
        command = [str(SCRIPT), scenario, str(self.checkpoints), *callbacks]
        child = Child(command, env, self.folder / "training.log", cwd=self.checkpoints.parent)
        child.start()
        return child

    def train(
        self,
        scenario: str,
        callbacks: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        *,
        exit_code: int = 0,
    ) -> None:
        """Run ``train.py`` to its end."""
        child = self.start_training(scenario, callbacks, variables or {})
        assert child.wait(TRAINING_SECONDS) == exit_code, child.log_text()[-6000:]

    def start_host(
        self, entries: Sequence[Mapping[str, Any]], max_processes: int = MAX_PROCESSES
    ) -> None:
        """Start a callback host; ``id`` of an entry names its folder."""
        settings = Settings(self.home, self.broker.address, self.home / "spool", "")
        entries = [
            {**entry, "environment": {**OFFLINE, **entry.get("environment", {})}}
            for entry in entries
        ]
        self.host = HostProcess(settings, entries, max_processes)
        self.host.start()
        self.host.wait_started()

    def output(self, entry: str) -> str:
        """What the callback of an entry wrote, with the worker's own log."""
        file = callback_folder(self.home, entry, RUN) / "output.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def wait_hosted(self, *entries: str, attempts: int = 1) -> None:
        """Wait until the callbacks have processed ``attempts``, and stop the host."""
        for entry in entries:
            self._wait_over(entry, attempts)
        wait_until(lambda: not self.workers(), "the trackers' runs are closed", HOSTED_SECONDS)
        if self.host is not None:
            self.host.stop()

    def _wait_over(self, entry: str, attempts: int) -> None:
        def is_over() -> bool:
            return self.output(entry).count(" is over: ") >= attempts

        try:
            wait_until(is_over, f"{entry} has processed the run", HOSTED_SECONDS)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; its output:\n{self.output(entry)[-6000:]}") from None

    def errors(self) -> list[str]:
        """The messages of ``subscriber_error`` on the run."""
        events = read_all(self.broker.address, (RUN,))
        return [
            str((event.data or {}).get("error", {}).get("message"))
            for event in events
            if event.kind == SUBSCRIBER_ERROR
        ]

    def workers(self) -> list[int]:
        """Ids of the processes of callbacks."""
        if self.host is None:
            return []
        return [
            int(pid)
            for task in Path(f"/proc/{self.host.pid}/task").iterdir()
            for pid in (task / "children").read_text().split()
        ]

    def kill_workers(self) -> int:
        """``kill -9`` the processes of all callbacks; how many there were."""
        pids = self.workers()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)
