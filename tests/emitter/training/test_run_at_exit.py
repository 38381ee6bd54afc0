"""Every way in which a process ends with a run open.

Where no broker runs, no shipper can be had either: the lock is taken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.bus.testing import BrokerProcess, read_all
from lineside.emitter import start_run
from lineside.emitter.training import shutdown
from tests.emitter.conftest import ReadSpool, read_spool
from tests.emitter.streams import only
from tests.emitter.training.loops import publisher_of, script


def test_an_exception_that_ends_the_process_is_published(
    home: Path, spool_events: ReadSpool
) -> None:
    done = script(home, "start_run()\n1 / 0")
    assert done.returncode == 1
    end = only(spool_events())[-1]
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
    home: Path, spool_events: ReadSpool, body: str, how: str
) -> None:
    script(home, body)
    assert (only(spool_events())[-1].data or {})["how"] == how


@pytest.mark.parametrize(
    ("over", "more", "how"),
    [
        ("ab", "1 / 0", {"a": "exit", "b": "exit", "c": "exception"}),
        ("b", "raise KeyboardInterrupt", {"a": "exception", "b": "exit", "c": "exception"}),
        # The script fails after its last training.
        ("abc", "1 / 0", {"a": "exit", "b": "exit", "c": "exception"}),
        # A notebook in which a cell failed that is not the last.
        ("abc", "sys.ps1 = ''; sys.last_value = NameError()", dict.fromkeys("abc", "exit")),
        (
            "ab",
            "sys.ps1 = ''; sys.last_value = NameError()",
            {"a": "exit", "b": "exit", "c": "exception"},
        ),
    ],
)
def test_the_error_that_ends_the_process_is_not_that_of_a_training_that_ended_before(
    home: Path, spool_events: ReadSpool, over: str, more: str, how: dict[str, str]
) -> None:
    script(
        home,
        f"""
        import sys
        from lineside.emitter.spool.status_page import TRAIN_ENDED
        runs = []
        for name in "abc":
            run = start_run(run_id=name)
            runs.append(run)
            if name in {over!r}:
                run.publisher.flag(raised=TRAIN_ENDED)
        {more}
        """,
    )
    assert {
        name.partition("/")[0]: (events[-1].data or {})["how"]
        for name, events in spool_events().items()
    } == how


def test_without_a_broker_the_process_ends_within_six_seconds_and_names_its_spool(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINESIDE_QUIET", "1")
    begun = time.monotonic()
    done = script(home, "start_run().finish()\nstart_run()", wait_at_exit=True)
    took = time.monotonic() - begun
    assert done.returncode == 0
    assert 5 <= took < 9.5, "two runs share the five seconds; the rest is Python's own start"
    spool = home / "spool"
    assert f"lineside ship --spool {spool}" in done.stderr
    assert "lineside up" in done.stderr
    assert done.stderr.count("lineside:") == 1


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_a_process_that_is_killed_waits_for_nothing_and_loses_nothing(
    home: Path, spool_events: ReadSpool, end: str
) -> None:
    body = f"""
    import os, time
    run = start_run()
    for n in range(100): run.log({{'n': n}})
    print(time.monotonic(), flush=True)
    {end}
    """
    done = script(home, body)
    assert time.monotonic() - float(done.stdout) < 5
    assert [event.seq for event in only(spool_events())] == list(range(101))


def test_control_c_ends_the_wait(home: Path, spool_events: ReadSpool) -> None:
    done = script(
        home,
        """
        import os, signal, threading, time
        start_run()
        def interrupt():
            time.sleep(1)
            print(time.monotonic(), flush=True)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        """,
        wait_at_exit=True,
    )
    assert time.monotonic() - float(done.stdout) < 5
    assert "Traceback" not in done.stderr
    assert "lineside ship" in done.stderr
    assert only(spool_events())[-1].kind == "run_end"


def test_confirmed_events_are_not_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown._state, "budget", 30.0)
    run = start_run()
    publisher = publisher_of(run)
    asked = []
    monkeypatch.setattr(publisher._shipper_starter, "ensure", lambda: asked.append(1))

    def confirm() -> None:
        publisher._spool.fields[32] = publisher._spool.next_seq + 1

    timer = threading.Timer(1.3, confirm)
    timer.start()
    begun = time.monotonic()
    run.finish()
    timer.join()
    assert 1 < time.monotonic() - begun < 10
    assert asked, "a shipper that ended meanwhile is started again"
    assert 15 < shutdown._state.budget < 29
    assert not shutdown._state.pending or shutdown._state.pending[-1].is_confirmed


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path / "bus") as process:
        monkeypatch.setenv("LINESIDE_HOME", str(tmp_path / "bus"))
        yield process


def test_with_a_broker_the_process_ends_once_all_is_confirmed(
    broker: BrokerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINESIDE_QUIET", "1")
    done = script(
        tmp_path, "with start_run(run_id='r') as run:\n    run.log({'a': 1})", wait_at_exit=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    events = [e for e in read_all(broker.address, ["r/rank0"]) if e.kind != "heartbeat"]
    assert [event.kind for event in events] == ["run_start", "log", "run_end"]
    assert list(read_spool(tmp_path / "bus" / "spool"))


def test_a_loop_of_short_runs_waits_for_its_confirmations_only_and_blames_no_broker(
    broker: BrokerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINESIDE_QUIET", "1")
    done = script(
        tmp_path,
        """
        import time
        start_run().finish()  # starts the shipper
        begun = time.monotonic()
        for _ in range(30): start_run().finish()
        print(time.monotonic() - begun)
        """,
        wait_at_exit=True,
    )
    assert done.stderr == ""
    assert float(done.stdout) < 20, "each waited for the next search for new streams"
