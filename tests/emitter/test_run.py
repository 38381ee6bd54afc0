"""Runs of plain loops: threads, signals, forks, copies, and every way in which a process ends."""

from __future__ import annotations

import copy
import itertools
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from lineside.bus.events import Event
from lineside.bus.testing import BrokerProcess, read_all
from lineside.emitter import Run, launches, start_run
from lineside.emitter import exit as ending
from lineside.emitter.page import (
    CLOSED,
    FLAGS,
    HOOK_ERRORS,
    HOOKS,
    NEXT_SEQ,
    PHASE,
    PHASES,
    STEP,
    TRAINING,
    Page,
)
from lineside.emitter.publisher import Publisher
from tests.emitter.conftest import ReadSpool, read_spool


def only(streams: dict[str, list[Event]]) -> list[Event]:
    [events] = streams.values()
    return events


def publisher_of(run: Run) -> Publisher:
    assert run.publisher is not None
    return run.publisher


def page_of(run: Run) -> Page:
    page = Page.open(publisher_of(run)._spool.folder.path)
    assert page is not None
    return page


def script(home: Path, body: str, *, waits: bool = False) -> subprocess.CompletedProcess[str]:
    """Run ``body`` in an interpreter of its own, which ``waits`` at its end or does not."""
    path = home / "script.py"
    head = "from lineside.emitter import exit, start_run\n"
    if not waits:
        head += "exit._ending.budget = 0.0\n"
    path.write_text(head + textwrap.dedent(body))
    return subprocess.run(
        [sys.executable, str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_loop_publishes_what_it_logs(home: Path, spooled: ReadSpool) -> None:
    config = {"lr": 0.1, "api_key": "mine"}
    with start_run("My run!", project="mine", config=config) as run:
        run.log({"loss": 1.5, "nan": math.nan}, step=1, epoch=0.5)
        run.log({"loss": np.float32(0.5)})
        run.event("validated", {"score": {"f1": 0.5}}, step=2)
        run.event("done")
    start, first, second, validated, done, end = only(spooled())
    assert start.data is not None
    assert (start.kind, start.data["source"], start.data["name"]) == (
        "run_start",
        "loop",
        "My run!",
    )
    assert start.data["args"] == {"lr": 0.1, "api_key": "<redacted>"}
    assert start.data["project"] == "mine"
    assert start.data["process"]["pid"] == os.getpid()
    assert (first.kind, first.step, first.epoch) == ("log", 1, 0.5)
    assert first.data is not None
    assert first.data["logs"]["loss"] == 1.5
    assert math.isnan(first.data["logs"]["nan"])
    assert (second.step, second.data) == (1, {"logs": {"loss": 0.5}})
    assert (validated.kind, validated.step) == ("validated", 2)
    assert validated.data == {"score": {"f1": 0.5}}
    assert (done.kind, done.data) == ("done", None)
    assert end.kind == "run_end"
    assert end.data is not None
    assert (end.data["how"], end.data["error"]) == ("exit", None)
    counters = end.data["counters"]
    assert (counters["emitted"], counters["hooks"], counters["dropped"]) == (6, 4, 0)
    assert counters["hook_ns"] > 0


def test_a_run_knows_its_names_and_the_page_where_it_is(home: Path) -> None:
    run = start_run(run_id="mine")
    page = page_of(run)
    assert run.id == "mine"
    assert run.is_open
    assert publisher_of(run).identity.attempt == run.attempt
    assert page.words[FLAGS] == TRAINING
    run.log({"a": 1}, step=7)
    assert (page.words[STEP], page.words[NEXT_SEQ], page.words[HOOKS]) == (7, 2, 1)
    assert PHASES[page.words[PHASE]] == "training"
    run.finish()
    assert page.words[FLAGS] == CLOSED
    assert PHASES[page.words[PHASE]] == "finished"
    page.close()


def test_a_second_start_goes_on_in_a_new_attempt(home: Path, spooled: ReadSpool) -> None:
    for _ in range(2):
        start_run(run_id="mine").finish()
    assert {stream.split("/")[0] for stream in spooled()} == {"mine"}
    assert len(spooled()) == 2


def test_a_finished_run_takes_no_more(home: Path, spooled: ReadSpool) -> None:
    run = start_run()
    run.finish()
    run.finish()
    run.log({"a": 1})
    run.event("b")
    assert [event.kind for event in only(spooled())] == ["run_start", "run_end"]


def test_the_environment_has_the_last_word(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINESIDE_RUN_ID", "theirs")
    assert start_run(run_id="mine").id == "theirs"


def test_the_launcher_is_told_the_stream(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(launches.VARIABLE, str(tmp_path))
    run = start_run()
    assert launches.read(tmp_path) == [publisher_of(run).identity.stream]


def test_an_exception_ends_the_run_with_its_cause(home: Path, spooled: ReadSpool) -> None:
    def train() -> None:
        with start_run():
            raise ValueError("no more data")

    with pytest.raises(ValueError, match="no more data"):
        train()
    end = only(spooled())[-1]
    assert end.data is not None
    assert end.data["how"] == "exception"
    assert (end.data["error"]["type"], end.data["error"]["message"]) == (
        "ValueError",
        "no more data",
    )
    assert "in train" in end.data["error"]["traceback"]


@pytest.mark.parametrize(("code", "how"), [(0, "exit"), (None, "exit"), (3, "exception")])
def test_leaving_by_sys_exit_is_an_error_only_with_a_code(
    home: Path, spooled: ReadSpool, code: int | None, how: str
) -> None:
    with pytest.raises(SystemExit), start_run():
        sys.exit(code)
    assert (only(spooled())[-1].data or {})["how"] == how


@pytest.mark.parametrize(
    "call",
    [
        lambda run: run.log(5),
        lambda run: run.log([1, 2]),
        lambda run: run.log({"a": 1}, step="x"),
        lambda run: run.event("run_end"),
        lambda run: run.event("mine", 5),
        lambda run: run.event(["no", "kind"]),
    ],
)
def test_mistakes_of_the_caller_are_counted_and_said_once(
    home: Path, capsys: pytest.CaptureFixture[str], call: Callable[[Run], None]
) -> None:
    run = start_run()
    page = page_of(run)
    call(run)
    call(run)
    assert page.words[HOOK_ERRORS] == 2
    assert capsys.readouterr().err.count("a hook failed, training goes on") == 1
    page.close()


def test_an_interrupt_while_logging_passes(home: Path) -> None:
    class Stopping:
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start_run().log({"a": Stopping()})
    with pytest.raises(KeyboardInterrupt):
        start_run().event("x", {"a": Stopping()})


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"LINESIDE_DISABLED": "1"}, "off, as LINESIDE_DISABLED says"),
        ({"LINESIDE_DISABLED": "perhaps"}, "LINESIDE_DISABLED='perhaps' cannot be used"),
        ({"LINESIDE_RUN_ID": "../up"}, "LINESIDE_RUN_ID='../up' cannot be used"),
        ({"LINESIDE_SPOOL": "/dev/null/spool"}, "cannot be made"),
        ({"LINESIDE_SPOOL": "relative"}, "expected an absolute path"),
    ],
)
def test_what_cannot_be_used_turns_it_off_and_says_so_once(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    env: dict[str, str],
    said: str,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    for _ in range(3):
        with start_run() as run:
            run.log({"a": 1})
            run.event("b")
        assert (run.id, run.attempt, run.is_open) == ("", "", False)
    error = capsys.readouterr().err
    assert error.count("lineside:") == 1
    assert said in error


def test_a_run_id_that_is_none_turns_it_off(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not start_run(run_id="no/slash").is_open
    assert "run_id='no/slash' cannot be used" in capsys.readouterr().err


def test_without_stderr_nothing_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setenv("LINESIDE_DISABLED", "1")
    assert not start_run().is_open


def test_unforeseen_trouble_while_opening_turns_it_off(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("lineside.emitter.run._identify", fail)
    assert not start_run().is_open
    assert "off: ZeroDivisionError()" in capsys.readouterr().err


def test_trouble_while_finishing_stays_inside(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start_run()

    def fail(*given: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(publisher_of(run), "close", fail)
        run.finish()
    assert "a hook failed" in capsys.readouterr().err

    def stop(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publisher_of(run), "close", stop)
        with pytest.raises(KeyboardInterrupt):
            run.finish()


def test_threads_never_mix_their_events(home: Path, spooled: ReadSpool) -> None:
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
    events = only(spooled())
    assert [event.seq for event in events] == list(range(4_002))
    logs = [event.data["logs"] for event in events if event.kind == "log" and event.data]
    for worker in range(8):
        assert [log["n"] for log in logs if log["worker"] == worker] == list(range(500))


def test_a_signal_handler_that_logs_neither_blocks_nor_mixes(
    home: Path, spooled: ReadSpool
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
    events = only(spooled())
    assert [event.seq for event in events] == list(range(len(events)))
    logs = [event.data["logs"] for event in events if event.kind == "log" and event.data]
    assert [log["main"] for log in logs if "main" in log] == list(range(n))
    # A handler may itself be interrupted by the next one, which then comes first.
    assert sorted(log["handler"] for log in logs if "handler" in log) == sorted(fired)
    assert len(fired) > 100


def test_what_comes_in_the_middle_of_an_event_is_published_after_it(
    home: Path, spooled: ReadSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run()
    publisher = publisher_of(run)
    write, logs = publisher._spool.write, {"inner": 1}

    def write_and_log(*given: Any) -> bool:
        monkeypatch.setattr(publisher._spool, "write", write)
        run.log(logs, step=2)
        logs["inner"] = 2
        publisher.stamp("step_end", 3, None, 0, None, None, 1)
        run.finish()
        return write(*given)

    monkeypatch.setattr(publisher._spool, "write", write_and_log)
    run.log({"outer": 1}, step=1)
    kinds = [(event.kind, event.step, event.data) for event in only(spooled())][1:]
    assert kinds[0] == ("log", 1, {"logs": {"outer": 1}})
    assert kinds[1] == ("log", 2, {"logs": {"inner": 1}})
    assert kinds[2][:2] == ("run_end", 3)
    assert not run.is_open


def test_a_mark_left_behind_by_an_exception_does_not_hold_events_for_ever(
    home: Path, spooled: ReadSpool
) -> None:
    run = start_run()
    publisher_of(run)._inside = True
    for n in range(100):
        run.log({"n": n})
    run.finish()
    logs = [event.data for event in only(spooled()) if event.kind == "log"]
    assert sorted(data["logs"]["n"] for data in logs if data) == list(range(100))


def test_a_copy_does_nothing(home: Path, spooled: ReadSpool) -> None:
    run = start_run()
    for twin in (copy.copy(run), copy.deepcopy(run)):
        twin.log({"a": 1})
        assert not twin.is_open
    assert len(only(spooled())) == 1


def test_a_forked_child_does_nothing_and_the_parent_goes_on(home: Path, spooled: ReadSpool) -> None:
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
            exit._ending.budget = 0.0
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
        for stream, events in spooled().items()
    }
    assert logged == {"parent": [1, 4], "child": [3]}
    assert all(events[-1].kind == "run_end" for events in spooled().values())


def _child_of_multiprocessing(fails: bool) -> None:
    ending._ending.budget = 0.0
    run = start_run(run_id="worker")
    run.log({"a": 1})
    if fails:
        raise RuntimeError("worker broke")


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(("fails", "how"), [(False, "exit"), (True, "exception")])
def test_a_worker_of_multiprocessing_ends_its_own_run(
    home: Path, spooled: ReadSpool, method: str, fails: bool, how: str
) -> None:
    context: Any = multiprocessing.get_context(method)
    worker = context.Process(target=_child_of_multiprocessing, args=(fails,))
    worker.start()
    worker.join(60)
    assert (worker.exitcode != 0) == fails
    end = only(spooled())[-1]
    if sys.version_info >= (3, 13):  # has forgotten the exception by the time the worker ends
        how = "exit"
    assert (end.kind, (end.data or {})["how"]) == ("run_end", how)


def test_a_run_that_is_closed_takes_nothing_from_the_trainer_either(
    home: Path, spooled: ReadSpool
) -> None:
    publisher = publisher_of(start_run())
    publisher.close("exit")
    publisher.close("exit")
    publisher.hook("log", 1, None, 0, None, None, 1)
    publisher.stamp("log", 1, None, 0, None, None, 1)
    publisher.emit("log", 1, None, 0, None, 1)
    publisher.flag(raised=TRAINING)
    publisher.failed(ValueError())
    assert [event.kind for event in only(spooled())] == ["run_start", "run_end"]


def test_a_stamp_starts_a_shipper_again_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = publisher_of(start_run())
    asked: list[int] = []
    monkeypatch.setattr(publisher._sidecar, "ensure", lambda: asked.append(1))
    for second in range(3):
        publisher.stamp("log", 1, None, 0, None, None, time.monotonic_ns() + second * 2_000_000_000)
    assert len(asked) == 3


# The end of a process. No broker runs, and no shipper can be had: the lock is taken.


def test_an_exception_that_ends_the_process_is_its_cause(home: Path, spooled: ReadSpool) -> None:
    done = script(home, "start_run()\n1 / 0")
    assert done.returncode == 1
    end = only(spooled())[-1]
    assert end.data is not None
    assert end.data["error"]["type"] == "ZeroDivisionError"
    assert "1 / 0" in end.data["error"]["traceback"]


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ("start_run()", "exit"),
        ("import sys; start_run(); sys.exit(3)", "exit"),
        ("import sys; sys.last_value = ValueError(); start_run()", "exit"),
        ("import sys; start_run(); sys.last_value = ValueError()", "exception"),
        ("start_run(); raise KeyboardInterrupt", "exception"),
    ],
)
def test_the_end_of_the_process_ends_the_run(
    home: Path, spooled: ReadSpool, body: str, how: str
) -> None:
    script(home, body)
    assert (only(spooled())[-1].data or {})["how"] == how


def test_without_a_broker_the_process_ends_within_six_seconds_and_says_where_its_events_are(
    home: Path,
) -> None:
    begun = time.monotonic()
    done = script(home, "start_run().finish()\nstart_run()", waits=True)
    took = time.monotonic() - begun
    assert done.returncode == 0
    assert 5 <= took < 7.5, "two runs share the five seconds; the rest is Python's own start"
    spool = home / "spool"
    assert f"lineside ship --spool {spool}" in done.stderr
    assert done.stderr.count("lineside:") == 1


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_a_process_that_goes_at_once_waits_for_nothing_and_loses_nothing(
    home: Path, spooled: ReadSpool, end: str
) -> None:
    begun = time.monotonic()
    script(home, f"import os\nrun = start_run()\nfor n in range(100): run.log({{'n': n}})\n{end}")
    assert time.monotonic() - begun < 5
    assert [event.seq for event in only(spooled())] == list(range(101))


def test_control_c_ends_the_wait(home: Path, spooled: ReadSpool) -> None:
    begun = time.monotonic()
    done = script(
        home,
        """
        import os, signal, threading, time
        start_run()
        def interrupt():
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        """,
        waits=True,
    )
    assert time.monotonic() - begun < 4
    assert "Traceback" not in done.stderr
    assert "lineside ship" in done.stderr
    assert only(spooled())[-1].kind == "run_end"


def test_confirmed_events_are_not_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending._ending, "budget", 30.0)
    run = start_run()
    publisher = publisher_of(run)
    asked = []
    monkeypatch.setattr(publisher._sidecar, "ensure", lambda: asked.append(1))

    def confirm() -> None:
        publisher._spool.words[32] = publisher._spool.next_seq + 1

    timer = threading.Timer(1.3, confirm)
    timer.start()
    begun = time.monotonic()
    run.finish()
    timer.join()
    assert 1 < time.monotonic() - begun < 10
    assert asked, "a shipper that died meanwhile is started again"
    assert 15 < ending._ending.budget < 29
    assert not ending._ending.left or ending._ending.left[-1].is_confirmed


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path / "bus") as process:
        monkeypatch.setenv("LINESIDE_HOME", str(tmp_path / "bus"))
        yield process


def test_with_a_broker_the_process_leaves_when_all_is_confirmed(
    broker: BrokerProcess, tmp_path: Path
) -> None:
    done = script(tmp_path, "with start_run(run_id='r') as run:\n    run.log({'a': 1})", waits=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    events = [e for e in read_all(broker.address, ["r/rank0"]) if e.kind != "heartbeat"]
    assert [event.kind for event in events] == ["run_start", "log", "run_end"]
    assert list(read_spool(tmp_path / "bus" / "spool"))


def test_importing_loads_no_library_of_others(tmp_path: Path) -> None:
    body = """
        import sys
        import lineside.emitter
        heavy = {"zmq", "sqlalchemy", "fastapi", "torch", "transformers", "numpy", "typer"}
        assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
        lineside.emitter.Run
        assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
        try:
            lineside.emitter.nothing
        except AttributeError as error:
            print(error)
        """
    done = script(tmp_path, body)
    assert done.returncode == 0, done.stderr
    assert "no attribute 'nothing'" in done.stdout
