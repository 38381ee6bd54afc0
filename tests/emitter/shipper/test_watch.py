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
from lineside.emitter.shipper.watch import Watch
from lineside.emitter.spool import locks, vitals
from lineside.emitter.spool.folder import LOCK_NAME
from lineside.emitter.spool.page import CLOSED, PAGE_BYTES, TRAIN_ENDED, TRAINING
from lineside.emitter.spool.vitals import Facts, PageView
from tests.emitter.shipper.conftest import Bench

STREAM = "run/rank0/a1"


def test_a_producer_is_gone_when_it_was_killed_and_a_pidfd_tells_at_once(bench: Bench) -> None:
    producer = bench.producer()
    watch = Watch(producer.folder)
    watch.begin()
    watch.begin()
    assert watch.fd is not None
    assert not watch.is_gone(0.0)
    os.kill(producer.process.pid, signal.SIGKILL)
    assert select.select([watch.fd], [], [], 5.0)[0]
    assert watch.is_gone(0.0)
    watch.end()
    watch.end()


def test_a_forked_child_does_not_keep_a_killed_producer_alive(bench: Bench) -> None:
    producer = bench.producer()
    producer.tell("fork")
    watch = Watch(producer.folder)
    os.kill(producer.process.pid, signal.SIGKILL)
    producer.process.wait()
    assert watch.is_gone(0.0)


def test_a_producer_that_let_go_of_its_lock_lives_as_long_as_its_process(bench: Bench) -> None:
    """A script that copies the spool lets go of every lock of its process."""
    producer = bench.producer()
    watch = Watch(producer.folder)
    watch.begin()
    producer.tell("read")
    assert locks.holder(producer.folder / LOCK_NAME) is None
    assert not watch.is_gone(0.0, has_closed=False)
    assert watch.is_gone(0.0, has_closed=True)
    late = Watch(producer.folder)
    late.begin()
    assert late.is_gone(0.0, has_closed=False), "nobody knows whose process it is"
    late.end()
    producer.tell("tend")
    assert locks.holder(producer.folder / LOCK_NAME) == producer.process.pid
    producer.tell("read")
    producer.kill()
    assert watch.is_gone(0.0, has_closed=False)
    watch.end()


def test_a_producer_that_begins_another_program_is_gone(bench: Bench) -> None:
    """The process lives on with the same id, the training does not."""
    producer = bench.producer()
    watch = Watch(producer.folder)
    watch.begin()
    producer.tell("exec")
    assert producer.process.poll() is None
    assert watch.is_gone(0.0, has_closed=False)
    watch.end()


def test_a_lock_file_that_was_removed_is_no_death_for_five_seconds(bench: Bench) -> None:
    producer = bench.producer()
    watch = Watch(producer.folder)
    (producer.folder / LOCK_NAME).unlink()
    assert not watch.is_gone(100.0)
    assert not watch.is_gone(104.0)
    producer.tell("tend")  # a live one makes it again
    assert not watch.is_gone(106.0)
    (producer.folder / LOCK_NAME).unlink()
    assert not watch.is_gone(107.0)
    assert watch.is_gone(112.0)


def test_a_process_of_another_machine_is_watched_by_its_lock_alone(bench: Bench) -> None:
    producer = bench.producer()
    (producer.folder / "stream.json").write_text('{"pid": 1, "host": "elsewhere"}')
    watch = Watch(producer.folder)
    watch.begin()
    assert watch.fd is None
    assert not watch.is_gone(0.0)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"pid": null, "host": 3}', b'{"pid": "x", "host": "y"}']
)
def test_damaged_facts_are_no_facts(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stream.json").write_bytes(content)
    facts = Facts.read(tmp_path)
    assert facts == (0, "")
    assert not facts.is_local


@pytest.mark.parametrize("content", [None, b"", b"x" * 100, bytes(PAGE_BYTES)])
def test_a_damaged_page_is_no_page(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "page").write_bytes(content)
    assert PageView.open(tmp_path) is None


def test_a_page_cut_short_while_it_is_open_is_no_page_any_more(bench: Bench) -> None:
    producer = bench.producer()
    page = PageView.open(producer.folder)
    assert page is not None
    os.truncate(producer.folder / "page", 0)
    assert page.read() is None
    page.stamp(1)
    page.acknowledge(1)
    producer.kill()
    page.close()
    assert page.read() is None
    assert not page.is_at(producer.folder)


def test_a_heartbeat_tells_what_the_rank_is_doing(bench: Bench) -> None:
    producer = bench.producer()
    producer.tell("write 3")
    producer.tell(f"flags {TRAINING}")
    page = PageView.open(producer.folder)
    assert page is not None
    words = page.read()
    assert words is not None
    beat = vitals.heartbeat(words, Facts.read(producer.folder), time.monotonic_ns())
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
    far = vitals.heartbeat(words._replace(phase=99), Facts(1, "elsewhere"), 0)
    assert (far["rss"], far["hook_age"], far["phase"]) == (None, None, "unknown")
    dead = vitals.heartbeat(words._replace(pid=2**22 + 1), Facts.read(producer.folder), 0)
    assert dead["rss"] is None


@pytest.mark.parametrize("flags", [TRAIN_ENDED, CLOSED, TRAINING | TRAIN_ENDED])
def test_a_page_says_that_its_stream_came_to_an_end(bench: Bench, flags: int) -> None:
    producer = bench.producer()
    producer.tell("write 1")
    producer.tell(f"flags {flags}")
    producer.kill()
    assert _ended(producer.folder)


@pytest.mark.parametrize("kind", ["train_end", "run_end"])
def test_a_last_record_says_it_where_the_page_was_not_told_any_more(
    bench: Bench, kind: str
) -> None:
    producer = bench.producer(segment=300)
    producer.tell(f"flags {TRAINING}")
    producer.tell("write 20")
    producer.tell(f"say {kind}")
    producer.kill()
    assert _ended(producer.folder)


def test_an_event_that_only_speaks_of_an_end_is_none(bench: Bench) -> None:
    producer = bench.producer()
    producer.tell("say train_end_of_line")
    producer.kill()
    (segment,) = producer.folder.glob("*.seg")
    with segment.open("ab") as file:
        file.write(b"train_end")
    assert not _ended(producer.folder)


def test_a_folder_that_is_gone_says_nothing(bench: Bench) -> None:
    producer = bench.producer()
    producer.kill()
    shutil.rmtree(producer.folder)
    assert not vitals.ended(producer.folder, None)
    last = vitals.last_words(producer.folder, None, Facts.read(producer.folder))
    assert set(last.values()) == {None}


def _ended(folder: Path) -> bool:
    page = PageView.open(folder)
    assert page is not None
    words = page.read()
    page.close()
    return vitals.ended(folder, words)


def test_streams_are_named_by_their_folders(bench: Bench) -> None:
    assert bench.producer(STREAM).folder == bench.spool.joinpath(*Stream.parse(STREAM))
