"""Hooks and fixtures of all tests."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from lineside.bus.testing import BrokerProcess

# Imported here, because pytest-xdist workers load no other conftest.py before the tests.
from tests.faults.session import (
    pytest_generate_tests,
    pytest_runtest_logreport,
    pytest_runtest_setup,
    pytest_terminal_summary,
    rng,
)
from tests.support.forked import COMMANDS, TRAINER, ForkedCommand, start_server
from tests.support.leftovers import kill_processes_of

__all__ = [
    "pytest_generate_tests",
    "pytest_runtest_logreport",
    "pytest_runtest_setup",
    "pytest_terminal_summary",
    "rng",
]

# Without these files each worker rewrites the assertions of all test modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Tiny models gain nothing from a second thread, and the threads of torch wait in busy loops: on a
# busy machine a step then takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the suite in the background, and nohup, ignore these signals, and child
# processes inherit that. Tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The suite starts some 250 brokers.
BrokerProcess.popen = ForkedCommand

ON_CI = os.environ.get("CI") == "true"


def pytest_configure(config: pytest.Config) -> None:
    # The workers of pytest-xdist share these; without workers, the first test in need starts one.
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        start_server(TRAINER)
        start_server(COMMANDS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def clear_lineside_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the LINESIDE_ variables of the machine; only tests of the sampler start one."""
    for name in [name for name in os.environ if name.startswith("LINESIDE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LINESIDE_SAMPLER", "0")


@pytest.fixture(autouse=True)
def restore_signal_handlers() -> Iterator[None]:
    """Restore the handlers that a service sets when a test runs it in this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def kill_leftover_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Kill the processes of the test's own folder when the test ends."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        kill_processes_of(folder)


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], str]:
    """Find the path of a program; without it the test skips, on CI it fails."""

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is None:
            missing = pytest.fail if ON_CI else pytest.skip
            missing(f"{program} is not installed")
        return path

    return find
