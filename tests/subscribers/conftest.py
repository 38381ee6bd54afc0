"""A real broker and a real recorder, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest
from sqlalchemy import Engine

from lineside.bus.service import SUPERVISOR_PID
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess
from lineside.store.database.engine import open_store
from lineside.store.history.history import History
from tests.support.waiting import wait_until

DEADLINE = 60.0


class ServiceProcess:
    """``lineside SERVICE`` as a user would start it; killed and started again at will."""

    def __init__(self, service: str, settings: Settings, *options: str) -> None:
        self.log = settings.home / f"{service}.log"
        self._command = [sys.executable, "-m", "lineside.cli", service, *options]
        self._environment = {
            **os.environ,
            "LINESIDE_HOME": str(settings.home),
            "LINESIDE_BROKER": settings.broker,
            "LINESIDE_STORE": settings.store,
            SUPERVISOR_PID: str(os.getpid()),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait_started(self) -> None:
        """Return once it logs that it started."""
        assert self.process is not None
        started_line = f"started, pid {self.process.pid}\n"
        wait_until(lambda: started_line in self.log.read_text(), f"{self.log.stem} is up")

    def kill(self) -> None:
        """``kill -9``."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> int:
        """End it as a user would; its exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(30)
        self.process = None
        return code

    def __enter__(self) -> ServiceProcess:
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


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"LINESIDE_HOME": str(tmp_path / "home")})


@pytest.fixture
def broker(settings: Settings) -> Iterator[BrokerProcess]:
    with BrokerProcess(settings.home) as process:
        yield process


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    made = open_store(settings.store, create=True)
    yield made
    made.dispose()


@pytest.fixture
def history(engine: Engine) -> History:
    return History(engine)
