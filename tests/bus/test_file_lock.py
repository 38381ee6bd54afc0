"""A lock between processes that ends with its holder."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lineside.bus.file_lock import FileLock


def test_a_lock_is_held_by_one_and_free_after_its_release(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path, wait=False):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(BlockingIOError):
            FileLock(path, wait=False)
    FileLock(path, wait=False).release()


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    held, taken = FileLock(tmp_path), threading.Event()

    def take() -> None:
        with FileLock(tmp_path):
            taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not taken.wait(0.2)
    held.release()
    thread.join(10)
    assert taken.is_set()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    source = (
        "import os, sys, pathlib; from lineside.bus.file_lock import FileLock\n"
        "lock = FileLock(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", source, str(tmp_path / "lock")], check=False)
    assert done.returncode == -9
    FileLock(tmp_path / "lock", wait=False).release()
