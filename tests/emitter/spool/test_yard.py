"""What lies in a spool, and what may be removed from it and when."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.bus.protocol.events import Stream
from lineside.emitter.shipper import keeper as keeping
from lineside.emitter.shipper.keeper import Keeper, Kept
from lineside.emitter.spool import yard
from lineside.emitter.spool.page import ACKED_SEQ
from lineside.emitter.spool.spool import SpoolWriter
from lineside.emitter.spool.tail import segments
from tests.emitter.shipper.conftest import until

STREAM = Stream("run", "rank0", "a1")


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SpoolWriter]:
    writer = SpoolWriter(tmp_path, STREAM, segment=300)
    for _ in range(30):
        writer.write("log")
    yield writer
    writer.close()


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    keeper = Keeper(cap=1 << 30, keep_seconds=0.0)
    yield keeper
    keeper.end(10)


def give(keeper: Keeper, *streams: Kept) -> None:
    """Have them seen to, and wait until they were."""
    before = keeper._thread.is_alive()
    assert before
    keeper._retire_at = 0.0
    until(lambda: keeper._work is None)
    keeper.give(streams, float("inf"))
    until(lambda: keeper._work is None)


def kept(writer: SpoolWriter, acked: int, *, settled: bool = False, page: bool = True) -> Kept:
    return Kept(writer.folder.path, writer.next_seq, acked, settled, page)


def test_streams_are_found_among_whatever_else_lies_there(
    tmp_path: Path, writer: SpoolWriter
) -> None:
    for name in ("shipper.log", "run/notes.txt", "run/rank0/.a2.17/lock", "run/rank0/-x/page"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "run/rank0/link").symlink_to(tmp_path)
    assert list(yard.streams(tmp_path)) == [(STREAM, writer.folder.path)]
    assert list(yard.streams(tmp_path / "missing")) == []


def test_the_position_is_the_pages_or_the_files_whichever_is_further(writer: SpoolWriter) -> None:
    folder = writer.folder.path
    assert yard.position(folder) == 0
    yard.save_position(folder, 3)
    assert yard.position(folder) == 3
    writer.words[ACKED_SEQ] = 5
    assert yard.position(folder) == 5
    (folder / "page").unlink()
    assert yard.position(folder) == 3
    (folder / yard.POSITION_NAME).write_text("three")
    assert yard.position(folder) == 0


def test_confirmed_segments_are_all_but_the_one_that_is_written(writer: SpoolWriter) -> None:
    folder = writer.folder.path
    there = segments(folder)
    assert len(there) > 2
    assert yard.confirmed_segments(folder, there[1].first - 1) == []
    assert yard.confirmed_segments(folder, there[1].first) == [there[0].path]
    assert yard.confirmed_segments(folder, 10**6) == [s.path for s in there[:-1]]


def test_the_size_is_that_of_all_attempts(tmp_path: Path, writer: SpoolWriter) -> None:
    one = yard.size(writer.folder.path)
    other = SpoolWriter(tmp_path, STREAM._replace(attempt="a2"))
    other.write("log")
    other.close()
    assert yard.size(writer.folder.path) > one > 0


def test_a_stream_is_removed_with_the_folders_that_this_empties(
    tmp_path: Path, writer: SpoolWriter
) -> None:
    writer.close()
    yard.mark_lost(writer.folder.path)
    yard.remove(writer.folder.path)
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_left_and_so_is_their_folder(
    tmp_path: Path, writer: SpoolWriter
) -> None:
    writer.close()
    (writer.folder.path / "mine.txt").touch()
    with pytest.raises(OSError, match="not empty"):
        yard.remove(writer.folder.path)
    assert [p.name for p in writer.folder.path.iterdir()] == ["mine.txt"]


def test_a_mark_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    yard.mark_lost(tmp_path / "gone")


def test_confirmed_segments_of_a_live_stream_go_when_their_time_has_come(
    writer: SpoolWriter, keeper: Keeper
) -> None:
    there = segments(writer.folder.path)
    give(keeper, kept(writer, there[2].first))
    give(keeper, kept(writer, there[2].first))
    assert segments(writer.folder.path) == there[2:]
    writer.write("log")
    assert segments(writer.folder.path)[-1].path.stat().st_size > 0


def test_confirmed_segments_are_kept_as_long_as_asked(writer: SpoolWriter) -> None:
    keeper = Keeper(cap=1 << 30, keep_seconds=3600)
    there = segments(writer.folder.path)
    for _ in range(2):
        give(keeper, kept(writer, there[2].first))
    assert segments(writer.folder.path) == there
    keeper.end(10)


def test_a_producer_with_more_than_half_the_cap_is_kept_less(writer: SpoolWriter) -> None:
    keeper = Keeper(cap=2 * yard.size(writer.folder.path) - 2, keep_seconds=3600)
    there = segments(writer.folder.path)
    give(keeper, kept(writer, there[2].first))
    assert segments(writer.folder.path) == there[2:]
    give(keeper, kept(writer, 30, settled=True))
    assert writer.folder.path.exists(), "below half again"
    keeper.end(10)


def test_a_settled_stream_goes_at_once_where_space_is_short(writer: SpoolWriter) -> None:
    keeper = Keeper(cap=0, keep_seconds=3600)
    writer.close()
    give(keeper, kept(writer, 30, settled=True))
    assert not writer.folder.path.exists()
    keeper.end(10)


def test_a_nearly_full_disk_is_relieved(
    writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_disk = os.statvfs(writer.folder.path)
    full = os.statvfs_result((*list(true_disk)[:4], 1, *list(true_disk)[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    keeper = Keeper(cap=1 << 40, keep_seconds=3600)
    writer.close()
    give(keeper, kept(writer, 30, settled=True))
    assert not writer.folder.path.exists()
    keeper.end(10)


def test_a_settled_stream_is_kept_from_when_it_settled(writer: SpoolWriter) -> None:
    folder = writer.folder.path
    writer.close()
    keeper = Keeper(cap=1 << 30, keep_seconds=100)
    give(keeper, kept(writer, 30, settled=True))
    assert yard.saved_position(folder) == 30
    os.utime(folder / yard.POSITION_NAME, (0, time.time() - 90))
    give(keeper, kept(writer, 30, settled=True))
    assert folder.exists()
    os.utime(folder / yard.POSITION_NAME, (0, time.time() - 110))
    give(keeper, kept(writer, 30, settled=True))
    assert not folder.exists()
    give(keeper, kept(writer, 30, settled=True))
    keeper.end(10)


def test_without_a_page_the_position_is_kept_in_a_file_before_anything_is_removed(
    writer: SpoolWriter, keeper: Keeper
) -> None:
    (writer.folder.path / "page").unlink()
    there = segments(writer.folder.path)
    give(keeper, kept(writer, there[1].first, page=False))
    assert yard.position(writer.folder.path) == there[1].first
    assert segments(writer.folder.path) == there[1:]


def test_what_cannot_be_removed_is_complained_of_once(
    writer: SpoolWriter, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    writer.close()
    (writer.folder.path / "mine.txt").touch()
    for _ in range(3):
        give(keeper, kept(writer, 30, settled=True))
    assert caplog.text.count("not empty") == 1


def test_new_records_are_synced_once(
    writer: SpoolWriter, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(keeping, "_fdatasync", lambda path: synced.append(path.name))
    give(keeper, kept(writer, 0))
    assert len(synced) == 2
    give(keeper, kept(writer, 0))
    assert len(synced) == 2
    writer.write("log")
    give(keeper, kept(writer, 0))
    assert len(synced) == 3
    give(keeper, kept(writer, 0)._replace(end=0))
    writer.write("log")
    give(keeper, kept(writer, 0)._replace(end=0))
    assert len(synced) == 3, "heartbeats are not worth it"


def test_a_keeper_that_is_still_busy_is_not_given_more(
    writer: SpoolWriter, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, ended = [], []

    def slow(path: Path) -> None:
        calls.append(path)
        time.sleep(0.5)
        ended.append(path)

    monkeypatch.setattr(keeping, "_fdatasync", slow)
    keeper.give([kept(writer, 0)], 0.0)
    keeper.give([kept(writer, 1), kept(writer, 1)], 1e9)
    assert not ended, "it was waited for"
    until(lambda: keeper._work is None)
    assert len(calls) == 2


def test_nothing_new_is_not_looked_at_again_at_once(writer: SpoolWriter, keeper: Keeper) -> None:
    keeper.give([kept(writer, 0)], 100.0)
    until(lambda: keeper._work is None)
    keeper.give([kept(writer, 0)], 101.0)
    assert keeper._work is None
