"""The sums over a tree of processes."""

from __future__ import annotations

import os
import subprocess
import sys

from lineside.emitter.sampler.process_metrics import Process, ProcessTable, TreeMetrics
from lineside.emitter.sampler.rates import per_second


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


def test_cpu_time_of_new_and_ended_processes_never_makes_a_rate_negative() -> None:
    metrics = TreeMetrics([process(5, 1, cpu=100.0), process(6, 5, cpu=50.0)])
    metrics._read_at -= 10
    found = metrics.read([process(5, 1, cpu=110.0), process(7, 5, cpu=5.0)])
    assert 1.4 < found["process/cpu_cores"] <= 1.5
    assert found["process/count"] == 2
    assert found["process/threads"] == 4
    assert found["process/resident_memory_bytes"] == 200


def test_a_process_with_a_reused_id_is_another_one() -> None:
    metrics = TreeMetrics([process(5, 1, cpu=100.0)])
    metrics._read_at -= 10
    found = metrics.read([process(5, 1, cpu=3.0, started=77)])
    assert 0.25 < found["process/cpu_cores"] <= 0.3


def test_a_counter_that_was_reset_has_no_rate() -> None:
    now, before = {"a": 5.0, "b": 1.0, "c": 2.0}, {"a": 1.0, "b": 9.0}
    assert per_second(now, before, 2.0) == {"a_per_second": 2.0}
    assert per_second(now, before, 0.0) == {}
