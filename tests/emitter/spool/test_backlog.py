"""The end of a stream by its page and its last records, and the events not yet confirmed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lineside.bus.protocol.events import Stream
from lineside.emitter.spool import backlog, directory
from lineside.emitter.spool.backlog import StreamBacklog
from lineside.emitter.spool.status_page import CLOSED, NEXT_SEQ, TRAIN_ENDED, TRAINING
from lineside.emitter.spool.status_reader import read_page
from lineside.emitter.spool.stream_folder import LOCK_NAME
from tests.emitter.shipping import STREAM, Bench, Producer


@pytest.mark.parametrize("flags", [TRAIN_ENDED, CLOSED, TRAINING | TRAIN_ENDED])
def test_a_stream_has_ended_when_its_page_is_flagged(bench: Bench, flags: int) -> None:
    producer = bench.producer()
    producer.send("write 1")
    producer.send(f"flags {flags}")
    producer.kill()
    assert has_ended(producer.folder)


@pytest.mark.parametrize("kind", ["train_end", "run_end"])
def test_a_stream_has_ended_when_its_last_record_is_an_end(bench: Bench, kind: str) -> None:
    producer = bench.producer(segment=300)
    producer.send(f"flags {TRAINING}")
    producer.send("write 20")
    producer.send(f"event {kind}")
    producer.kill()
    assert has_ended(producer.folder)


def test_an_event_that_only_mentions_an_end_is_not_one(bench: Bench) -> None:
    producer = bench.producer()
    producer.send("event train_end_of_line")
    producer.kill()
    (segment,) = producer.folder.glob("*.seg")
    with segment.open("ab") as file:
        file.write(b"train_end")
    assert not has_ended(producer.folder)


def test_a_removed_stream_has_not_ended(bench: Bench) -> None:
    producer = bench.producer()
    producer.kill()
    shutil.rmtree(producer.folder)
    assert not backlog.has_ended(producer.folder, None)


def has_ended(folder: Path) -> bool:
    fields = read_page(folder)
    assert fields is not None
    return backlog.has_ended(folder, fields)


def test_the_backlog_of_a_stream_is_counted_by_its_page(bench: Bench) -> None:
    producer = bench.producer()
    assert left(bench) == StreamBacklog(0, 0)
    producer.send("write 5")
    assert left(bench) == StreamBacklog(0, 5)
    directory.write_acked_file(producer.folder, 3)
    assert left(bench) == StreamBacklog(3, 2)
    directory.write_acked_file(producer.folder, 5)
    assert left(bench) == StreamBacklog(5, 0)


def test_the_backlog_of_an_ended_stream_includes_records_that_its_page_does_not_count(
    bench: Bench,
) -> None:
    producer = bench.producer()
    producer.send("write 5")
    directory.write_acked_file(producer.folder, 4)
    store_next_seq(producer, 4)
    assert left(bench).left == 0, "a live producer is about to store it"
    producer.kill()
    assert left(bench) == StreamBacklog(4, 1)


@pytest.mark.parametrize("next_seq", [0, 1 << 60])
def test_the_backlog_of_a_stream_with_a_damaged_page_is_counted_by_its_records(
    bench: Bench, next_seq: int
) -> None:
    producer = bench.producer()
    producer.send("write 5")
    directory.write_acked_file(producer.folder, 2)
    store_next_seq(producer, next_seq)
    assert left(bench) == StreamBacklog(2, 3)
    (producer.folder / "page").unlink()
    assert left(bench) == StreamBacklog(2, 3)


def test_an_unreadable_stream_is_left_out_of_the_backlog(bench: Bench) -> None:
    producer = bench.producer()
    (producer.folder / LOCK_NAME).unlink()
    (producer.folder / LOCK_NAME).symlink_to(LOCK_NAME)
    assert backlog.unconfirmed(bench.spool) == {}


def left(bench: Bench) -> StreamBacklog:
    return backlog.unconfirmed(bench.spool)[Stream.parse(STREAM)]


def store_next_seq(producer: Producer, seq: int) -> None:
    with (producer.folder / "page").open("r+b") as page:
        page.seek(NEXT_SEQ * 8)
        page.write(seq.to_bytes(8, "little"))
