"""A store in a temporary folder, and a server over it on a free port."""

from __future__ import annotations

import importlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from lineside.bus.auth.listener import address, listen
from lineside.bus.settings import Settings
from lineside.dashboard.app import create_app
from lineside.dashboard.backend import command_sender
from lineside.dashboard.server import Server, server_config
from lineside.store.database.engine import open_store
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.dashboard.synthetic import Feeder, Training
from tests.support.waiting import DEADLINE, wait_until


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """``app`` behind a real server in a thread; its address."""
    listener = listen("127.0.0.1", 0)
    server = Server(server_config(app, log_level="critical"), app.state.hub)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, "the server started")
        yield address(listener)
    finally:
        server.should_exit = True
        thread.join(DEADLINE)
        listener.close()
        assert not thread.is_alive(), "the server did not end"


def settings_for(home: Path) -> Settings:
    """Settings with ``home`` as home folder."""
    return Settings.from_env({"LINESIDE_HOME": str(home)})


class Harness:
    """A store with its feeder, and the site over it."""

    def __init__(self, home: Path) -> None:
        self.settings = settings_for(home)
        self.engine = open_store(self.settings.store, create=True)
        self.history = History(self.engine)
        self.feeder = Feeder(Writer(self.engine))
        self.app = create_app(self.history, Writer(self.engine), self.settings)

    def train(self, run: str = "tiny-1", **given: object) -> Training:
        """A finished run of 40 steps, or as ``given``."""
        training = self.begin(run, **given)
        training.end(self.feeder, training.train(self.feeder))
        return training

    def begin(self, run: str = "tiny-1", **given: object) -> Training:
        """A run that has begun."""
        fields = {
            "name": run,
            "began": time.time() - 60,
            "steps": 40,
            "log_every": 5,
            "eval_every": 20,
            "save_every": 20,
            **given,
        }
        training = Training(run, **fields)  # type: ignore[arg-type]
        training.begin(self.feeder)
        return training


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    found = Harness(tmp_path)
    yield found
    found.engine.dispose()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dashboard waits 0.2 s for a broker, where there is none."""
    monkeypatch.setattr(command_sender, "_TIMEOUT_SECONDS", 0.2)


@pytest.fixture
def site(harness: Harness) -> Iterator[str]:
    with serving(harness.app) as url:
        yield url


@pytest.fixture
def client(site: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site, timeout=DEADLINE) as found:
        yield found


@pytest.fixture(scope="module")
def browser(require_program: Callable[[str], str]) -> Iterator[Any]:
    """A Chromium, for tests marked ``browser``."""
    playwright: Any = importlib.import_module("playwright.sync_api")
    # Room for a machine at load 10; the default is 5 s.
    playwright.expect.set_options(timeout=DEADLINE * 1000)
    with playwright.sync_playwright() as driver:
        # A page takes a tenth of the CPU in the shell, which has no windows.
        found = driver.chromium.launch(
            executable_path=shutil.which("chromium-headless-shell") or require_program("chromium"),
            args=["--no-sandbox", "--disable-gpu"],
        )
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A new page, which must not log an error."""
    from tests.dashboard.pages.browsing import open_page

    with open_page(browser) as found:
        yield found
