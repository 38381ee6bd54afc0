"""Whether a producer lives, and what its page and its last records say of it."""

from __future__ import annotations

import os
import platform
import select
import shutil
import signal
import time
from pathlib import Path

import pytest

from lineside.bus.protocol.events import Stream
from lineside.emitter.shipper.process_watcher import ProcessWatcher
from lineside.emitter.spool import liveness_lock, status_reader
from lineside.emitter.spool.status_page import CLOSED, PAGE_BYTES, TRAIN_ENDED, TRAINING
from lineside.emitter.spool.status_reader import StatusPageFile, StreamInfo
from lineside.emitter.spool.stream_folder import LOCK_NAME
from tests.emitter.shipping import Bench

STREAM = "run/rank0/a1"


def test_a_producer_is_gone_when_it_was_killed_and_a_pidfd_tells_at_once(bench: Bench) -> None:
    producer = bench.producer()
    watch = ProcessWatcher(producer.folder)
    watch.start()
    watch.start()
    assert watch.fd is not None
    assert not watch.is_gone(0.0)
    os.kill(producer.process.pid, signal.SIGKILL)
    assert select.select([watch.fd], [], [], 5.0)[0]
    assert watch.is_gone(0.0)
    watch.end()
    watch.end()


def test_a_forked_child_does_not_keep_a_killed_producer_alive(bench: Bench) -> None:
    producer = bench.producer()
    producer.send("fork")
    watch = ProcessWatcher(producer.folder)
    os.kill(producer.process.pid, signal.SIGKILL)
    producer.process.wait()
    assert watch.is_gone(0.0)


def test_a_producer_that_let_go_of_its_lock_lives_as_long_as_its_process(bench: Bench) -> None:
    """A script that copies the spool lets go of every lock of its process."""
    producer = bench.producer()
    watch = ProcessWatcher(producer.folder)
    watch.start()
    producer.send("read")
    assert liveness_lock.holder_pid(producer.folder / LOCK_NAME) is None
    assert not watch.is_gone(0.0, has_closed=False)
    assert watch.is_gone(0.0, has_closed=True)
    late = ProcessWatcher(producer.folder)
    late.start()
    assert late.is_gone(0.0, has_closed=False), "nobody knows whose process it is"
    late.end()
    producer.send("tend")
    assert liveness_lock.holder_pid(producer.folder / LOCK_NAME) == producer.process.pid
    producer.send("read")
    producer.kill()
    assert watch.is_gone(0.0, has_closed=False)
    watch.end()


def test_a_producer_that_begins_another_program_is_gone(bench: Bench) -> None:
    """The process lives on with the same id, the training does not."""
    producer = bench.producer()
    watch = ProcessWatcher(producer.folder)
    watch.start()
    producer.send("exec")
    assert producer.process.poll() is None
    assert watch.is_gone(0.0, has_closed=False)
    watch.end()


def test_a_lock_file_that_was_removed_is_no_death_for_five_seconds(bench: Bench) -> None:
    producer = bench.producer()
    watch = ProcessWatcher(producer.folder)
    (producer.folder / LOCK_NAME).unlink()
    assert not watch.is_gone(100.0)
    assert not watch.is_gone(104.0)
    producer.send("tend")  # a live one makes it again
    assert not watch.is_gone(106.0)
    (producer.folder / LOCK_NAME).unlink()
    assert not watch.is_gone(107.0)
    assert watch.is_gone(112.0)


def test_a_process_of_another_machine_is_watched_by_its_lock_alone(bench: Bench) -> None:
    producer = bench.producer()
    (producer.folder / "stream.json").write_text('{"pid": 1, "host": "elsewhere"}')
    watch = ProcessWatcher(producer.folder)
    watch.start()
    assert watch.fd is None
    assert not watch.is_gone(0.0)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"pid": null, "host": 3}', b'{"pid": "x", "host": "y"}']
)
def test_damaged_facts_are_no_facts(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stream.json").write_bytes(content)
    info = StreamInfo.read(tmp_path)
    assert info == (0, "")
    assert not info.is_local


@pytest.mark.parametrize("content", [None, b"", b"x" * 100, bytes(PAGE_BYTES)])
def test_a_damaged_page_is_no_page(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "page").write_bytes(content)
    assert StatusPageFile.open(tmp_path) is None


def test_a_page_cut_short_while_it_is_open_is_no_page_any_more(bench: Bench) -> None:
    producer = bench.producer()
    page = StatusPageFile.open(producer.folder)
    assert page is not None
    os.truncate(producer.folder / "page", 0)
    assert page.read() is None
    page.mark_shipper_alive(1)
    page.acknowledge(1)
    producer.kill()
    page.close()
    assert page.read() is None
    assert not page.is_at(producer.folder)


def test_a_heartbeat_tells_what_the_rank_is_doing(bench: Bench) -> None:
    producer = bench.producer()
    producer.send("write 3")
    producer.send(f"flags {TRAINING}")
    page = StatusPageFile.open(producer.folder)
    assert page is not None
    fields = page.read()
    assert fields is not None
    beat = status_reader.heartbeat_data(
        fields, StreamInfo.read(producer.folder), time.monotonic_ns()
    )
    page.close()
    assert beat.pop("rss") > 1 << 20
    assert 0 <= beat.pop("hook_age") < 10
    assert beat == {
        "rank": 0,
        "pid": producer.process.pid,
        "host": platform.node(),
        "step": 7,
        "phase": "starting",
        "emitted": 3,
        "dropped": 0,
        "hook_errors": 0,
        "hook_ns": 0,
        "hooks": 0,
        "acked": 0,
    }
    far = status_reader.heartbeat_data(fields._replace(phase=99), StreamInfo(1, "elsewhere"), 0)
    assert (far["rss"], far["hook_age"], far["phase"]) == (None, None, "unknown")
    dead = status_reader.heartbeat_data(
        fields._replace(pid=2**22 + 1), StreamInfo.read(producer.folder), 0
    )
    assert dead["rss"] is None


@pytest.mark.parametrize("flags", [TRAIN_ENDED, CLOSED, TRAINING | TRAIN_ENDED])
def test_a_page_says_that_its_stream_came_to_an_end(bench: Bench, flags: int) -> None:
    producer = bench.producer()
    producer.send("write 1")
    producer.send(f"flags {flags}")
    producer.kill()
    assert _ended(producer.folder)


@pytest.mark.parametrize("kind", ["train_end", "run_end"])
def test_a_last_record_says_it_where_the_page_was_not_told_any_more(
    bench: Bench, kind: str
) -> None:
    producer = bench.producer(segment=300)
    producer.send(f"flags {TRAINING}")
    producer.send("write 20")
    producer.send(f"say {kind}")
    producer.kill()
    assert _ended(producer.folder)


def test_an_event_that_only_speaks_of_an_end_is_none(bench: Bench) -> None:
    producer = bench.producer()
    producer.send("say train_end_of_line")
    producer.kill()
    (segment,) = producer.folder.glob("*.seg")
    with segment.open("ab") as file:
        file.write(b"train_end")
    assert not _ended(producer.folder)


def test_a_folder_that_is_gone_says_nothing(bench: Bench) -> None:
    producer = bench.producer()
    producer.kill()
    shutil.rmtree(producer.folder)
    assert not status_reader.has_ended(producer.folder, None)
    last = status_reader.process_lost_data(producer.folder, None, StreamInfo.read(producer.folder))
    assert set(last.values()) == {None}


def _ended(folder: Path) -> bool:
    page = StatusPageFile.open(folder)
    assert page is not None
    fields = page.read()
    page.close()
    return status_reader.has_ended(folder, fields)


def test_streams_are_named_by_their_folders(bench: Bench) -> None:
    assert bench.producer(STREAM).folder == bench.spool.joinpath(*Stream.parse(STREAM))
