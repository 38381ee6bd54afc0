"""``lineside run -- CMD`` starts a command, forwards signals and publishes how it ended."""

from __future__ import annotations

import os
import pty
import signal
import sys
import tempfile
import time
from typing import Any

import pytest

from lineside.bus.errors import UsageError
from lineside.bus.settings import Settings
from lineside.bus.testing import read_all
from lineside.emitter.launch.command import launch
from tests.emitter.launch.launched import LOOP, exit_of, python
from tests.emitter.shipping import Bench
from tests.support.waiting import DEADLINE


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_is_the_commands_and_is_published(
    bench: Bench, launched: Any, code: int
) -> None:
    bench.broker()
    command = python(LOOP % f"pass\nsys.exit({code})")
    one = launched(*command, "--hub_token", "hf_secret", LINESIDE_QUIET="1")
    status, output, errors = one.end()
    assert status == code
    assert output == "ready\n"
    assert errors == ""
    data = exit_of(one)
    (start, *more) = read_all(bench.address, ["*/rank0"])
    assert start.kind == "run_start"
    assert data["emitted"] == 1 + len(more)
    assert data["exit_code"] == code
    assert data["signal"] is None
    assert data["outlived"] is False
    assert data["argv"][:2] == [sys.executable, "-c"]
    assert "hf_secret" not in str(data["argv"])
    assert 0 < data["seconds"] < 60
    (rank,) = (bench.spool).glob("*/rank0/*")
    assert data["attempt"] == rank.name


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGRTMIN + 3, None)]
)
def test_a_signal_that_ends_the_command_is_reported_as_shells_do(
    bench: Bench, launched: Any, number: int, name: str | None
) -> None:
    bench.broker()
    one = launched(*python(LOOP % f"os.kill(os.getpid(), {int(number)})"))
    assert one.end()[0] == 128 + number
    data = exit_of(one)
    assert data["exit_code"] is None
    assert data["signal"] == (name or f"SIG{int(number)}")


def test_the_end_of_the_command_is_published_for_runs_that_had_not_ended(
    bench: Bench, launched: Any
) -> None:
    bench.broker()
    body = (
        "import os\n"
        "from lineside.emitter import start_run\n"
        "start_run(run_id='ended').finish()\n"
        "kept = start_run(run_id='open')\n"
        "start_run(run_id='last').finish()\n"
        "os._exit(3)\n"
    )
    one = launched(*python(body))
    assert one.end()[0] == 3
    exits = read_all(
        bench.address, ["*/launcher"], until=lambda events: len(events) >= 2, timeout=DEADLINE
    )
    assert [event.data["exit_code"] for event in exits if event.data] == [3, 3]
    assert {folder.parent.name for folder in bench.spool.glob("*/launcher")} == {"open", "last"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_the_launcher_alone_is_forwarded_once(
    launched: Any, number: signal.Signals
) -> None:
    count = (
        "import signal, time\n"
        "seen = []\n"
        f"signal.signal({int(number)}, lambda *_: seen.append(1))\n"
        "print('ready', flush=True)\n"
        "end = time.monotonic() + 20\n"
        "while not seen and time.monotonic() < end: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "print(len(seen))\n"
    )
    one = launched(*python(count))
    one.wait_ready()
    os.kill(one.process.pid, number)
    status, output, _ = one.end()
    assert (status, output) == (0, "1\n")


@pytest.mark.parametrize("first", ["pass", "os.setsid()"])
def test_a_ctrl_c_at_the_terminal_reaches_the_command_once(launched: Any, first: str) -> None:
    count = (
        "import os, signal, sys, time\n"
        f"{first}\n"
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "print('ready', flush=True)\n"
        "end = time.monotonic() + 20\n"
        "while not seen and time.monotonic() < end: time.sleep(0.01)\n"
        "time.sleep(0.5)\n"
        "print(len(seen))\n"
    )
    master, terminal = pty.openpty()
    one = launched(*python(count), tty=terminal)
    one.wait_ready()
    os.write(master, b"\x03")
    status, output, _ = one.end()
    os.close(master)
    os.close(terminal)
    assert (status, output) == (0, "1\n")


def test_the_command_gets_one_sighup_when_the_terminal_closes(launched: Any) -> None:
    count = (
        "import signal, time\n"
        "seen = []\n"
        "signal.signal(signal.SIGHUP, lambda *_: seen.append(1))\n"
        "print('ready', flush=True)\n"
        "end = time.monotonic() + 20\n"
        "while not seen and time.monotonic() < end: time.sleep(0.01)\n"
        "time.sleep(0.5)\n"
        "print(len(seen))\n"
    )
    master, terminal = pty.openpty()
    one = launched(*python(count), tty=terminal)
    one.wait_ready()
    os.close(master)
    status, output, _ = one.end()
    os.close(terminal)
    assert (status, output) == (0, "1\n")


def test_the_command_can_read_the_terminal(launched: Any) -> None:
    master, terminal = pty.openpty()
    one = launched(*python("print('ready', flush=True); print(input())"), tty=terminal)
    one.wait_ready()
    os.write(master, b"hello\n")
    status, output, _ = one.end()
    os.close(master)
    os.close(terminal)
    assert (status, output) == (0, "hello\n")


def test_ctrl_c_ends_a_training_and_is_published(bench: Bench, launched: Any) -> None:
    bench.broker()
    one = launched(*python(LOOP % "time.sleep(60)"))
    one.wait_ready()
    os.killpg(one.process.pid, signal.SIGINT)
    assert one.end()[0] in (1, 130)
    data = exit_of(one)
    assert data["exit_code"] == 1 or data["signal"] == "SIGINT"


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["no-such-command-at-all"], 127, "no-such-command-at-all: command not found"),
        (["/no/such/file"], 127, "/no/such/file: command not found"),
        (["/etc"], 126, "/etc cannot be run: Permission denied"),
    ],
)
def test_a_command_that_cannot_be_run_ends_as_in_a_shell(
    launched: Any, command: list[str], code: int, message: str
) -> None:
    status, output, errors = launched(*command).end()
    assert status == code
    assert output == ""
    assert errors == f"lineside: {message}\n"


def test_a_script_whose_interpreter_is_missing_is_not_executable(
    launched: Any, bench: Bench
) -> None:
    script = bench.folder / "script"
    script.write_text("#!/no/such/python\n")
    script.chmod(0o700)
    status, _, errors = launched(str(script)).end()
    assert status == 126
    assert errors == f"lineside: {script} cannot be run: No such file or directory\n"


def test_a_command_that_opens_no_run_is_reported(launched: Any) -> None:
    status, output, errors = launched("echo", "hello").end()
    assert (status, output) == (0, "hello\n")
    assert errors.startswith("lineside: no run was recorded: the command trained nothing")


def test_without_a_broker_the_launcher_does_not_wait(bench: Bench, launched: Any) -> None:
    one = launched(*python(LOOP % "os._exit(5)"))
    started = time.monotonic()
    assert one.end()[0] == 5
    assert time.monotonic() - started < 20
    (folder,) = bench.spool.glob("*/launcher/*")
    assert list(folder.glob("*.seg"))


def test_an_unwritable_spool_is_reported_and_the_exit_code_kept(
    bench: Bench, launched: Any
) -> None:
    bench.spool.mkdir()
    body = LOOP % (
        "pass\n"
        "import shutil\n"
        f"shutil.rmtree({str(bench.spool)!r}); open({str(bench.spool)!r}, 'w')\n"
        "os._exit(0)"
    )
    status, _, errors = launched(*python(body)).end()
    assert status == 0
    assert "ended cannot be recorded" in errors


def test_lineside_disabled_only_runs_the_command(bench: Bench, launched: Any) -> None:
    body = "import os, sys; print('LINESIDE_LAUNCH' in os.environ, 'inject' in str(sys.path))"
    status, output, errors = launched(*python(body), LINESIDE_DISABLED="1").end()
    assert (status, output, errors) == (0, "False False\n", "")


def test_the_command_gets_the_settings_and_keeps_its_python_path(
    bench: Bench, launched: Any
) -> None:
    body = (
        "import os; print(os.environ['PYTHONPATH'].split(os.pathsep)[1:],"
        " os.environ.get('LINESIDE_RUN_ID'), os.environ['LINESIDE_SPOOL'],"
        " os.environ['LINESIDE_STOP_ON_SIGTERM'])"
    )
    given = f"/one{os.pathsep}/two"
    _, output, _ = launched(*python(body), PYTHONPATH=given).end()
    assert output == f"['/one', '/two'] None {bench.spool} 1\n"
    own = {"PYTHONPATH": "", "LINESIDE_RUN_ID": "mine", "LINESIDE_STOP_ON_SIGTERM": "0"}
    _, output, _ = launched(*python(body), **own).end()
    assert output == f"[] mine {bench.spool} 0\n"


def test_an_empty_command_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="nothing to run"):
        launch([], Settings.from_env())


def test_a_temporary_folder_that_cannot_be_made_does_not_stop_the_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], bench: Bench
) -> None:
    def refuse(prefix: str) -> str:
        raise OSError("no room")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setenv("LINESIDE_HOME", str(bench.folder / "home"))
    assert launch(["sh", "-c", "exit 4"], Settings.from_env()) == 4
    assert "will not be recorded: no room" in capfd.readouterr().err


def test_the_exit_code_is_the_commands_where_sigchld_is_ignored(bench: Bench) -> None:
    settings = Settings.from_env({"LINESIDE_HOME": str(bench.folder), "LINESIDE_DISABLED": "1"})
    same = "import signal as s, sys; sys.exit(3 + (s.getsignal(s.SIGCHLD) != s.SIG_IGN))"
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert launch(python(same), settings) == 3
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_signals_are_as_before_once_the_command_has_ended(bench: Bench) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    launch(
        ["true"], Settings.from_env({"LINESIDE_HOME": str(bench.folder), "LINESIDE_DISABLED": "1"})
    )
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
