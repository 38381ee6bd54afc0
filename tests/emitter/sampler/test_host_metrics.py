"""What a machine does not show, or answers late, hides nothing else."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from lineside.emitter.sampler.failure_log import FailureLog
from lineside.emitter.sampler.filesystem_metrics import ANSWER_SECONDS, FilesystemMetrics
from lineside.emitter.sampler.host_metrics import HostMetrics


def test_a_source_that_cannot_be_read_hides_no_other_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_options: object) -> None:
        raise PermissionError(13, "Permission denied", "/proc/net/dev")

    monkeypatch.setattr(psutil, "net_io_counters", refuse)
    host = HostMetrics(FailureLog())
    found = [host.read() for _ in range(3)][-1]
    assert "host/memory_total_bytes" in found
    assert "host/network_receive_bytes_per_second" not in found
    (record,) = caplog.records
    assert record.getMessage() == "sampler: no metrics of the network"
    monkeypatch.undo()
    host.read()
    assert "host/network_receive_bytes_per_second" in host.read()


def test_a_file_system_that_does_not_answer_holds_up_no_sample(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    is_back = threading.Event()
    asked = []

    def disk_usage(path: str) -> Any:
        asked.append(path)
        if path == "/usr":
            is_back.wait()
        return SimpleNamespace(free=5, total=9)

    monkeypatch.setattr(psutil, "disk_usage", disk_usage)
    filesystems, folders = FilesystemMetrics(), {"output": Path("/usr"), "spool": Path("/")}
    for _ in range(3):
        began = time.monotonic()
        filesystems.ask(set(folders.values()))
        took = time.monotonic() - began
        assert filesystems.read(folders) == {
            "filesystem/spool/available_bytes": 5,
            "filesystem/spool/size_bytes": 9,
        }
    assert took < ANSWER_SECONDS, "it waits each time"
    assert asked.count("/usr") == 1
    assert len(caplog.records) == 1
    is_back.set()
    deadline = time.monotonic() + 60
    while "filesystem/output/size_bytes" not in filesystems.read(folders):
        filesystems.ask(set(folders.values()))
        assert time.monotonic() < deadline
