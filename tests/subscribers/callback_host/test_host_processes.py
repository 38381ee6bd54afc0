"""The callback host end to end: its processes, a real broker, and callbacks that write files."""

from __future__ import annotations

import os
import signal
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.callback_config import parse_entries
from lineside.bus.protocol.commands import COMMAND
from lineside.bus.protocol.event_kinds import SUBSCRIBER_ERROR
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer, read_all
from lineside.subscribers.callback_host import manager
from lineside.subscribers.callback_host.manager import CallbackHost
from lineside.subscribers.callback_host.worker_spec import callback_folder
from lineside.subscribers.state.state_file import StateFileError
from lineside.subscribers.testing import synthetic_run
from tests.subscribers.callback_host.host_process import (
    ATTEMPT,
    HostProcess,
    publish,
    read_lines,
    sample,
    steps_of,
    train,
    wait_for_hook,
)
from tests.support.waiting import wait_until

LATER_ATTEMPT = "20261121T000001.000-0000"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@contextmanager
def hosting(
    settings: Settings, *entries: dict[str, Any], max_processes: int = 64
) -> Iterator[HostProcess]:
    """A host that is up."""
    with HostProcess(settings, entries, max_processes) as host:
        host.wait_started()
        yield host


def appender(file: Path, **keys: Any) -> dict[str, Any]:
    return sample("Appender", args={"file": str(file)}, **keys)


def errors_of(settings: Settings, run: str, subscriber: str) -> list[dict[str, Any]]:
    return [
        dict(event.data or {})
        for event in read_all(settings.broker, [run])
        if event.kind == SUBSCRIBER_ERROR and (event.data or {}).get("subscriber") == subscriber
    ]


def wait_for_error(settings: Settings, run: str, subscriber: str) -> dict[str, Any]:
    found = wait_until(lambda: errors_of(settings, run, subscriber), f"{run} shows an error")
    return found[0]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_a_callback_gets_a_run_in_a_process_of_its_own_and_is_closed_once(
    broker: BrokerProcess, settings: Settings, file: Path
) -> None:
    with hosting(settings, appender(file)) as host:
        train(settings, "run", 5)
        lines = wait_for_hook(file, "end")
        log = callback_folder(settings.home, "Appender", "run") / "output.log"
        wait_until(lambda: "is over: finished" in log.read_text(), "the attempt is over")
        assert host.stop() == 0
    assert [(line.hook, line.step) for line in lines] == [
        ("begin", 0),
        *(("log", step) for step in range(1, 6)),
        ("end", 5),
    ]
    assert len({line.pid for line in lines} - {host.pid}) == 1
    with hosting(settings, appender(file)):
        train(settings, "other", 1)
        wait_until(lambda: len(read_lines(file)) > len(lines) + 2, "the other run is hosted")
    assert steps_of(read_lines(file)) == [1, 2, 3, 4, 5, 1]  # the first run is not hosted again


def test_nothing_is_missing_whichever_process_is_killed(
    broker: BrokerProcess, settings: Settings, file: Path
) -> None:
    run = list(synthetic_run(40, run="run"))
    thirds = [run[:40], run[40:80], run[80:]]
    with (
        hosting(settings, appender(file)) as host,
        Producer(settings.broker, f"run/rank0/{ATTEMPT}") as producer,
    ):
        publish(producer, thirds[0])
        wait_for_hook(file, "log", 8)
        kill(read_lines(file)[-1].pid)
        publish(producer, thirds[1])
        lines = wait_for_hook(file, "log", 20)
        host.kill()
        wait_until(lambda: not _is_alive(lines[-1].pid), "the callback ends with its host")
        host.start()
        publish(producer, thirds[2])
        lines = wait_for_hook(file, "end")
    begins = [(int(line.rest), line.step) for line in lines if line.hook == "begin"]
    assert len({line.pid for line in lines}) == len(begins) == 3
    assert begins[0] == (0, 0)
    assert all(logged == step > 0 for logged, step in begins[1:])  # log_history is that of the step
    logs = [(line.step, line.rest) for line in lines if line.hook == "log"]
    # An event whose call had returned when its process was killed may come again.
    assert sorted(set(logs), key=lambda one: one[0]) == [(n, str(1 / n)) for n in range(1, 41)]
    assert len(logs) <= 42
    assert errors_of(settings, "run", "Appender")[0]["error"]["message"].startswith(
        "its process ended (SIGKILL)"
    )


def test_a_second_attempt_gets_a_process_of_its_own(
    broker: BrokerProcess, settings: Settings, file: Path
) -> None:
    with hosting(settings, appender(file)):
        with Producer(settings.broker, f"run/rank0/{ATTEMPT}") as producer:
            publish(producer, list(synthetic_run(5, run="run"))[:9])  # it never ends
        wait_for_hook(file, "log", 2)
        with Producer(settings.broker, f"run/rank0/{LATER_ATTEMPT}") as producer:
            publish(producer, synthetic_run(3, run="run"))
        lines = wait_for_hook(file, "end")
    assert steps_of(lines) == [1, 2, 1, 2, 3]
    assert [line.hook for line in lines].count("begin") == 2
    assert len({line.pid for line in lines}) == 2
    log = callback_folder(settings.home, "Appender", "run") / "output.log"
    assert f"attempt {ATTEMPT} is over: lost" in log.read_text()


def test_a_training_that_was_reported_lost_before_its_first_event_came_is_closed_as_lost(
    broker: BrokerProcess, settings: Settings, file: Path
) -> None:
    events = list(synthetic_run(5, run="run"))[:9]
    with hosting(settings, appender(file)):
        with Producer(settings.broker, f"run/shipper/{LATER_ATTEMPT}") as shipper:
            report = {"producer": "rank0", "attempt": ATTEMPT, "emitted": len(events)}
            shipper.emit("process_lost", data=report)
            shipper.flush(30)
        with Producer(settings.broker, f"run/rank0/{ATTEMPT}") as producer:
            publish(producer, events)
        lines = wait_for_hook(file, "log", 2)
        log = callback_folder(settings.home, "Appender", "run") / "output.log"
        wait_until(lambda: "is over: lost" in log.read_text(), "the attempt is over")
    assert steps_of(lines) == [1, 2]


def test_a_callback_that_ends_its_process_as_if_all_were_well_is_reported_and_goes_on(
    broker: BrokerProcess, settings: Settings, file: Path
) -> None:
    with hosting(settings, sample("Exiter", args={"file": str(file), "at_once": True})):
        train(settings, "run", 3)
        lines = wait_for_hook(file, "end")
        error = wait_for_error(settings, "run", "Exiter")
    assert "its process ended (exit code 0)" in error["error"]["message"]
    assert steps_of(lines) == [1, 2, 2, 3]


def test_a_callback_that_raises_or_hangs_delays_no_other(
    broker: BrokerProcess, settings: Settings, file: Path, tmp_path: Path
) -> None:
    hanging = tmp_path / "hanging"
    entries = [
        sample("Raiser"),
        sample("Sleeper", args={"file": str(hanging)}),
        appender(file),
    ]
    with hosting(settings, *entries) as host:
        train(settings, "run", 30)
        lines = wait_for_hook(file, "end")
        wait_until(lambda: len(errors_of(settings, "run", "Raiser")) == 2, "errors are shown")
        wait_for_hook(hanging, "log")
        began = time.monotonic()
        host.stop()
        assert time.monotonic() - began < 10
    assert steps_of(lines) == list(range(1, 31))
    counts = [error["errors"] for error in errors_of(settings, "run", "Raiser")]
    assert counts == [1, 10]
    assert [line.hook for line in read_lines(hanging)] == ["begin", "log"]
    assert not _is_alive(read_lines(hanging)[0].pid)


def test_a_flag_that_a_hosted_callback_sets_reaches_the_training_as_a_command(
    broker: BrokerProcess, settings: Settings
) -> None:
    with hosting(settings, sample("Switch", args={"flags": ["should_training_stop"]})):
        train(settings, "run", 3)
        events = wait_until(
            lambda: [e for e in read_all(settings.broker, ["run"]) if e.kind == COMMAND],
            "a command is sent",
        )
    assert [(e.data or {})["op"] for e in events] == ["stop"]
    assert (events[0].data or {})["attempt"] == ATTEMPT


def test_runs_beyond_the_limit_wait_for_a_place(
    broker: BrokerProcess, settings: Settings, file: Path
) -> None:
    with hosting(settings, appender(file), max_processes=1):
        for run in ("a", "b", "c"):
            train(settings, run, 2)
        wait_until(lambda: len(steps_of(read_lines(file))) == 6, "all runs are hosted")
    processes = [line.pid for line in read_lines(file)]
    assert len(set(processes)) == 3
    # One after another: no process began before the last one was at its end.
    assert processes == sorted(processes, key=processes.index)


def test_running_runs_take_turns_at_a_place(
    broker: BrokerProcess, settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = CallbackHost(settings, parse_entries([appender(file)]), max_processes=1)

    def run_until(condition: Callable[[], bool]) -> None:
        def run_once() -> bool:
            host.run_once()
            return condition()

        wait_until(run_once, "the host is that far")

    def is_one_ending() -> bool:
        return any(queue.worker and queue.worker.is_ending for queue in host._active.values())

    host.startup()
    try:
        for run in ("a", "b"):
            with Producer(settings.broker, f"{run}/rank0/{ATTEMPT}") as producer:
                publish(producer, list(synthetic_run(5, run=run))[:9])  # they never end
        run_until(lambda: steps_of(read_lines(file)) == [1, 2])
        monkeypatch.setattr(manager, "TURN_SECONDS", 0.0)
        run_until(is_one_ending)
        monkeypatch.undo()
        log = callback_folder(settings.home, "Appender", "a") / "output.log"
        run_until(lambda: log.read_text().endswith("a: ended\n"))  # and was not killed
        run_until(lambda: steps_of(read_lines(file)) == [1, 2, 1, 2])
    finally:
        host.shutdown()
    assert len({line.pid for line in read_lines(file)}) == 2


def test_a_full_disk_delays_the_host_and_ends_neither_it_nor_a_process(
    broker: BrokerProcess, settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "_FULL_DISK_SECONDS", 0.1)
    host = CallbackHost(settings, parse_entries([appender(file)]))
    host.startup()
    failed, transaction = [0], host._state_file.transaction

    @contextmanager
    def full_every_other_time() -> Iterator[Any]:
        failed[0] += 1
        if failed[0] % 2:
            raise StateFileError("the disk is full")
        with transaction() as db:
            yield db

    def is_done() -> bool:
        host.run_once()
        return "done" in [job.state for job in host._state_file.jobs()]

    try:
        monkeypatch.setattr(host._state_file, "transaction", full_every_other_time)
        train(settings, "run", 3)
        wait_until(is_done, "the run is hosted")
    finally:
        monkeypatch.undo()
        host.shutdown()
    assert steps_of(read_lines(file)) == [1, 2, 3]
    assert len({line.pid for line in read_lines(file)}) == 1


def test_only_runs_that_fit_are_hosted_and_those_that_hand_a_tracker_over(
    broker: BrokerProcess, settings: Settings, file: Path
) -> None:
    with hosting(settings, appender(file, projects=["prod-*"])):
        train(settings, "other", 1)
        train(settings, "fits", 2, facts={"project": "prod-1", "taken_over": ["dvclive"]})
        lines = wait_for_hook(file, "end")
        wait_until(
            (callback_folder(settings.home, "dvclive", "fits") / "output.log").exists,
            "the tracker handed over has a process",
        )
    assert steps_of(lines) == [1, 2]
    assert not callback_folder(settings.home, "Appender", "other").exists()


@pytest.mark.parametrize("has_python", [False, True])
def test_an_interpreter_that_cannot_run_callbacks_is_reported_with_a_remedy(
    broker: BrokerProcess, settings: Settings, tmp_path: Path, has_python: bool
) -> None:
    python = tmp_path / "env" / "bin" / "python"
    if has_python:
        venv.create(tmp_path / "env", symlinks=True)
    with hosting(settings, sample("Raiser", python=str(python))):
        train(settings, "run", 1)
        error = wait_for_error(settings, "run", "Raiser")
    assert error["action"] == "retrying"
    assert str(python) in error["error"]["message"]
    remedy = "install lineside there" if has_python else "expected an interpreter that has lineside"
    assert remedy in error["error"]["message"]


def test_a_damaged_state_file_is_reported_with_a_remedy(
    broker: BrokerProcess, settings: Settings, file: Path
) -> None:
    folder = callback_folder(settings.home, "Appender", "run")
    folder.mkdir(parents=True)
    (folder / "state.1.db").write_bytes(b"no database" * 1000)
    with hosting(settings, appender(file)):
        train(settings, "run", 1)
        error = wait_for_error(settings, "run", "Appender")
    assert str(folder / "state.1.db") in error["error"]["message"]
    assert "move it away if it is damaged" in error["error"]["message"]
    assert read_lines(file) == []


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
