"""What lies in a spool, and what may be removed from it and when."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.bus.protocol.events import Stream
from lineside.emitter.shipper import disk_worker as disk_worker_module
from lineside.emitter.shipper.disk_worker import DiskWorker, StreamDiskState
from lineside.emitter.spool import directory
from lineside.emitter.spool.segment_reader import segments
from lineside.emitter.spool.status_page import ACKED_SEQ
from lineside.emitter.spool.writer import SpoolWriter
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
    disk_worker.end(10)


def submit(disk_worker: DiskWorker, *streams: StreamDiskState) -> None:
    """Have them seen to, and wait until they were."""
    before = disk_worker._thread.is_alive()
    assert before
    disk_worker._cleanup_at = 0.0
    wait_until(lambda: disk_worker._work is None)
    disk_worker.submit(streams, float("inf"))
    wait_until(lambda: disk_worker._work is None)


def stream_state(
    writer: SpoolWriter, acked: int, *, is_complete: bool = False, page: bool = True
) -> StreamDiskState:
    return StreamDiskState(writer.folder.path, writer.next_seq, acked, is_complete, page)


def test_streams_are_found_among_whatever_else_lies_there(
    tmp_path: Path, writer: SpoolWriter
) -> None:
    for name in ("shipper.log", "run/notes.txt", "run/rank0/.a2.17/lock", "run/rank0/-x/page"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "run/rank0/link").symlink_to(tmp_path)
    assert list(directory.streams(tmp_path)) == [(STREAM, writer.folder.path)]
    assert list(directory.streams(tmp_path / "missing")) == []


def test_the_position_is_the_pages_or_the_files_whichever_is_further(writer: SpoolWriter) -> None:
    folder = writer.folder.path
    assert directory.acked_seq(folder) == 0
    directory.write_acked_file(folder, 3)
    assert directory.acked_seq(folder) == 3
    writer.fields[ACKED_SEQ] = 5
    assert directory.acked_seq(folder) == 5
    (folder / "page").unlink()
    assert directory.acked_seq(folder) == 3
    (folder / directory.ACKED_NAME).write_text("three")
    assert directory.acked_seq(folder) == 0


def test_confirmed_segments_are_all_but_the_one_that_is_written(writer: SpoolWriter) -> None:
    folder = writer.folder.path
    existing = segments(folder)
    assert len(existing) > 2
    assert directory.confirmed_segments(folder, existing[1].first - 1) == []
    assert directory.confirmed_segments(folder, existing[1].first) == [existing[0].path]
    assert directory.confirmed_segments(folder, 10**6) == [s.path for s in existing[:-1]]


def test_the_size_is_that_of_all_attempts(tmp_path: Path, writer: SpoolWriter) -> None:
    one = directory.size(writer.folder.path)
    other = SpoolWriter(tmp_path, STREAM._replace(attempt="a2"))
    other.write("log")
    other.close()
    assert directory.size(writer.folder.path) > one > 0


def test_a_stream_is_removed_with_the_folders_that_this_empties(
    tmp_path: Path, writer: SpoolWriter
) -> None:
    writer.close()
    directory.mark_lost(writer.folder.path)
    directory.remove_stream(writer.folder.path)
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_left_and_so_is_their_folder(
    tmp_path: Path, writer: SpoolWriter
) -> None:
    writer.close()
    (writer.folder.path / "mine.txt").touch()
    with pytest.raises(OSError, match="not empty"):
        directory.remove_stream(writer.folder.path)
    assert [p.name for p in writer.folder.path.iterdir()] == ["mine.txt"]


def test_a_mark_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    directory.mark_lost(tmp_path / "gone")


def test_confirmed_segments_of_a_live_stream_go_when_their_time_has_come(
    writer: SpoolWriter, disk_worker: DiskWorker
) -> None:
    existing = segments(writer.folder.path)
    submit(disk_worker, stream_state(writer, existing[2].first))
    submit(disk_worker, stream_state(writer, existing[2].first))
    assert segments(writer.folder.path) == existing[2:]
    writer.write("log")
    assert segments(writer.folder.path)[-1].path.stat().st_size > 0


def test_confirmed_segments_are_kept_as_long_as_asked(writer: SpoolWriter) -> None:
    disk_worker = DiskWorker(cap=1 << 30, retention_seconds=3600)
    existing = segments(writer.folder.path)
    for _ in range(2):
        submit(disk_worker, stream_state(writer, existing[2].first))
    assert segments(writer.folder.path) == existing
    disk_worker.end(10)


def test_a_producer_with_more_than_half_the_cap_is_kept_less(writer: SpoolWriter) -> None:
    disk_worker = DiskWorker(cap=2 * directory.size(writer.folder.path) - 2, retention_seconds=3600)
    existing = segments(writer.folder.path)
    submit(disk_worker, stream_state(writer, existing[2].first))
    assert segments(writer.folder.path) == existing[2:]
    submit(disk_worker, stream_state(writer, 30, is_complete=True))
    assert writer.folder.path.exists(), "below half again"
    disk_worker.end(10)


def test_a_settled_stream_goes_at_once_where_space_is_short(writer: SpoolWriter) -> None:
    disk_worker = DiskWorker(cap=0, retention_seconds=3600)
    writer.close()
    submit(disk_worker, stream_state(writer, 30, is_complete=True))
    assert not writer.folder.path.exists()
    disk_worker.end(10)


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
    disk_worker.end(10)


def test_a_settled_stream_is_kept_from_when_it_settled(writer: SpoolWriter) -> None:
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
    disk_worker.end(10)


def test_without_a_page_the_position_is_kept_in_a_file_before_anything_is_removed(
    writer: SpoolWriter, disk_worker: DiskWorker
) -> None:
    (writer.folder.path / "page").unlink()
    existing = segments(writer.folder.path)
    submit(disk_worker, stream_state(writer, existing[1].first, page=False))
    assert directory.acked_seq(writer.folder.path) == existing[1].first
    assert segments(writer.folder.path) == existing[1:]


def test_what_cannot_be_removed_is_complained_of_once(
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
    submit(disk_worker, stream_state(writer, 0)._replace(end=0))
    writer.write("log")
    submit(disk_worker, stream_state(writer, 0)._replace(end=0))
    assert len(synced) == 3, "heartbeats are not worth it"


def test_a_keeper_that_is_still_busy_is_not_given_more(
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
    assert not ended, "it was waited for"
    wait_until(lambda: disk_worker._work is None)
    assert len(calls) == 2


def test_nothing_new_is_not_looked_at_again_at_once(
    writer: SpoolWriter, disk_worker: DiskWorker
) -> None:
    disk_worker.submit([stream_state(writer, 0)], 100.0)
    wait_until(lambda: disk_worker._work is None)
    disk_worker.submit([stream_state(writer, 0)], 101.0)
    assert disk_worker._work is None
