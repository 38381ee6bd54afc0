"""A real broker and a real recorder, each in its own process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess
from lineside.store.database.engine import open_store
from lineside.store.history.history import History
from tests.support.processes import Child, supervised
from tests.support.waiting import wait_until


class ServiceProcess(Child):
    """``lineside SERVICE``, forked."""

    def __init__(self, service: str, settings: Settings, *options: str) -> None:
        places = {"LINESIDE_BROKER": settings.broker, "LINESIDE_STORE": settings.store}
        command = ["-m", "lineside.cli", service, *options]
        log = settings.home / f"{service}.log"
        super().__init__(command, supervised(settings.home, **places), log)

    def wait_started(self) -> None:
        """Return once the service has logged that it is up."""
        started_line = f"started, pid {self.pid}\n"
        wait_until(lambda: started_line in self.log_text(), f"{self.log.stem} is up")


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
