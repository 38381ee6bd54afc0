"""One stream's way to the broker, told what the broker says."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.messages import DENIED, FULL, HOLE, OK, Ack, GapMessage, Hi, Put
from lineside.emitter.shipper.transfer import Transfer
from lineside.emitter.spool.page import ACKED_SEQ, CLOSED, FLAGS, NEXT_SEQ
from lineside.emitter.spool.spool import SpoolWriter

STREAM = Stream("run", "rank0", "a1")
NOW = 1000.0


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SpoolWriter]:
    writer = SpoolWriter(tmp_path, STREAM)
    yield writer
    writer.close()


@pytest.fixture
def transfer(writer: SpoolWriter) -> Iterator[Transfer]:
    transfer = Transfer(STREAM, writer.folder.path, 0)
    yield transfer
    transfer.close()


def write(writer: SpoolWriter, count: int) -> None:
    for _ in range(count):
        writer.write("log")


def ack(seq: int, status: str = OK) -> Ack:
    return Ack(str(STREAM), seq, status)


def greet(transfer: Transfer, seq: int, now: float = NOW) -> None:
    hello = transfer.next(now)
    assert isinstance(hello, Hi)
    transfer.sent(hello)
    transfer.on_ack(ack(seq), now)


def send(transfer: Transfer, now: float = NOW) -> Put | GapMessage | None:
    message = transfer.next(now)
    assert not isinstance(message, Hi)
    if message is not None:
        transfer.sent(message)
    return message


def sent_seqs(message: Put | GapMessage | None) -> range:
    assert isinstance(message, Put)
    return range(message.first_seq, message.first_seq + message.count)


def test_nothing_is_sent_before_the_broker_said_where_to_begin(
    transfer: Transfer, writer: SpoolWriter
) -> None:
    write(writer, 3)
    hello = transfer.next(NOW)
    assert hello == Hi(STREAM)
    transfer.sent(hello)
    assert transfer.outstanding
    assert transfer.next(NOW) is None
    transfer.on_ack(ack(1), NOW)
    assert sent_seqs(send(transfer)) == range(1, 3)


def test_a_confirmation_is_told_to_the_producer(transfer: Transfer, writer: SpoolWriter) -> None:
    write(writer, 3)
    greet(transfer, 0)
    send(transfer)
    assert transfer.in_flight[0] == 1
    transfer.on_ack(ack(3), NOW)
    assert transfer.in_flight == (0, 0)
    assert writer.words[ACKED_SEQ] == 3
    assert transfer.delivered
    assert transfer.left() == 0


def test_after_a_loss_everything_unconfirmed_is_sent_again(
    transfer: Transfer, writer: SpoolWriter
) -> None:
    greet(transfer, 0)
    write(writer, 2)
    send(transfer)
    write(writer, 2)
    send(transfer)
    transfer.on_ack(ack(2), NOW)
    transfer.lost()
    assert not transfer.outstanding
    greet(transfer, 2)
    assert sent_seqs(send(transfer)) == range(2, 4)


def test_a_broker_that_kept_more_than_it_confirmed_gets_only_the_rest(
    transfer: Transfer, writer: SpoolWriter
) -> None:
    write(writer, 5)
    greet(transfer, 0)
    send(transfer)
    transfer.lost()
    greet(transfer, 4)
    assert sent_seqs(send(transfer)) == range(4, 5)


def test_what_could_not_be_sent_is_sent_next(transfer: Transfer, writer: SpoolWriter) -> None:
    greet(transfer, 0)
    write(writer, 2)
    send(transfer)
    write(writer, 2)
    message = transfer.next(NOW)
    assert isinstance(message, Put)
    transfer.not_sent(message)
    assert transfer.in_flight[0] == 1
    assert transfer.next(NOW) == message


def test_a_greeting_that_could_not_be_sent_is_tried_again(transfer: Transfer) -> None:
    hello = transfer.next(NOW)
    assert isinstance(hello, Hi)
    transfer.not_sent(hello)
    assert transfer.next(NOW) == hello


def test_a_broker_that_asks_who_is_told_and_gets_everything_unconfirmed(
    transfer: Transfer, writer: SpoolWriter
) -> None:
    write(writer, 2)
    greet(transfer, 0)
    send(transfer)
    transfer.on_who()
    hello = transfer.next(NOW)
    assert isinstance(hello, Hi)
    transfer.sent(hello)
    transfer.on_who()  # it asked for each message that was on its way
    assert transfer.next(NOW) is None
    transfer.on_ack(ack(0), NOW)
    assert sent_seqs(send(transfer)) == range(2)


@pytest.mark.parametrize(("status", "wait"), [(FULL, 0.5), (HOLE, 0.1), (DENIED, 5.0)])
def test_a_refusal_is_waited_out_longer_each_time_and_loses_nothing(
    transfer: Transfer,
    writer: SpoolWriter,
    status: str,
    wait: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(writer, 2)
    now = NOW
    for factor in (1, 2, 4):
        greet(transfer, 0, now)
        send(transfer, now)
        transfer.on_ack(ack(0, status), now)
        assert transfer.in_flight == (0, 0)
        assert transfer.next(now + wait * factor - 0.01) is None
        now += wait * factor
    assert caplog.text.count("the broker answers") == 1
    greet(transfer, 0, now)
    assert sent_seqs(send(transfer, now)) == range(2)
    transfer.on_ack(ack(2), now)
    assert transfer.delivered
    assert not any(r.levelno >= logging.ERROR for r in caplog.records) or status == DENIED


def test_a_full_journal_that_answers_the_greeting_is_waited_for(
    transfer: Transfer, writer: SpoolWriter
) -> None:
    write(writer, 1)
    hello = transfer.next(NOW)
    assert hello is not None
    transfer.sent(hello)
    transfer.on_ack(ack(0, FULL), NOW)
    assert transfer.next(NOW) is None
    assert isinstance(transfer.next(NOW + 1), Hi)


def test_an_old_confirmation_changes_nothing(transfer: Transfer, writer: SpoolWriter) -> None:
    greet(transfer, 0)
    write(writer, 4)
    send(transfer)
    transfer.on_ack(ack(4), NOW)
    transfer.on_ack(ack(2), NOW)
    assert transfer.acked == 4
    assert writer.words[ACKED_SEQ] == 4


def test_a_confirmation_that_comes_after_a_loss_is_believed(
    transfer: Transfer, writer: SpoolWriter
) -> None:
    greet(transfer, 0)
    write(writer, 4)
    send(transfer)
    transfer.lost()
    transfer.on_ack(ack(4), NOW)
    greet(transfer, 4)
    assert send(transfer) is None


def test_a_broker_that_lost_its_journal_gets_again_what_is_here_and_a_gap_for_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = SpoolWriter(tmp_path, STREAM, segment=200)
    write(writer, 30)
    transfer = Transfer(STREAM, writer.folder.path, 0)
    greet(transfer, 0)
    while send(transfer):
        pass
    transfer.on_ack(ack(30), NOW)
    oldest, second, *_ = sorted(writer.folder.path.glob("*.seg"))
    oldest.unlink()
    first_kept = int(second.stem)
    transfer.lost()
    greet(transfer, 0)
    assert "its journal is another" in caplog.text
    assert writer.words[ACKED_SEQ] == 0
    assert send(transfer) == GapMessage(STREAM, 0, first_kept)
    seqs: list[int] = []
    while (message := send(transfer)) is not None:
        seqs += sent_seqs(message)
    assert seqs == list(range(first_kept, 30))
    transfer.on_ack(ack(30), NOW)
    assert transfer.gaps == first_kept
    transfer.close()
    writer.close()


def test_an_ended_stream_is_settled_once_all_of_it_is_confirmed(
    transfer: Transfer, writer: SpoolWriter
) -> None:
    write(writer, 2)
    greet(transfer, 0)
    send(transfer)
    assert send(transfer) is None
    transfer.on_ack(ack(2), NOW)
    assert not transfer.settled
    transfer.producer_gone()
    assert send(transfer) is None
    assert transfer.settled


def test_events_that_a_full_disk_refused_at_the_end_become_a_gap(
    transfer: Transfer, writer: SpoolWriter
) -> None:
    write(writer, 2)
    writer.words[NEXT_SEQ] = 5
    greet(transfer, 0)
    send(transfer)
    assert send(transfer) is None, "it may still come"
    writer.words[FLAGS] |= CLOSED
    assert send(transfer) == GapMessage(STREAM, 2, 5)
    transfer.on_ack(ack(5), NOW)
    assert transfer.gaps == 3
    transfer.producer_gone()
    assert send(transfer) is None
    assert transfer.settled


def test_a_page_that_claims_the_impossible_is_not_believed(
    transfer: Transfer, writer: SpoolWriter
) -> None:
    write(writer, 2)
    writer.words[NEXT_SEQ] = 1 << 60
    transfer.producer_gone()
    assert transfer.left() == 2
    greet(transfer, 0)
    assert sent_seqs(send(transfer)) == range(2)
    assert send(transfer) is None
    transfer.on_ack(ack(2), NOW)
    assert transfer.settled


def test_whether_anything_is_left_is_known_without_a_broker(writer: SpoolWriter) -> None:
    write(writer, 3)
    for acked, settled in ((0, False), (3, True)):
        transfer = Transfer(STREAM, writer.folder.path, acked)
        transfer.producer_gone()
        transfer.check(NOW)
        transfer.check(NOW)
        assert transfer.settled is settled
        transfer.close()


def test_a_stream_without_a_page_is_counted_and_shipped(writer: SpoolWriter) -> None:
    write(writer, 3)
    (writer.folder.path / "page").unlink()
    transfer = Transfer(STREAM, writer.folder.path, 1)
    assert transfer.page is None
    assert transfer.left() == 2
    assert not transfer.delivered
    greet(transfer, 1)
    assert sent_seqs(send(transfer)) == range(1, 3)
    transfer.on_ack(ack(3), NOW)
    transfer.producer_gone()
    assert send(transfer) is None
    assert transfer.settled
    assert transfer.left() == 0


def test_a_live_stream_without_a_page_is_looked_at_four_times_a_second(
    writer: SpoolWriter,
) -> None:
    (writer.folder.path / "page").unlink()
    transfer = Transfer(STREAM, writer.folder.path, 0)
    greet(transfer, 0)
    assert send(transfer) is None
    write(writer, 1)
    assert send(transfer, NOW + 0.1) is None
    assert send(transfer, NOW + 0.3) is not None


def test_a_page_that_was_made_again_is_taken(transfer: Transfer, writer: SpoolWriter) -> None:
    write(writer, 1)
    page = writer.folder.path / "page"
    content = page.read_bytes()
    page.unlink()
    transfer.reopen_page()
    assert transfer.page is not None, "the old one is better than none"
    page.write_bytes(content)
    transfer.reopen_page()
    transfer.reopen_page()
    greet(transfer, 0)
    send(transfer)
    transfer.on_ack(ack(1), NOW)
    assert int.from_bytes(page.read_bytes()[ACKED_SEQ * 8 :][:8], "little") == 1


def test_a_folder_that_is_deleted_leaves_a_gap_behind(
    transfer: Transfer, writer: SpoolWriter
) -> None:
    write(writer, 4)
    greet(transfer, 2)
    shutil.rmtree(writer.folder.path)
    transfer.producer_gone()
    assert send(transfer) == GapMessage(STREAM, 2, 4)
    transfer.on_ack(ack(4), NOW)
    assert send(transfer) is None
    assert transfer.settled


def test_a_segment_that_cannot_be_read_is_tried_again_later(
    transfer: Transfer, writer: SpoolWriter, caplog: pytest.LogCaptureFixture
) -> None:
    write(writer, 2)
    (path,) = writer.folder.path.glob("*.seg")
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    greet(transfer, 0)
    assert send(transfer) is None
    assert "cannot be read" in caplog.text
    path.rmdir()
    path.write_bytes(content)
    assert send(transfer, NOW + 1) is None
    assert sent_seqs(send(transfer, NOW + 6)) == range(2)
