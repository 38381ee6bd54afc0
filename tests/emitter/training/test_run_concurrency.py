"""Runs under threads, signals, copies, forks and the workers of multiprocessing."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from lineside.emitter import start_run
from lineside.emitter.training import shutdown
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import only
from tests.emitter.training.loops import publisher_of, script


def test_threads_never_mix_their_events(home: Path, spool_events: ReadSpool) -> None:
    run = start_run()

    def work(worker: int) -> None:
        for n in range(500):
            run.log({"worker": worker, "n": n}, step=n)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.finish()
    events = only(spool_events())
    assert [event.seq for event in events] == list(range(4_002))
    logs = [event.data["logs"] for event in events if event.kind == "log" and event.data]
    for worker in range(8):
        assert [log["n"] for log in logs if log["worker"] == worker] == list(range(500))


def test_a_signal_handler_that_logs_neither_blocks_nor_mixes(
    home: Path, spool_events: ReadSpool
) -> None:
    run = start_run()
    count = itertools.count()
    fired = []

    def handler(number: int, frame: FrameType | None) -> None:
        number = next(count)
        fired.append(number)
        run.log({"handler": number}, step=-1)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        until = time.monotonic() + 2
        n = 0
        while time.monotonic() < until:
            run.log({"main": n, "odd": (n,)}, step=n)
            n += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    run.finish()
    events = only(spool_events())
    assert [event.seq for event in events] == list(range(len(events)))
    logs = [event.data["logs"] for event in events if event.kind == "log" and event.data]
    assert [log["main"] for log in logs if "main" in log] == list(range(n))
    # A handler may itself be interrupted by the next one, which then comes first.
    assert sorted(log["handler"] for log in logs if "handler" in log) == sorted(fired)
    assert len(fired) > 100


def test_an_event_during_another_event_is_published_after_it(
    home: Path, spool_events: ReadSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run()
    publisher = publisher_of(run)
    write, logs = publisher._spool.write, {"inner": 1}

    def write_and_log(*given: Any) -> bool:
        monkeypatch.setattr(publisher._spool, "write", write)
        run.log(logs, step=2)
        logs["inner"] = 2
        publisher.update_status("step_end", 3, None, 0, None, None, 1)
        run.finish()
        return write(*given)

    monkeypatch.setattr(publisher._spool, "write", write_and_log)
    run.log({"outer": 1}, step=1)
    kinds = [(event.kind, event.step, event.data) for event in only(spool_events())][1:]
    assert kinds[0] == ("log", 1, {"logs": {"outer": 1}})
    assert kinds[1] == ("log", 2, {"logs": {"inner": 1}})
    assert kinds[2][:2] == ("run_end", 3)
    assert not run.is_open


def test_an_exception_in_the_middle_of_an_event_does_not_hold_back_later_ones(
    home: Path, spool_events: ReadSpool
) -> None:
    run = start_run()
    publisher_of(run)._is_publishing = True
    for n in range(100):
        run.log({"n": n})
    run.finish()
    logs = [event.data for event in only(spool_events()) if event.kind == "log"]
    assert sorted(data["logs"]["n"] for data in logs if data) == list(range(100))


def test_a_copy_does_nothing(home: Path, spool_events: ReadSpool) -> None:
    run = start_run()
    for twin in (copy.copy(run), copy.deepcopy(run)):
        twin.log({"a": 1})
        assert not twin.is_open
    assert len(only(spool_events())) == 1


def test_a_forked_child_does_nothing_and_the_parent_continues(
    home: Path, spool_events: ReadSpool
) -> None:
    done = script(
        home,
        """
        import os, sys
        run = start_run(run_id="parent")
        run.log({"n": 1})
        child = os.fork()
        if not child:
            run.log({"n": 2})
            run.event("x")
            run.finish()
            shutdown._state.budget = 0.0
            own = start_run(run_id="child")
            own.log({"n": 3})
            sys.exit()
        assert os.waitpid(child, 0)[1] == 0
        run.log({"n": 4})
        """,
    )
    assert done.returncode == 0, done.stderr
    logged = {
        stream.split("/")[0]: [
            event.data["logs"]["n"] for event in events if event.kind == "log" and event.data
        ]
        for stream, events in spool_events().items()
    }
    assert logged == {"parent": [1, 4], "child": [3]}
    assert all(events[-1].kind == "run_end" for events in spool_events().values())


def _child_of_multiprocessing(fails: bool) -> None:
    shutdown._state.budget = 0.0
    run = start_run(run_id="worker")
    run.log({"a": 1})
    if fails:
        raise RuntimeError("worker broke")


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(("fails", "how"), [(False, "exit"), (True, "exception")])
def test_a_worker_of_multiprocessing_ends_its_own_run(
    home: Path, spool_events: ReadSpool, method: str, fails: bool, how: str
) -> None:
    context: Any = multiprocessing.get_context(method)
    worker = context.Process(target=_child_of_multiprocessing, args=(fails,))
    worker.start()
    worker.join(60)
    assert (worker.exitcode != 0) == fails
    end = only(spool_events())[-1]
    if sys.version_info >= (3, 13):  # has forgotten the exception by the time the worker ends
        how = "exit"
    assert (end.kind, (end.data or {})["how"]) == ("run_end", how)
