"""A broker and the subscribers of measured trainings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lineside.bus.protocol.event_kinds import SUBSCRIBER_ERROR
from lineside.bus.service import SUPERVISOR_PID
from lineside.bus.testing import BrokerProcess, read_all

END_SECONDS = 10.0


class Hosting:
    """The processes of one home, from the context's start to its end.

    The callback host runs ``entries`` and, always, the trackers that runs hand over; ``upload`` is
    an entry of ``uploads``, ``archive`` the section of that name. ``variables`` are those of the
    trackers, also for the trainings.
    """

    def __init__(
        self,
        home: Path,
        variables: Mapping[str, str],
        entries: Sequence[str] = (),
        upload: Mapping[str, Any] | None = None,
        archive: Mapping[str, Any] | None = None,
    ) -> None:
        self.home = home
        self.environment = {**variables, "LINESIDE_HOME": str(home), "LINESIDE_SAMPLER": "0"}
        self._broker = BrokerProcess(home)
        self._configuration: dict[str, Any] = {"custom_callbacks": list(entries)}
        self._commands = [["callback-host"]]
        if upload is not None:
            self._configuration["uploads"] = {"upload": dict(upload)}
            self._commands.append(["uploader", "upload"])
        if archive is not None:
            self._configuration["archive"] = dict(archive)
            self._commands.append(["archiver"])
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Hosting:
        self._broker.start()
        file = self.home / "lineside.yaml"
        file.write_text(json.dumps(self._configuration))  # JSON is YAML
        env = {**os.environ, **self.environment, SUPERVISOR_PID: str(os.getpid())}
        for command in self._commands:
            with (self.home / f"{command[0]}.log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "lineside.cli", *command, "--config", str(file)],
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self._processes.append(process)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._broker.stop()

    def wait_until_delivered(self, run: str, *entries: str, seconds: float = 300.0) -> None:
        """Return once the callbacks of ``entries`` have processed the whole run.

        Raises:
            RuntimeError: a callback failed on an event of the run.
            TimeoutError: one has not processed it within ``seconds``.
        """
        deadline = time.monotonic() + seconds
        for entry in entries:
            output = self.home / "callbacks" / entry / run / "output.log"
            while not (output.exists() and " is over: " in output.read_text(errors="replace")):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{output} has not the end of the run after {seconds:g} s")
                time.sleep(0.1)
        for event in read_all(self._broker.address, [run]):
            if event.kind == SUBSCRIBER_ERROR:
                raise RuntimeError(f"{run}: {event.data}")
