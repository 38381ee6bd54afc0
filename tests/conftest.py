"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest

# Here, because this is the one conftest.py that is loaded where tests run on other cores.
from tests.faults.session import (
    pytest_generate_tests,
    pytest_runtest_logreport,
    pytest_runtest_setup,
    pytest_terminal_summary,
)
from tests.support.forked import start_server
from tests.support.leftovers import kill_processes_of

__all__ = [
    "pytest_generate_tests",
    "pytest_runtest_logreport",
    "pytest_runtest_setup",
    "pytest_terminal_summary",
]

# Tiny models gain nothing from a second thread, and torch's threads wait in busy loops: on a
# machine that has other things to do a step takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the suite in the background, and nohup, leave these ignored, for all that the
# tests start too; and tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ON_CI = os.environ.get("CI") == "true"


def pytest_configure(config: pytest.Config) -> None:
    # One server for all workers of pytest-xdist; without workers, the first test that needs it.
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        start_server()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def clear_lineside_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine's LINESIDE_ variables say is not for tests."""
    for name in [name for name in os.environ if name.startswith("LINESIDE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def restore_signal_handlers() -> Iterator[None]:
    """A service that a test serves in this process takes these signals for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def kill_leftover_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever was started for the test's own folder ends with it."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        kill_processes_of(folder)


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], str]:
    """The path of a program that the test needs; without it the test skips, on CI it fails."""

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is None:
            missing = pytest.fail if ON_CI else pytest.skip
            missing(f"{program} is not installed")
        return path

    return find
