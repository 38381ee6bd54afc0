"""``lineside run`` in a process of its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

from lineside.bus.protocol.events import Event
from lineside.bus.testing import read_all
from tests.support.forked import ForkedCommand
from tests.support.waiting import DEADLINE

LOOP = """
import os, signal, sys, time
from lineside.emitter import start_run
with start_run() as run:
    run.log({"loss": 1.0}, step=1)
    print("ready", flush=True)
    %s
"""


def python(body: str) -> tuple[str, ...]:
    return sys.executable, "-c", body


class Launched:
    """``lineside run -- COMMAND`` with spool and broker of a test, in a session of its own."""

    def __init__(
        self,
        folder: Path,
        spool: Path,
        address: str,
        *command: str,
        tty: int | None = None,
        **env: str,
    ) -> None:
        self.address = address

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        popen: type[subprocess.Popen[str]] = subprocess.Popen if tty is not None else ForkedCommand
        self.process = popen(
            [sys.executable, "-m", "lineside.cli", "run", "--", *command],
            env={
                **os.environ,
                "LINESIDE_HOME": str(folder / "home"),
                "LINESIDE_SPOOL": str(spool),
                "LINESIDE_BROKER": address,
                **env,
            },
            stdin=tty if tty is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=take_terminal if tty is not None else None,
        )

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def end(self, seconds: float = DEADLINE) -> tuple[int, str, str]:
        """Exit code, output and errors."""
        output, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, output, errors

    def exits(self) -> list[Event]:
        """The ``process_exit`` events of the command."""
        events = read_all(
            self.address,
            ["*/launcher"],
            until=lambda events: bool(events),
            timeout=DEADLINE,
        )
        assert {event.kind for event in events} == {"process_exit"}
        return events


def exit_of(launched: Launched) -> dict[str, Any]:
    (event,) = launched.exits()
    assert event.data is not None
    return dict(event.data)
