"""Trainings that a command leaves behind under ``lineside run``."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.testing import read_all
from lineside.emitter.launch.orphans import is_exiting
from tests.emitter.launch.launched import LOOP, exit_of
from tests.emitter.shipping import Bench
from tests.support.waiting import wait_until


def children(one: Any) -> str:
    pid = one.process.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


@pytest.mark.parametrize("before", ["pass", "os.closerange(3, 200)  # as daemons do"])
def test_a_training_that_outlives_a_terminated_command_gets_one_sigterm_and_is_waited_for(
    bench: Bench, launched: Any, before: str
) -> None:
    bench.broker()
    body = (
        "ends = []\n"
        "    signal.signal(signal.SIGTERM, lambda *_: ends.append(1))\n"
        f"    {before}\n"
        "    print('ready', flush=True)\n"
        "    while not ends: time.sleep(0.01)\n"
        "    time.sleep(1.5)\n"
        "    print(len(ends))"
    )
    script = bench.folder / "loop.py"
    script.write_text(LOOP % body)
    one = launched("sh", "-c", f"{sys.executable} {script}; true")
    one.wait_ready()
    one.wait_ready()
    os.kill(one.process.pid, signal.SIGTERM)
    status, output, _ = one.end()
    assert (status, output) == (128 + signal.SIGTERM, "1\n")
    data = exit_of(one)
    assert (data["signal"], data["outlived"]) == ("SIGTERM", True)
    *_, end = read_all(bench.address, ["*/rank0"])
    (exit_,) = one.exits()
    assert end.kind == "run_end"
    assert exit_.time < end.time


def test_a_training_that_ended_with_its_command_did_not_outlive_it(
    bench: Bench, launched: Any
) -> None:
    bench.broker()
    script = bench.folder / "loop.py"
    script.write_text(LOOP % "time.sleep(60)")
    one = launched("sh", "-c", f"{sys.executable} {script}; true", LINESIDE_STOP_ON_SIGTERM="0")
    one.wait_ready()
    os.kill(one.process.pid, signal.SIGTERM)
    one.end()
    data = exit_of(one)
    assert (data["signal"], data["outlived"]) == ("SIGTERM", False)


@pytest.mark.parametrize("before", ["pass", "run.finish()"])
def test_a_training_that_was_killed_with_its_command_did_not_outlive_it(
    bench: Bench, launched: Any, before: str
) -> None:
    """Its memory is freed, and its locks are released, only after the command has ended."""
    bench.broker()
    script = bench.folder / "loop.py"
    script.write_text(
        LOOP % f'{before}; much = b"x" * (1 << 29); print("ready", flush=True); time.sleep(60)'
    )
    wrapper = (
        "import os, signal, subprocess, sys\n"
        "os.setsid()\n"
        "with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE) as training:\n"
        "    training.stdout.readline(), training.stdout.readline()\n"
        "    os.killpg(0, signal.SIGKILL)\n"
    )
    one = launched(sys.executable, "-c", wrapper, sys.executable, str(script))
    one.end()
    data = exit_of(one)
    assert (data["signal"], data["outlived"]) == ("SIGKILL", False)


def test_a_training_that_went_on_after_a_failed_command_outlived_it_without_a_run_end(
    bench: Bench, launched: Any
) -> None:
    bench.broker()
    script, ready = bench.folder / "loop.py", bench.folder / "ready"
    body = (
        f"open({str(ready)!r}, 'w').close()\n"
        "    time.sleep(3.0)\n"
        "    run.log({'loss': 0.5}, step=2)\n"
        "    os._exit(0)"
    )
    script.write_text(LOOP % body)
    shell = f"{sys.executable} {script} & while [ ! -e {ready} ]; do sleep 0.05; done; exit 3"
    before = time.monotonic()
    one = launched("sh", "-c", shell)
    status, _, _ = one.end()
    took = time.monotonic() - before
    data = exit_of(one)
    assert (status, data["exit_code"], data["outlived"]) == (3, 3, True)
    assert data["seconds"] < took - 2.0, "the wait for the training was counted as the command's"


def test_a_training_that_ends_by_itself_right_after_its_command_outlived_it(
    bench: Bench, launched: Any
) -> None:
    bench.broker()
    script, ready = bench.folder / "loop.py", bench.folder / "ready"
    body = (
        "shell = os.getppid()\n"
        f"    open({str(ready)!r}, 'w').close()\n"
        "    while os.getppid() == shell: time.sleep(0.01)\n"
        "    time.sleep(0.3)"
    )
    script.write_text(LOOP % body)
    shell = f"{sys.executable} {script} & while [ ! -e {ready} ]; do sleep 0.05; done; exit 3"
    one = launched("sh", "-c", shell)
    one.end()
    data = exit_of(one)
    assert (data["exit_code"], data["outlived"]) == (3, True)


def test_a_run_begun_after_the_command_ended_has_no_process_exit(
    bench: Bench, launched: Any
) -> None:
    bench.broker()
    script, ready = bench.folder / "loop.py", bench.folder / "ready"
    script.write_text(LOOP % f"open({str(ready)!r}, 'w').close(); time.sleep(float(sys.argv[1]))")
    wait = f"while [ ! -e {ready} ]; do sleep 0.05; done"
    later = f"({wait}; sleep 0.5; exec {sys.executable} {script} 0)"
    one = launched("sh", "-c", f"{sys.executable} {script} 3 & {later} & {wait}; exit 3")
    assert one.end()[0] == 3
    first, second = sorted(path.name for path in bench.spool.glob("*/rank0/*"))
    (exit_,) = one.exits()
    assert exit_.data is not None
    assert exit_.data["attempt"] == first != second


def test_a_sigterm_during_the_wait_reaches_the_training_left_behind(
    bench: Bench, launched: Any
) -> None:
    script, ready, count = (bench.folder / name for name in ("loop.py", "ready", "count"))
    body = (
        "ends = []\n"
        "    signal.signal(signal.SIGTERM, lambda *_: ends.append(1))\n"
        f"    open({str(ready)!r}, 'w').close()\n"
        "    while not ends: time.sleep(0.01)\n"
        "    time.sleep(1.0)\n"
        f"    open({str(count)!r}, 'w').write(str(len(ends)))"
    )
    script.write_text(LOOP % body)
    shell = f"{sys.executable} {script} & while [ ! -e {ready} ]; do sleep 0.05; done"
    one = launched("sh", "-c", shell)
    one.wait_ready()
    wait_until(lambda: not children(one))
    os.kill(one.process.pid, signal.SIGTERM)
    one.process.wait(60)
    assert count.read_text() == "1"
    assert one.end()[0] == 0


def test_a_ctrl_c_ends_the_wait_for_a_detached_training_and_not_the_training(
    bench: Bench, launched: Any
) -> None:
    go = bench.folder / "go"
    body = (
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"  # a shell's & leaves it ignored
        "    print('ready', flush=True)\n"
        "    end = time.monotonic() + 60\n"
        f"    while not os.path.exists({str(go)!r}) and time.monotonic() < end: time.sleep(0.01)\n"
        "    print('trained', flush=True)"
    )
    script = bench.folder / "loop.py"
    script.write_text(LOOP % body)
    master, terminal = pty.openpty()
    shell = f"setsid {sys.executable} {script} & read line"
    one = launched("sh", "-c", shell, tty=terminal)
    one.wait_ready()
    one.wait_ready()
    os.write(master, b"\n")
    wait_until(lambda: not children(one))
    os.write(master, b"\x03")
    one.process.wait(5)
    go.touch()
    status, output, _ = one.end()
    os.close(master)
    os.close(terminal)
    assert (status, output) == (0, "trained\n")


@pytest.mark.parametrize("before", ["pass", "run.finish()"])
def test_a_training_left_behind_is_waited_for_until_its_process_ends(
    bench: Bench, launched: Any, before: str
) -> None:
    bench.broker()
    script, saved = bench.folder / "loop.py", bench.folder / "saved"
    script.write_text(
        "import pathlib, signal, time\n"
        "from lineside.emitter import start_run\n"
        "ends = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: ends.append(1))\n"
        "run = start_run()\n"
        f"{before}\n"
        "print('ready', flush=True)\n"
        "while not ends: time.sleep(0.01)\n"
        "run.finish()\n"
        "time.sleep(1.0)\n"
        f"pathlib.Path({str(saved)!r}).touch()\n"
    )
    one = launched("sh", "-c", f"{sys.executable} {script}; true")
    one.wait_ready()
    os.kill(one.process.pid, signal.SIGTERM)
    one.process.wait(60)
    assert saved.exists()
    one.end()


def test_a_training_that_is_already_stopping_gets_no_second_sigterm(
    bench: Bench, launched: Any
) -> None:
    bench.broker()
    body = (
        "from lineside.emitter.spool.status_page import STOP_REQUESTED\n"
        "    ends = []\n"
        "    def stop(number, frame):\n"
        "        ends.append(1)\n"
        "        run.publisher.flag(raised=STOP_REQUESTED)\n"
        "    signal.signal(signal.SIGTERM, stop)\n"
        "    print('ready', flush=True)\n"
        "    while not ends: time.sleep(0.01)\n"
        "    while os.getppid() == int(sys.argv[1]): time.sleep(0.01)\n"
        "    time.sleep(0.5)\n"
        "    print(len(ends))"
    )
    script = bench.folder / "loop.py"
    script.write_text(LOOP % body)
    trap = "trap 'kill -TERM $!; sleep 0.5; exit 3' TERM"
    one = launched("sh", "-c", f"{trap}; {sys.executable} {script} $$ & wait")
    one.wait_ready()
    one.wait_ready()
    os.kill(one.process.pid, signal.SIGTERM)
    status, output, _ = one.end()
    assert (status, output) == (3, "1\n")


@pytest.mark.parametrize("first", ["pass", "os.setsid()"])
def test_a_ctrl_c_at_the_terminal_reaches_a_training_that_outlived_its_command_once(
    bench: Bench, launched: Any, first: str
) -> None:
    body = (
        f"{first}\n"
        "    seen = []\n"
        "    signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "    signal.signal(signal.SIGTERM, lambda *_: print('ready', flush=True))\n"
        "    print('ready', flush=True)\n"
        "    end = time.monotonic() + 20\n"
        "    while not seen and time.monotonic() < end: time.sleep(0.01)\n"
        "    time.sleep(0.5)\n"
        "    print(len(seen))"
    )
    script = bench.folder / "loop.py"
    script.write_text(LOOP % body)
    master, terminal = pty.openpty()
    one = launched("sh", "-c", f"{sys.executable} {script}; true", tty=terminal)
    one.wait_ready()
    one.wait_ready()
    os.kill(one.process.pid, signal.SIGTERM)
    one.wait_ready()
    os.write(master, b"\x03")
    status, output, _ = one.end()
    os.close(master)
    os.close(terminal)
    assert (status, output) == (128 + signal.SIGTERM, "1\n")


def test_a_process_is_exiting_until_it_is_reaped() -> None:
    """A process that the kernel ends keeps its locks until its memory is freed."""
    with subprocess.Popen(["sleep", "60"]) as child:
        assert not is_exiting(child.pid)
        child.kill()
        wait_until(lambda: is_exiting(child.pid))
    assert not is_exiting(child.pid)
    assert not is_exiting(os.getpid())
