"""Homes for the real command, and one home with a running stack and a recorded run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.homes import RUN_ID, Home
from tests.support.leftovers import kill_processes_of
from tests.support.waiting import wait_until


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """An empty home; the processes started in it end with the test."""
    it = Home(tmp_path / "home")
    yield it
    it.close()


@pytest.fixture(scope="session")
def running_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with a running stack and the run ``first-run`` in its store."""
    it = Home(tmp_path_factory.mktemp("station"))
    try:
        it.up("--quiet")
        it.train()
        wait_until(lambda: '"status": "finished"' in it.lineside("show", RUN_ID, "--json").stdout)
        yield it
    finally:
        it.close()
        kill_processes_of(it.path)
