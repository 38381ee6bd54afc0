"""Support processes that end by themselves are reported, and no other process is hit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import Child, environment, kill_writer


@pytest.mark.parametrize("use", ["stop", "freeze", "resume"])
def test_the_error_of_a_process_that_ended_by_itself_has_its_exit_code_and_log(
    tmp_path: Path, use: str
) -> None:
    child = Child(
        ["-c", "print('so it ended'); raise SystemExit(3)"], environment(tmp_path), tmp_path / "log"
    )
    child.start()
    while child.is_alive():
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="ended by itself with exit code 3: so it ended"):
        getattr(child, use)()
    child.kill()
    assert child.stop() == 3


@pytest.mark.parametrize(("age", "is_killed"), [(0, True), (3600, False)])
def test_only_the_writer_of_a_file_is_killed_by_the_pid_in_it(
    tmp_path: Path, age: int, is_killed: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        file = tmp_path / "pid"
        file.write_text(str(process.pid))
        written = file.stat().st_mtime - age
        os.utime(file, (written, written))
        kill_writer(file)
        process.communicate(b"\n")
    assert (process.returncode == -9) == is_killed
    kill_writer(file)
