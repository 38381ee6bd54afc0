"""A forked script or command starts and ends as one of a new interpreter does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.service import SUPERVISOR_PID
from tests.support.forked import ForkedCommand, ForkedProcess, ForkedScript, run_lineside
from tests.support.processes import environment
from tests.support.waiting import DEADLINE

pytest.importorskip("transformers")


def script(folder: Path, text: str) -> list[str]:
    path = folder / "script.py"
    path.write_text(text)
    return [str(path)]


def completed(command: Sequence[str], **options: Any) -> tuple[int, str, str]:
    """Exit code, output and errors of ``command`` in a forked process and in a new interpreter."""
    ends = []
    for start, more in ((ForkedScript, []), (subprocess.Popen, [sys.executable])):
        with start(
            [*more, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        ) as process:
            out, errors = process.communicate(timeout=DEADLINE)
        ends.append((process.returncode, out, errors.splitlines()[-1:]))
    assert ends[0] == ends[1]
    return process.returncode, out, errors


def test_a_script_has_its_arguments_environment_folder_and_modules(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("name = 'beside'")
    other = tmp_path / "other"
    other.mkdir()
    (other / "elsewhere.py").write_text("name = 'elsewhere'")
    text = """
import os, sys, beside, elsewhere
import __main__
print(sys.argv[1:], sys.orig_argv[1:] == sys.argv, __name__, __file__ == sys.argv[0], os.getcwd())
print({k: v for k, v in os.environ.items() if k != "LC_CTYPE"}, beside.name, elsewhere.name)
print(os.path.basename(__main__.__file__), sys.stdin.read(), os.getsid(0) == os.getpid())
"""
    code, out, _ = completed(
        [*script(tmp_path, text), "one", "two"],
        env={"ONE": "1", "PYTHONPATH": str(other)},
        cwd=str(other),
        start_new_session=True,
    )
    assert code == 0
    assert "['one', 'two']" in out
    assert "'ONE': '1'" in out


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('a sentence')", 1),
        ("raise ValueError('a sentence')", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT),
        ("os.abort()", -signal.SIGABRT),
        ("threading.Thread(target=lambda: print(time.sleep(0.1))).start()", 0),
    ],
)
def test_a_script_ends_as_in_a_new_interpreter(tmp_path: Path, body: str, code: int) -> None:
    text = f"""
import atexit, os, signal, sys, threading, time
atexit.register(print, "at exit")
print("begins", flush=True)
{body}
"""
    assert completed(script(tmp_path, text))[0] == code


def test_a_script_trains_and_draws_other_random_numbers_each_time(tmp_path: Path) -> None:
    text = """
import random, sys
from pathlib import Path
import numpy as np
import torch
from tests.support.tiny_trainer import trainer
print(random.random(), np.random.random(), torch.initial_seed())
made = trainer(Path(sys.argv[1]))
made.train()
print(made.state.global_step, made.state.log_history[-2]["loss"])
"""
    outputs = []
    for _ in range(2):
        with ForkedScript(
            [*script(tmp_path, text), tmp_path / "out"],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            outputs.append(process.communicate(timeout=DEADLINE)[0].splitlines())
        assert process.returncode == 0
    first, second = outputs
    assert not {*first[0].split()} & {*second[0].split()}
    assert first[-1] == second[-1]


def test_a_script_is_killed_and_waited_for(tmp_path: Path) -> None:
    process = ForkedScript(
        script(tmp_path, "import time; print('up', flush=True); time.sleep(60)"),
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        assert process in ForkedProcess.running
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
        assert process not in ForkedProcess.running
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)


@pytest.mark.parametrize("arguments", [["runs", "--help"], ["nonsense"], ["show", "nothing"]])
def test_a_command_ends_as_in_a_new_interpreter(tmp_path: Path, arguments: list[str]) -> None:
    variables = environment(tmp_path)
    forked = run_lineside(*arguments, env=variables, timeout=DEADLINE)
    new = run_lineside(*arguments, env=variables, timeout=DEADLINE, popen=subprocess.Popen)
    assert (forked.returncode, forked.stdout) == (new.returncode, new.stdout)
    assert forked.stderr == new.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_service_runs_under_its_supervisor_until_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    variables = environment(tmp_path, **{SUPERVISOR_PID: str(os.getpid())})
    with ForkedCommand(
        [sys.executable, "-m", "lineside.cli", "broker"],
        env=variables,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while f"started, pid {process.pid}\n" not in process.stderr.readline():
            assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        process.send_signal(number)
        assert process.wait(DEADLINE) == 0


def test_options_that_a_forked_process_cannot_have_are_refused() -> None:
    with pytest.raises(ValueError, match="neither preexec_fn nor pass_fds"):
        ForkedScript(["script.py"], preexec_fn=os.getpid)
