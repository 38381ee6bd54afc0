"""The supervisor with tiny real processes and a clock that the test sets."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside.bus.wording import describe_exit
from lineside.cli.stack.supervisor import (
    Backoff,
    Child,
    Program,
    Supervisor,
    times_text,
)
from tests.support.waiting import wait_until

SLEEPER = "import time; print('here', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('here', flush=True); time.sleep(600)"
)


class SupervisorHarness:
    """A supervisor with a clock that the test sets, and its reports."""

    def __init__(self, logs: Path, *scripts: str, grace: float = 5.0) -> None:
        self.now = 0.0
        self.reports: list[str] = []
        programs = [
            Program(f"p{n}", (sys.executable, "-c", script), {"GREETING": "hello"})
            for n, script in enumerate(scripts)
        ]
        self.supervisor = Supervisor(
            programs,
            logs,
            report=self.reports.append,
            backoff=Backoff(first=1.0, factor=2.0, longest=4.0, healthy=60.0),
            grace=grace,
            clock=lambda: self.now,
        )

    @property
    def child(self) -> Child:
        return self.supervisor.children[0]

    def until_ended(self) -> None:
        """Wait until the supervisor has detected the first child's end."""
        count = len(self.reports)

        def noticed() -> bool:
            self.supervisor.run_once()
            return len(self.reports) > count

        wait_until(noticed)


@pytest.fixture
def make_harness(tmp_path: Path) -> Iterator[Callable[..., SupervisorHarness]]:
    harnesses: list[SupervisorHarness] = []

    def make(*scripts: str, grace: float = 5.0) -> SupervisorHarness:
        harnesses.append(SupervisorHarness(tmp_path, *scripts, grace=grace))
        harnesses[-1].supervisor.start()
        return harnesses[-1]

    yield make
    for each in harnesses:
        for child in each.supervisor.children:
            each.supervisor.kill(child)


def test_the_last_output_of_a_child_is_not_its_predecessors(
    make_harness: Callable[..., SupervisorHarness], tmp_path: Path
) -> None:
    once = tmp_path / "once"
    script = f"""
import pathlib, sys
if not pathlib.Path({str(once)!r}).exists():
    pathlib.Path({str(once)!r}).touch()
    sys.exit("lineside: the first one's error")
"""
    harness = make_harness(script)
    harness.until_ended()
    assert harness.child.last_output() == "the first one's error"
    harness.now += 1.0
    harness.supervisor.run_once()
    harness.until_ended()
    assert harness.child.last_output() == "it logged nothing"


def test_a_child_that_ends_is_restarted_after_a_delay(
    make_harness: Callable[..., SupervisorHarness],
) -> None:
    it = make_harness("raise SystemExit(3)")
    it.until_ended()
    assert it.reports == ["p0 ended (exit code 3), next start in 1 s"]
    it.now = 0.9
    it.supervisor.run_once()
    assert it.child.pid is None
    it.now = 1.0
    it.supervisor.run_once()
    assert it.reports[1:] == ["p0 started again, once so far"]
    assert it.child.restarts == 1


def test_the_delay_doubles_up_to_its_limit(make_harness: Callable[..., SupervisorHarness]) -> None:
    it = make_harness("raise SystemExit(1)")
    for wait in (1, 2, 4, 4):
        it.until_ended()
        assert it.reports[-1].endswith(f"next start in {wait} s")
        it.now += wait
        it.supervisor.run_once()
    assert it.reports[-1] == "p0 started again, 4 times so far"


def test_a_child_that_ran_long_is_restarted_soon(
    make_harness: Callable[..., SupervisorHarness],
) -> None:
    it = make_harness("raise SystemExit(1)")
    it.until_ended()
    it.now += 1
    it.supervisor.run_once()
    it.now += 60
    it.until_ended()
    assert it.reports[-1] == "p0 ended (exit code 1), next start in 1 s"


def test_a_killed_child_is_named_by_its_signal(
    make_harness: Callable[..., SupervisorHarness],
) -> None:
    it = make_harness(SLEEPER)
    assert it.child.pid
    os.kill(it.child.pid, signal.SIGKILL)
    it.until_ended()
    assert it.reports == ["p0 ended (SIGKILL), next start in 1 s"]


def test_a_failed_start_is_retried(
    make_harness: Callable[..., SupervisorHarness], tmp_path: Path
) -> None:
    it = make_harness("raise SystemExit(1)")
    it.until_ended()
    log = tmp_path / "p0.log"
    log.unlink()
    log.mkdir()
    it.now = 1.0
    it.supervisor.run_once()
    assert it.reports[-1].startswith("p0 cannot be started")
    assert it.reports[-1].endswith("again in 2 s")
    log.rmdir()
    it.now = 3.0
    it.supervisor.run_once()
    assert it.reports[-1] == "p0 started again, once so far"


def test_children_get_the_environment_and_their_supervisor(
    make_harness: Callable[..., SupervisorHarness], tmp_path: Path
) -> None:
    make_harness("import os; print(os.environ['GREETING'], os.environ['LINESIDE_SUPERVISOR_PID'])")
    log = tmp_path / "p0.log"
    wait_until(lambda: log.read_text().endswith("\n"))
    assert log.read_text() == f"hello {os.getpid()}\n"


def test_a_childs_output_is_read_line_by_line(
    make_harness: Callable[..., SupervisorHarness],
) -> None:
    it = make_harness(
        "import time; print('one\\ntwo', flush=True); print('thr', end='', flush=True);" + SLEEPER
    )
    lines: list[str] = []

    def has_three_lines() -> bool:
        lines.extend(it.child.log.new_lines())
        return len(lines) >= 3

    wait_until(has_three_lines)
    assert lines == ["one", "two", "thrhere"]
    assert it.child.log.last_lines(2) == ["two", "thrhere"]


def test_stop_ends_every_child_in_time(
    make_harness: Callable[..., SupervisorHarness],
) -> None:
    it = make_harness(SLEEPER, SLEEPER)
    pids = [child.pid for child in it.supervisor.children]
    it.supervisor.stop()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 0, 0)
    assert it.reports == []


def test_a_child_that_ignores_sigterm_is_killed(
    make_harness: Callable[..., SupervisorHarness], tmp_path: Path
) -> None:
    it = make_harness(STUBBORN, grace=0.2)
    wait_until(lambda: (tmp_path / "p0.log").read_text())
    it.supervisor.stop()
    assert it.reports == ["p0 did not end within 0.2 s: killed"]
    assert it.child.last_exit == -signal.SIGKILL


def test_a_frozen_child_ends_too(
    make_harness: Callable[..., SupervisorHarness], tmp_path: Path
) -> None:
    it = make_harness(SLEEPER)
    wait_until(lambda: (tmp_path / "p0.log").read_text())
    assert it.child.pid
    os.kill(it.child.pid, signal.SIGSTOP)
    it.supervisor.stop()
    assert it.child.last_exit == -signal.SIGTERM


def test_a_long_log_keeps_its_older_part_beside_it(
    make_harness: Callable[..., SupervisorHarness], tmp_path: Path
) -> None:
    it = make_harness(SLEEPER)
    log = it.child.log
    wait_until(lambda: log.path.read_text())
    with log.path.open("a") as more:
        more.write("x" * (5 << 20) + "\n")
    it.supervisor.run_once()
    assert log.path.stat().st_size == 0
    assert (tmp_path / "p0.log.1").stat().st_size > 5 << 20
    with contextlib.closing(log.path.open("a")) as more:
        more.write("new\n")
    assert log.new_lines() == ["new"]


@pytest.mark.parametrize(
    ("code", "reports"),
    [(0, "exit code 0"), (2, "exit code 2"), (-15, "SIGTERM"), (-70, "signal 70")],
)
def test_an_exit_is_described(code: int, reports: str) -> None:
    assert describe_exit(code) == reports


def test_times_are_counted_in_words() -> None:
    assert [times_text(n) for n in (1, 2, 3)] == ["once", "twice", "3 times"]
