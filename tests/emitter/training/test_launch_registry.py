"""A training process registers its streams with the launcher."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lineside.bus.protocol.events import Stream
from lineside.emitter.training import launch_registry

FIRST, SECOND = Stream("run", "rank0", "a1"), Stream("run", "rank1", "a1")


def test_streams_come_back_in_the_order_they_were_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(launch_registry.FOLDER_VARIABLE, str(tmp_path))
    launch_registry.register(FIRST)
    launch_registry.register(SECOND)
    assert launch_registry.read(tmp_path) == [FIRST, SECOND]


def test_a_process_that_registered_lives_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(launch_registry.FOLDER_VARIABLE, str(tmp_path))
    body = (
        "from lineside.bus.protocol.events import Stream\n"
        "from lineside.emitter.training import launch_registry\n"
        "for rank in ('rank0', 'rank1'): launch_registry.register(Stream('run', rank, 'a1'))\n"
        "print(flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", body], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert launch_registry.live_processes(tmp_path) == {process.pid: process.pid}
        process.communicate(b"\n")
    assert launch_registry.live_processes(tmp_path) == {}


def test_without_a_launcher_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(launch_registry.FOLDER_VARIABLE, raising=False)
    launch_registry.register(FIRST)
    assert launch_registry.read(tmp_path) == []


def test_a_missing_launcher_does_not_disturb_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(launch_registry.FOLDER_VARIABLE, str(tmp_path / "gone"))
    launch_registry.register(FIRST)
    assert launch_registry.read(tmp_path / "gone") == []


def test_invalid_lines_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "streams").write_bytes(b"../../etc\n" + str(FIRST).encode() + b"\n\xff\xfe\n")
    assert launch_registry.read(tmp_path) == [FIRST]
