"""The sums over a tree of processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lineside.emitter.sampler.process_metrics import Process, ProcessTable, TreeMetrics
from lineside.emitter.sampler.rates import per_second

TICKS = os.sysconf("SC_CLK_TCK")


def process(pid: int, parent: int, cpu: float = 0.0, started: int = 0) -> Process:
    return Process(pid, parent, cpu, threads=2, started=started, resident_bytes=100)


def test_a_tree_has_all_descendants_once() -> None:
    table = ProcessTable({pid: process(pid, parent) for pid, parent in ((1, 0), (5, 1), (6, 5))})
    table[7] = process(7, 1)
    assert sorted(one.pid for one in table.tree([5, 6])) == [5, 6]
    assert [one.pid for one in table.tree([9])] == []


def test_this_process_and_its_child_are_in_the_table() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        tree = ProcessTable.read().tree([os.getpid()])
        child.communicate(b"\n")
    assert {os.getpid(), child.pid} <= {one.pid for one in tree}
    assert all(one.resident_bytes > 0 and one.threads > 0 for one in tree if one.pid != child.pid)


def test_a_zombie_is_not_in_the_table() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.pid not in ProcessTable.read()
    child.wait()


class Clock:
    """Seconds since the boot, set by the test."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_cpu_time_of_new_and_ended_processes_never_makes_a_rate_negative() -> None:
    clock = Clock(1000.0)
    metrics = TreeMetrics([process(5, 1, cpu=100.0), process(6, 5, cpu=50.0)], clock)
    clock.now += 10
    new = process(7, 5, cpu=5.0, started=1003 * TICKS)
    found = metrics.read([process(5, 1, cpu=110.0), new])
    assert found["process/cpu_cores"] == pytest.approx(1.5)
    assert found["process/count"] == 2
    assert found["process/threads"] == 4
    assert found["process/resident_memory_bytes"] == 200


def test_a_process_with_a_reused_id_is_another_one() -> None:
    clock = Clock(1000.0)
    metrics = TreeMetrics([process(5, 1, cpu=100.0)], clock)
    clock.now += 10
    found = metrics.read([process(5, 1, cpu=3.0, started=1001 * TICKS)])
    assert found["process/cpu_cores"] == pytest.approx(0.3)


def test_a_rank_that_joins_is_not_charged_at_once_with_all_that_it_ever_used() -> None:
    clock = Clock(1000.0)
    metrics = TreeMetrics([process(5, 1, cpu=100.0)], clock)
    late = process(6, 1, cpu=400.0, started=900 * TICKS)
    clock.now += 10
    assert metrics.read([process(5, 1, cpu=105.0), late])["process/cpu_cores"] == 0.5
    clock.now += 10
    later = late._replace(cpu_seconds=410.0)
    assert metrics.read([process(5, 1, cpu=110.0), later])["process/cpu_cores"] == 1.5


def test_a_counter_that_was_reset_has_no_rate() -> None:
    now, before = {"a": 5.0, "b": 1.0, "c": 2.0}, {"a": 1.0, "b": 9.0}
    assert per_second(now, before, 2.0) == {"a_per_second": 2.0}
    assert per_second(now, before, 0.0) == {}
