"""Starting a shipper never disturbs the training process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from lineside.bus.testing import read_all
from lineside.emitter.spool import sidecar_process
from lineside.emitter.spool.sidecar_process import (
    INJECT_FOLDER,
    LOG_NAME,
    ShipperStarter,
    shipper_pid,
)
from tests.emitter.shipping import Bench
from tests.support.waiting import DEADLINE, wait_until


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A spool root."""
    return tmp_path / "spool"


def start(spool: Path, starter: ShipperStarter) -> int:
    starter.ensure()
    assert starter.failure is None
    wait_until(lambda: shipper_pid(spool))
    pid = shipper_pid(spool)
    assert pid is not None
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    wait_until(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    """A process holds its locks until the last of its threads has ended."""
    folder = Path(f"/proc/{pid}")
    try:
        state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(list((folder / "task").iterdir())) > 1
    except OSError:
        return False


def test_a_shipper_is_started_once_and_again_when_it_was_killed(bench: Bench) -> None:
    now = 0.0
    starter = ShipperStarter(bench.spool, bench.address, clock=lambda: now)
    first = start(bench.spool, starter)
    for _ in range(3):
        now += 10
        starter.ensure()
    assert shipper_pid(bench.spool) == first
    kill(first)
    now += 1
    second = start(bench.spool, starter)
    assert second != first
    kill(second)


def test_failing_starts_become_rarer(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    now = 0.0
    starter = ShipperStarter(spool, "ipc:///nowhere", clock=lambda: now)
    starts = []
    true_start = starter._start

    def counted() -> None:
        starts.append(now)
        true_start()
        time.sleep(0.05)

    monkeypatch.setattr(starter, "_start", counted)
    while now < 300:
        starter.ensure()
        if starter._pid is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(starter._pid, 0)  # as a script that waits for every child may do
        now += 1
    waits = [later - earlier for earlier, later in pairwise(starts)]
    assert waits[:6] == [1, 2, 4, 8, 16, 32]
    assert set(waits[6:]) == {60}


def test_a_shipper_that_takes_long_to_start_is_waited_for(
    spool: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(slow))
    now = 0.0
    starter = ShipperStarter(spool, "ipc:///nowhere", clock=lambda: now)
    starter.ensure()
    first = starter._pid
    assert first is not None
    now = 29.0
    starter.ensure()
    assert starter._pid == first
    now = 31.0
    starter.ensure()
    assert starter._pid != first
    kill(first)
    kill(starter._pid or 0)


def test_ensure_does_not_raise_when_no_shipper_can_be_started(
    spool: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", None)
    starter = ShipperStarter(spool, "ipc:///nowhere")
    starter.ensure()
    assert starter.failure is not None
    (tmp_path / "file").touch()
    starter = ShipperStarter(tmp_path / "file" / "spool", "ipc:///nowhere")
    starter.ensure()
    assert starter.failure is not None
    assert "NotADirectoryError" in starter.failure


def test_ensure_is_fast_while_a_shipper_runs(bench: Bench) -> None:
    starter = ShipperStarter(bench.spool, bench.address)
    pid = start(bench.spool, starter)
    started = time.perf_counter()
    for _ in range(1000):
        starter.ensure()
    assert (time.perf_counter() - started) / 1000 < 0.01, "as long as a process takes to start"
    kill(pid)


def test_a_reader_of_a_trainers_output_does_not_wait_for_the_shipper(spool: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from lineside.emitter.spool.sidecar_process import *\n"
        "starter = ShipperStarter(Path(sys.argv[1]), 'ipc:///nowhere/bus.sock')\n"
        "starter.ensure()\n"
        "while shipper_pid(Path(sys.argv[1])) is None: time.sleep(0.01)\n"
        "print('trained')\n"
    )
    read, write = os.pipe()
    os.set_inheritable(write, True)
    trainer = subprocess.run(
        [sys.executable, "-X", "dev", "-c", script, str(spool)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        pass_fds=[write],
        check=True,
    )
    os.close(write)
    assert os.read(read, 1) == b"", "a descriptor of the trainer stayed open"
    os.close(read)
    assert trainer.stdout == "trained\n"
    assert trainer.stderr == "", "no warning that a child still runs"
    pid = shipper_pid(spool)
    assert pid is not None
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/cwd").resolve() == Path("/")
    targets = {str(Path(f"/proc/{pid}/fd/{fd}").resolve()) for fd in (0, 1, 2)}
    assert targets == {"/dev/null", str(spool / LOG_NAME)}


def test_starting_a_shipper_leaves_no_zombie(bench: Bench) -> None:
    starter = ShipperStarter(bench.spool, bench.address)
    pid = start(bench.spool, starter)

    def is_reaped() -> bool:
        starter.ensure()
        return starter._pid is None

    wait_until(is_reaped)
    assert shipper_pid(bench.spool) == pid
    kill(pid)


def test_a_script_that_waits_for_all_its_children_does_not_wait_for_the_shipper(
    spool: Path,
) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from lineside.emitter.spool.sidecar_process import *\n"
        "ShipperStarter(Path(sys.argv[1]), 'ipc:///nowhere/bus.sock').ensure()\n"
        "try:\n"
        "    while True: os.wait()\n"
        "except ChildProcessError: print(shipper_pid(Path(sys.argv[1])) is not None)\n"
    )
    waited = subprocess.run(
        [sys.executable, "-c", script, str(spool)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert waited.stdout == "True\n"


def test_a_run_is_shipped_before_its_first_event(bench: Bench) -> None:
    """A loop may load its data for a long time first."""
    bench.broker()
    script = "import sys; from lineside.emitter import start_run; start_run(); sys.stdin.read()"
    loop = subprocess.Popen(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            "LINESIDE_HOME": str(bench.folder / "home"),
            "LINESIDE_SPOOL": str(bench.spool),
            "LINESIDE_BROKER": bench.address,
        },
        stdin=subprocess.PIPE,
    )
    try:
        (start,) = read_all(bench.address, ["*/rank0"], until=bool, timeout=DEADLINE)
    finally:
        loop.communicate()
    assert start.kind == "run_start"


def test_the_shippers_environment_has_spool_and_broker_and_no_other_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(INJECT_FOLDER), "here", "/there"]))
    for name in ("LINESIDE_LAUNCH", "LINESIDE_RUN_ID", "LINESIDE_SUPERVISOR_PID"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LINESIDE_HOME", "/home/of/lineside")
    env = sidecar_process.shipper_environment(Path("/spool"), "ipc:///bus.sock")
    assert {name: value for name, value in env.items() if name.startswith("LINESIDE_")} == {
        "LINESIDE_HOME": "/home/of/lineside",
        "LINESIDE_SPOOL": "/spool",
        "LINESIDE_BROKER": "ipc:///bus.sock",
    }
    assert env["PYTHONPATH"] == os.pathsep.join([str(tmp_path / "here"), "/there"])
    monkeypatch.setenv("PYTHONPATH", str(INJECT_FOLDER))
    assert "PYTHONPATH" not in sidecar_process.shipper_environment(
        Path("/spool"), "ipc:///bus.sock"
    )
