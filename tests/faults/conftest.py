"""Fixtures of the fault tests: a stack in a home of its own, and seeded random moments.

``LINESIDE_FAULT_SEED`` chooses the random moments, which differ in each repetition.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random

import pytest

from tests.faults.accounts import AccountCheck, NotedEvent, compare
from tests.faults.session import count
from tests.faults.stack import Stack


@pytest.fixture
def stack(tmp_path: Path, rng: Random) -> Iterator[Stack]:
    """A home with nothing running yet."""
    with Stack(tmp_path) as made:
        yield made
        logs = made.logs()
    for name, text in logs.items():
        print(f"--- {name}\n{text[-3000:]}")  # pytest shows it if the test failed


Check = Callable[..., AccountCheck]
CheckAll = Callable[[Mapping[str, list[NotedEvent]]], None]


@pytest.fixture
def check(request: pytest.FixtureRequest, stack: Stack) -> Check:
    """``check(run, noted)``: wait until the store is up to date, compare, and count in the table.

    With ``exact`` (the default) exactly the noted events must be recorded, once and in order;
    ``torn`` allows one more event, whose producer was killed before it could note it.
    """

    def judged(
        run: str, noted: list[NotedEvent], *, torn: bool = False, exact: bool = True
    ) -> AccountCheck:
        result = compare(stack.history(), stack.wait_recorded(run), run, noted)
        _count(request, result)
        if exact:
            assert result.is_exact(torn=torn), result
        return result

    return judged


@pytest.fixture
def check_all(request: pytest.FixtureRequest, stack: Stack) -> CheckAll:
    """``check_all({run: noted, ...})``: the same for many runs at once, each exact."""

    def judged(noted: Mapping[str, list[NotedEvent]]) -> None:
        journaled = stack.wait_recorded(*noted)
        results = {run: compare(stack.history(), journaled, run, noted[run]) for run in noted}
        for run, result in results.items():
            _count(request, result)
            assert result.is_exact(), f"{run}: {result}"

    return judged


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    """``small_disk(name, size)``: a file system of ``size`` bytes of its own.

    Request it before ``stack``, whose processes must have closed its files when it is unmounted.
    Skipped where mounting is not allowed, but not on CI.
    """
    mounted: list[Path] = []

    def mount(name: str, size: int) -> Path:
        folder = tmp_path / name
        folder.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and not os.environ.get("CI"):
            pytest.skip(f"a file system of its own cannot be mounted here: {done.stderr.strip()}")
        assert not done.returncode, done.stderr
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _count(request: pytest.FixtureRequest, result: AccountCheck) -> None:
    count(request.node, events=result.noted, lost=result.lost, twice=result.twice)
    assert result.noted > 0
