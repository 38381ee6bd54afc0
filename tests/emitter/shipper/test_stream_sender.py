"""The sender of one stream: its messages, and its reactions to the broker's answers."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import DENIED, FULL, HOLE, OK, Ack, GapMessage, Hi, Put
from lineside.emitter.shipper.stream_sender import StreamSender
from lineside.emitter.spool.status_page import ACKED_SEQ, CLOSED, FLAGS, NEXT_SEQ
from lineside.emitter.spool.writer import SpoolWriter

STREAM = Stream("run", "rank0", "a1")
NOW = 1000.0


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SpoolWriter]:
    writer = SpoolWriter(tmp_path, STREAM)
    yield writer
    writer.close()


@pytest.fixture
def stream_sender(writer: SpoolWriter) -> StreamSender:
    return StreamSender(STREAM, writer.folder.path, 0)


def write(writer: SpoolWriter, count: int) -> None:
    for _ in range(count):
        writer.write("log")


def ack(seq: int, status: str = OK) -> Ack:
    return Ack(str(STREAM), seq, status)


def greet(stream_sender: StreamSender, seq: int, now: float = NOW) -> None:
    hello = stream_sender.next(now)
    assert isinstance(hello, Hi)
    stream_sender.sent(hello)
    stream_sender.on_ack(ack(seq), now)


def send(stream_sender: StreamSender, now: float = NOW) -> Put | GapMessage | None:
    message = stream_sender.next(now)
    assert not isinstance(message, Hi)
    if message is not None:
        stream_sender.sent(message)
    return message


def sent_seqs(message: Put | GapMessage | None) -> range:
    assert isinstance(message, Put)
    return range(message.first_seq, message.first_seq + message.count)


def test_no_event_is_sent_before_the_answer_to_hi(
    stream_sender: StreamSender, writer: SpoolWriter
) -> None:
    write(writer, 3)
    hello = stream_sender.next(NOW)
    assert hello == Hi(STREAM)
    stream_sender.sent(hello)
    assert stream_sender.outstanding
    assert stream_sender.next(NOW) is None
    stream_sender.on_ack(ack(1), NOW)
    assert sent_seqs(send(stream_sender)) == range(1, 3)


def test_a_confirmation_is_stored_in_the_producers_page(
    stream_sender: StreamSender, writer: SpoolWriter
) -> None:
    write(writer, 3)
    greet(stream_sender, 0)
    send(stream_sender)
    assert stream_sender.in_flight[0] == 1
    stream_sender.on_ack(ack(3), NOW)
    assert stream_sender.in_flight == (0, 0)
    assert writer.fields[ACKED_SEQ] == 3
    assert stream_sender.is_confirmed
    assert stream_sender.left() == 0


def test_after_a_disconnect_every_unconfirmed_event_is_sent_again(
    stream_sender: StreamSender, writer: SpoolWriter
) -> None:
    greet(stream_sender, 0)
    write(writer, 2)
    send(stream_sender)
    write(writer, 2)
    send(stream_sender)
    stream_sender.on_ack(ack(2), NOW)
    stream_sender.on_disconnect()
    assert not stream_sender.outstanding
    greet(stream_sender, 2)
    assert sent_seqs(send(stream_sender)) == range(2, 4)


def test_a_broker_that_stored_more_than_it_confirmed_gets_only_the_rest(
    stream_sender: StreamSender, writer: SpoolWriter
) -> None:
    write(writer, 5)
    greet(stream_sender, 0)
    send(stream_sender)
    stream_sender.on_disconnect()
    greet(stream_sender, 4)
    assert sent_seqs(send(stream_sender)) == range(4, 5)


def test_a_message_that_could_not_be_sent_is_sent_next(
    stream_sender: StreamSender, writer: SpoolWriter
) -> None:
    greet(stream_sender, 0)
    write(writer, 2)
    send(stream_sender)
    write(writer, 2)
    message = stream_sender.next(NOW)
    assert isinstance(message, Put)
    stream_sender.not_sent(message)
    assert stream_sender.in_flight[0] == 1
    assert stream_sender.next(NOW) == message


def test_a_hi_that_could_not_be_sent_is_tried_again(stream_sender: StreamSender) -> None:
    hello = stream_sender.next(NOW)
    assert isinstance(hello, Hi)
    stream_sender.not_sent(hello)
    assert stream_sender.next(NOW) == hello


def test_after_who_the_broker_gets_hi_and_every_unconfirmed_event(
    stream_sender: StreamSender, writer: SpoolWriter
) -> None:
    write(writer, 2)
    greet(stream_sender, 0)
    send(stream_sender)
    stream_sender.on_who()
    hello = stream_sender.next(NOW)
    assert isinstance(hello, Hi)
    stream_sender.sent(hello)
    stream_sender.on_who()  # one for each message in flight
    assert stream_sender.next(NOW) is None
    stream_sender.on_ack(ack(0), NOW)
    assert sent_seqs(send(stream_sender)) == range(2)


@pytest.mark.parametrize(("status", "wait"), [(FULL, 0.5), (HOLE, 0.1), (DENIED, 5.0)])
def test_each_refusal_doubles_the_wait_and_loses_nothing(
    stream_sender: StreamSender,
    writer: SpoolWriter,
    status: str,
    wait: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(writer, 2)
    now = NOW
    for factor in (1, 2, 4):
        greet(stream_sender, 0, now)
        send(stream_sender, now)
        stream_sender.on_ack(ack(0, status), now)
        assert stream_sender.in_flight == (0, 0)
        assert stream_sender.next(now + wait * factor - 0.01) is None
        now += wait * factor
    assert caplog.text.count("the broker answers") == 1
    greet(stream_sender, 0, now)
    assert sent_seqs(send(stream_sender, now)) == range(2)
    stream_sender.on_ack(ack(2), now)
    assert stream_sender.is_confirmed
    assert not any(r.levelno >= logging.ERROR for r in caplog.records) or status == DENIED


def test_a_hi_answered_by_a_full_journal_is_sent_again_later(
    stream_sender: StreamSender, writer: SpoolWriter
) -> None:
    write(writer, 1)
    hello = stream_sender.next(NOW)
    assert hello is not None
    stream_sender.sent(hello)
    stream_sender.on_ack(ack(0, FULL), NOW)
    assert stream_sender.next(NOW) is None
    assert isinstance(stream_sender.next(NOW + 1), Hi)


def test_an_old_confirmation_changes_nothing(
    stream_sender: StreamSender, writer: SpoolWriter
) -> None:
    greet(stream_sender, 0)
    write(writer, 4)
    send(stream_sender)
    stream_sender.on_ack(ack(4), NOW)
    stream_sender.on_ack(ack(2), NOW)
    assert stream_sender.acked == 4
    assert writer.fields[ACKED_SEQ] == 4


def test_a_confirmation_that_arrives_after_a_disconnect_counts(
    stream_sender: StreamSender, writer: SpoolWriter
) -> None:
    greet(stream_sender, 0)
    write(writer, 4)
    send(stream_sender)
    stream_sender.on_disconnect()
    stream_sender.on_ack(ack(4), NOW)
    greet(stream_sender, 4)
    assert send(stream_sender) is None


def test_a_broker_that_lost_its_journal_gets_kept_events_and_a_gap_for_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = SpoolWriter(tmp_path, STREAM, segment=200)
    write(writer, 30)
    stream_sender = StreamSender(STREAM, writer.folder.path, 0)
    greet(stream_sender, 0)
    while send(stream_sender):
        pass
    stream_sender.on_ack(ack(30), NOW)
    oldest, second, *_ = sorted(writer.folder.path.glob("*.seg"))
    oldest.unlink()
    first_kept = int(second.stem)
    stream_sender.on_disconnect()
    greet(stream_sender, 0)
    assert "its journal is another" in caplog.text
    assert writer.fields[ACKED_SEQ] == 0
    assert send(stream_sender) == GapMessage(STREAM, 0, first_kept)
    seqs: list[int] = []
    while (message := send(stream_sender)) is not None:
        seqs += sent_seqs(message)
    assert seqs == list(range(first_kept, 30))
    stream_sender.on_ack(ack(30), NOW)
    assert stream_sender.gaps == first_kept
    writer.close()


def test_an_ended_stream_is_complete_once_all_of_it_is_confirmed(
    stream_sender: StreamSender, writer: SpoolWriter
) -> None:
    write(writer, 2)
    greet(stream_sender, 0)
    send(stream_sender)
    assert send(stream_sender) is None
    stream_sender.on_ack(ack(2), NOW)
    assert not stream_sender.is_complete
    stream_sender.producer_gone()
    assert send(stream_sender) is None
    assert stream_sender.is_complete


def test_events_dropped_on_a_full_disk_at_the_end_become_a_gap(
    stream_sender: StreamSender, writer: SpoolWriter
) -> None:
    write(writer, 2)
    writer.fields[NEXT_SEQ] = 5
    greet(stream_sender, 0)
    send(stream_sender)
    assert send(stream_sender) is None, "the events may still come"
    writer.fields[FLAGS] |= CLOSED
    assert send(stream_sender) == GapMessage(STREAM, 2, 5)
    stream_sender.on_ack(ack(5), NOW)
    assert stream_sender.gaps == 3
    stream_sender.producer_gone()
    assert send(stream_sender) is None
    assert stream_sender.is_complete


def test_an_implausible_page_is_ignored(stream_sender: StreamSender, writer: SpoolWriter) -> None:
    write(writer, 2)
    writer.fields[NEXT_SEQ] = 1 << 60
    stream_sender.producer_gone()
    assert stream_sender.left() == 2
    greet(stream_sender, 0)
    assert sent_seqs(send(stream_sender)) == range(2)
    assert send(stream_sender) is None
    stream_sender.on_ack(ack(2), NOW)
    assert stream_sender.is_complete


def test_unread_events_are_found_without_a_broker(writer: SpoolWriter) -> None:
    write(writer, 3)
    for acked, is_complete in ((0, False), (3, True)):
        stream_sender = StreamSender(STREAM, writer.folder.path, acked)
        stream_sender.producer_gone()
        stream_sender.check_remaining(NOW)
        stream_sender.check_remaining(NOW)
        assert stream_sender.is_complete is is_complete


def test_a_stream_without_a_page_is_counted_and_shipped(writer: SpoolWriter) -> None:
    write(writer, 3)
    (writer.folder.path / "page").unlink()
    stream_sender = StreamSender(STREAM, writer.folder.path, 1)
    assert stream_sender.fields() is None
    assert stream_sender.left() == 2
    assert not stream_sender.is_confirmed
    greet(stream_sender, 1)
    assert sent_seqs(send(stream_sender)) == range(1, 3)
    stream_sender.on_ack(ack(3), NOW)
    stream_sender.producer_gone()
    assert send(stream_sender) is None
    assert stream_sender.is_complete
    assert stream_sender.left() == 0


def test_a_live_stream_without_a_page_is_read_four_times_a_second(
    writer: SpoolWriter,
) -> None:
    (writer.folder.path / "page").unlink()
    stream_sender = StreamSender(STREAM, writer.folder.path, 0)
    greet(stream_sender, 0)
    assert send(stream_sender) is None
    write(writer, 1)
    assert send(stream_sender, NOW + 0.1) is None
    assert send(stream_sender, NOW + 0.3) is not None


def test_a_page_that_was_made_again_is_used(
    stream_sender: StreamSender, writer: SpoolWriter
) -> None:
    write(writer, 1)
    page = writer.folder.path / "page"
    content = page.read_bytes()
    page.unlink()
    assert stream_sender.fields() is None
    page.write_bytes(content)
    greet(stream_sender, 0)
    send(stream_sender)
    stream_sender.on_ack(ack(1), NOW)
    assert int.from_bytes(page.read_bytes()[ACKED_SEQ * 8 :][:8], "little") == 1


def test_a_deleted_folder_becomes_a_gap(stream_sender: StreamSender, writer: SpoolWriter) -> None:
    write(writer, 4)
    greet(stream_sender, 2)
    assert stream_sender.left() == 2
    shutil.rmtree(writer.folder.path)
    stream_sender.producer_gone()
    assert send(stream_sender) == GapMessage(STREAM, 2, 4)
    stream_sender.on_ack(ack(4), NOW)
    assert send(stream_sender) is None
    assert stream_sender.is_complete


def test_an_unreadable_segment_is_tried_again_later(
    stream_sender: StreamSender, writer: SpoolWriter, caplog: pytest.LogCaptureFixture
) -> None:
    write(writer, 2)
    (path,) = writer.folder.path.glob("*.seg")
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    greet(stream_sender, 0)
    assert send(stream_sender) is None
    assert "cannot be read" in caplog.text
    path.rmdir()
    path.write_bytes(content)
    assert send(stream_sender, NOW + 1) is None
    assert sent_seqs(send(stream_sender, NOW + 6)) == range(2)
