"""The disk worker syncs new records and removes confirmed ones when their time has come."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.bus.protocol.events import Stream
from lineside.emitter.shipper import disk_worker as disk_worker_module
from lineside.emitter.shipper.disk_worker import (
    DiskWorker,
    StreamDiskState,
    confirmed_segments,
    remove_stream,
)
from lineside.emitter.spool import directory, liveness_lock
from lineside.emitter.spool.segment_reader import segments
from lineside.emitter.spool.stream_folder import LOCK_NAME, producer_bytes
from lineside.emitter.spool.writer import SpoolWriter
from tests.emitter.shipping import Bench
from tests.support.waiting import wait_until

STREAM = Stream("run", "rank0", "a1")


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SpoolWriter]:
    writer = SpoolWriter(tmp_path, STREAM, segment=300)
    for _ in range(30):
        writer.write("log")
    yield writer
    writer.close()


@pytest.fixture
def disk_worker() -> Iterator[DiskWorker]:
    disk_worker = DiskWorker(cap=1 << 30, retention_seconds=0.0)
    yield disk_worker
    disk_worker.shutdown(10)


def submit(disk_worker: DiskWorker, *streams: StreamDiskState) -> None:
    """Submit ``streams``, and wait until the worker is done with them."""
    disk_worker._cleanup_at = 0.0
    assert not disk_worker.is_busy
    disk_worker.submit(streams, float("inf"))
    wait_until(lambda: not disk_worker.is_busy)


def stream_state(
    writer: SpoolWriter, acked: int, *, is_complete: bool = False, page: bool = True
) -> StreamDiskState:
    return StreamDiskState(writer.folder.path, writer.next_seq, acked, is_complete, page)


def test_confirmed_segments_never_include_the_newest(writer: SpoolWriter) -> None:
    folder = writer.folder.path
    existing = segments(folder)
    assert len(existing) > 2
    assert confirmed_segments(folder, existing[1].first - 1) == []
    assert confirmed_segments(folder, existing[1].first) == [existing[0].path]
    assert confirmed_segments(folder, 10**6) == [s.path for s in existing[:-1]]


def test_the_bytes_of_a_producer_include_all_attempts(tmp_path: Path, writer: SpoolWriter) -> None:
    one = producer_bytes(writer.folder.path.parent)
    other = SpoolWriter(tmp_path, STREAM._replace(attempt="a2"))
    other.write("log")
    other.close()
    assert producer_bytes(writer.folder.path.parent) > one > 0


def test_a_stream_is_removed_with_the_folders_that_are_then_empty(
    tmp_path: Path, writer: SpoolWriter
) -> None:
    writer.close()
    (writer.folder.path / directory.LOST_NAME).touch()
    remove_stream(writer.folder.path)
    assert list(tmp_path.iterdir()) == []


def test_other_files_and_their_folder_are_kept(tmp_path: Path, writer: SpoolWriter) -> None:
    writer.close()
    (writer.folder.path / "mine.txt").touch()
    with pytest.raises(OSError, match="not empty"):
        remove_stream(writer.folder.path)
    assert [p.name for p in writer.folder.path.iterdir()] == ["mine.txt"]


def test_confirmed_segments_of_a_live_stream_are_removed_after_the_retention(
    writer: SpoolWriter, disk_worker: DiskWorker
) -> None:
    existing = segments(writer.folder.path)
    submit(disk_worker, stream_state(writer, existing[2].first))
    submit(disk_worker, stream_state(writer, existing[2].first))
    assert segments(writer.folder.path) == existing[2:]
    writer.write("log")
    assert segments(writer.folder.path)[-1].path.stat().st_size > 0


def test_confirmed_segments_are_kept_for_the_retention(writer: SpoolWriter) -> None:
    disk_worker = DiskWorker(cap=1 << 30, retention_seconds=3600)
    existing = segments(writer.folder.path)
    for _ in range(2):
        submit(disk_worker, stream_state(writer, existing[2].first))
    assert segments(writer.folder.path) == existing
    disk_worker.shutdown(10)


def test_a_producer_with_more_than_half_the_cap_is_kept_shorter(writer: SpoolWriter) -> None:
    disk_worker = DiskWorker(
        cap=2 * producer_bytes(writer.folder.path.parent) - 2, retention_seconds=3600
    )
    existing = segments(writer.folder.path)
    submit(disk_worker, stream_state(writer, existing[2].first))
    assert segments(writer.folder.path) == existing[2:]
    submit(disk_worker, stream_state(writer, 30, is_complete=True))
    assert writer.folder.path.exists(), "it has less than half again"
    disk_worker.shutdown(10)


def test_a_complete_stream_is_removed_at_once_where_space_is_short(writer: SpoolWriter) -> None:
    disk_worker = DiskWorker(cap=0, retention_seconds=3600)
    writer.close()
    submit(disk_worker, stream_state(writer, 30, is_complete=True))
    assert not writer.folder.path.exists()
    disk_worker.shutdown(10)


def test_a_nearly_full_disk_is_relieved(
    writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_disk = os.statvfs(writer.folder.path)
    full = os.statvfs_result((*list(true_disk)[:4], 1, *list(true_disk)[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    disk_worker = DiskWorker(cap=1 << 40, retention_seconds=3600)
    writer.close()
    submit(disk_worker, stream_state(writer, 30, is_complete=True))
    assert not writer.folder.path.exists()
    disk_worker.shutdown(10)


def test_the_retention_of_a_complete_stream_begins_when_it_is_complete(writer: SpoolWriter) -> None:
    folder = writer.folder.path
    writer.close()
    disk_worker = DiskWorker(cap=1 << 30, retention_seconds=100)
    submit(disk_worker, stream_state(writer, 30, is_complete=True))
    assert directory.read_acked_file(folder) == 30
    os.utime(folder / directory.ACKED_NAME, (0, time.time() - 90))
    submit(disk_worker, stream_state(writer, 30, is_complete=True))
    assert folder.exists()
    os.utime(folder / directory.ACKED_NAME, (0, time.time() - 110))
    submit(disk_worker, stream_state(writer, 30, is_complete=True))
    assert not folder.exists()
    submit(disk_worker, stream_state(writer, 30, is_complete=True))
    disk_worker.shutdown(10)


def test_without_a_page_the_confirmed_seq_is_stored_in_a_file_before_any_removal(
    writer: SpoolWriter, disk_worker: DiskWorker
) -> None:
    (writer.folder.path / "page").unlink()
    existing = segments(writer.folder.path)
    submit(disk_worker, stream_state(writer, existing[1].first, page=False))
    assert directory.acked_seq(writer.folder.path) == existing[1].first
    assert segments(writer.folder.path) == existing[1:]


def test_a_failing_removal_is_logged_once(
    writer: SpoolWriter, disk_worker: DiskWorker, caplog: pytest.LogCaptureFixture
) -> None:
    writer.close()
    (writer.folder.path / "mine.txt").touch()
    for _ in range(3):
        submit(disk_worker, stream_state(writer, 30, is_complete=True))
    assert caplog.text.count("not empty") == 1


def test_new_records_are_synced_once(
    writer: SpoolWriter, disk_worker: DiskWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(disk_worker_module, "_fdatasync", lambda path: synced.append(path.name))
    submit(disk_worker, stream_state(writer, 0))
    assert len(synced) == 2
    submit(disk_worker, stream_state(writer, 0))
    assert len(synced) == 2
    writer.write("log")
    submit(disk_worker, stream_state(writer, 0))
    assert len(synced) == 3
    submit(disk_worker, stream_state(writer, 0)._replace(end_seq=0))
    writer.write("log")
    submit(disk_worker, stream_state(writer, 0)._replace(end_seq=0))
    assert len(synced) == 3, "heartbeats are not synced"


def test_a_busy_worker_takes_no_second_batch(
    writer: SpoolWriter, disk_worker: DiskWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, ended = [], []

    def slow(path: Path) -> None:
        calls.append(path)
        time.sleep(0.5)
        ended.append(path)

    monkeypatch.setattr(disk_worker_module, "_fdatasync", slow)
    disk_worker.submit([stream_state(writer, 0)], 0.0)
    disk_worker.submit([stream_state(writer, 1), stream_state(writer, 1)], 1e9)
    assert not ended, "submit waited for the first batch"
    wait_until(lambda: not disk_worker.is_busy)
    assert len(calls) == 2


def test_unchanged_streams_are_not_worked_on_again_at_once(
    writer: SpoolWriter, disk_worker: DiskWorker
) -> None:
    disk_worker.submit([stream_state(writer, 0)], 100.0)
    wait_until(lambda: not disk_worker.is_busy)
    disk_worker.submit([stream_state(writer, 0)], 101.0)
    assert not disk_worker.is_busy
    assert disk_worker._submit_at == 105.0


def test_a_thread_that_cannot_be_started_is_logged_and_tried_again(
    writer: SpoolWriter,
    disk_worker: DiskWorker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for now in (0.0, 10.0):
            disk_worker.submit([stream_state(writer, 0)], now)
    assert caplog.text.count("can't start new thread") == 1
    submit(disk_worker, stream_state(writer, 30, is_complete=True))
    assert not writer.folder.path.exists()


def test_a_stream_that_its_producer_has_opened_again_is_kept_until_all_is_confirmed(
    bench: Bench, disk_worker: DiskWorker
) -> None:
    producer = bench.producer()
    producer.send("write 5")
    producer.send("close")
    complete = StreamDiskState(producer.folder, 5, 5, is_complete=True, has_page=True)
    producer.send("reopen")
    submit(disk_worker, complete)
    assert segments(producer.folder), "its producer holds the lock"
    producer.send("write 1")
    producer.send("close")
    submit(disk_worker, complete)
    assert segments(producer.folder), "the newest event is not confirmed"
    submit(disk_worker, complete._replace(end_seq=6, acked=6))
    assert not producer.folder.exists()
    producer.send("reopen")
    producer.send("write 1")
    assert [segment.first for segment in segments(producer.folder)] == [6]


def test_a_producer_waits_for_the_removal_of_its_folder(bench: Bench) -> None:
    producer = bench.producer()
    producer.send("write 5")
    producer.send("close")
    lock = liveness_lock.acquire(producer.folder / LOCK_NAME)
    assert lock is not None

    def finish_removal() -> None:
        remove_stream(producer.folder)
        os.close(lock)

    producer.start("reopen")
    remove = threading.Timer(0.3, finish_removal)
    remove.start()
    producer.wait()
    remove.join()
    producer.send("write 1")
    assert [segment.first for segment in segments(producer.folder)] == [5]
    assert liveness_lock.holder_pid(producer.folder / LOCK_NAME) == producer.process.pid
