"""A lock proves that its process lives, and asking about it never disturbs it."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from lineside.emitter.spool import liveness_lock

Held: TypeAlias = "tuple[Path, subprocess.Popen[bytes]]"
HOLD = """
import sys, time
from pathlib import Path
from lineside.emitter.spool import liveness_lock
fd = liveness_lock.acquire(Path(sys.argv[1]))
print(fd is not None, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    path = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"True\n"
    yield path, process
    process.kill()
    process.communicate()


def test_holder_pid_is_the_process_that_holds_the_lock(held: Held) -> None:
    path, process = held
    assert liveness_lock.holder_pid(path) == process.pid


def test_a_held_lock_cannot_be_taken(held: Held) -> None:
    path, _ = held
    assert liveness_lock.acquire(path) is None
    assert liveness_lock.holder_pid(path) is not None


def test_a_killed_process_releases_its_lock_and_the_next_can_take_it(held: Held) -> None:
    path, process = held
    process.kill()
    process.wait()
    assert liveness_lock.holder_pid(path) is None
    fd = liveness_lock.acquire(path)
    assert fd is not None
    os.close(fd)


def test_a_forked_child_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = (
        "import os, sys, time; from pathlib import Path\n"
        "from lineside.emitter.spool import liveness_lock\n"
        "liveness_lock.acquire(Path(sys.argv[1]))\n"
        "child = os.fork()\n"
        "if child: print(child, flush=True); os._exit(0)\n"
        "time.sleep(60)\n"
    )
    # Its output goes to a file: a pipe would stay open in the child.
    output = tmp_path / "output"
    with output.open("wb") as to:
        subprocess.run([sys.executable, "-c", script, str(path)], stdout=to, check=True)
    child = int(output.read_text())
    try:
        os.kill(child, 0)
        assert liveness_lock.holder_pid(path) is None
    finally:
        os.kill(child, 9)


def test_a_missing_lock_file_is_not_a_free_lock(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        liveness_lock.holder_pid(tmp_path / "lock")


def test_a_lock_on_a_file_system_without_locks_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    with pytest.raises(OSError, match="No locks available"):
        liveness_lock.acquire(tmp_path / "lock")


def test_a_link_is_refused_and_the_file_behind_it_left_alone(tmp_path: Path) -> None:
    keys, lock = tmp_path / "list.json", tmp_path / "shipper.lock"
    keys.write_text("keys")
    lock.symlink_to(keys)
    with pytest.raises(OSError, match="symbolic links"):
        liveness_lock.acquire(lock)
    assert keys.read_text() == "keys"
