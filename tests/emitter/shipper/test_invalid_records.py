"""A record that the broker cannot read is set aside and reported, and its stream goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.protocol.events import Event, Stream
from lineside.bus.protocol.messages import INVALID, Ack, GapMessage, Hi, Put
from lineside.bus.protocol.wire import HEADER, decode_kind, record_bodies
from lineside.bus.testing import read_all
from lineside.emitter.shipper.flush import ShipResult, ship
from lineside.emitter.shipper.invalid_records import FOLDER
from lineside.emitter.shipper.stream_sender import StreamSender
from lineside.emitter.spool import writer as writer_module
from lineside.emitter.spool.status_page import CLOSED, FLAGS
from lineside.emitter.spool.writer import SpoolWriter
from tests.emitter.shipping import Bench

STREAM = Stream("run", "rank0", "a.1")
NOW = 1000.0
TOO_MANY_LISTS: dict[str, Any] = {"lists": [[[], []] for _ in range(15_000)]}


class FakeBroker:
    """Answers a sender as the broker does that cannot read the records ``invalid``.

    It takes ``turn`` messages at a time of those that are under way, at most ``window``.
    """

    def __init__(
        self, sender: StreamSender, invalid: set[int], window: int = 3, turn: int = 3
    ) -> None:
        self.sender, self.invalid = sender, invalid
        self.window, self.turn = window, turn
        self.next_seq = 0
        self.under_way: list[Hi | Put | GapMessage] = []
        self.gaps: list[int] = []
        self.messages = 0

    def run(self) -> None:
        """Answer until nothing more is sent."""
        while self._send():
            taken = self.under_way[: self.turn]
            del self.under_way[: self.turn]
            self.messages += len(taken)
            # The refusals come before the confirmations of one turn.
            for answer in sorted(map(self._answer, taken), key=lambda a: a.status != INVALID):
                self.sender.on_ack(answer, NOW)
                self._send()

    def _send(self) -> bool:
        while len(self.under_way) < self.window and (message := self.sender.next(NOW)) is not None:
            self.sender.sent(message)
            self.under_way.append(message)
        return bool(self.under_way)

    def _answer(self, message: Hi | Put | GapMessage) -> Ack:
        status, before = "ok", self.next_seq
        if isinstance(message, Hi):
            return Ack(str(STREAM), before, status, 0, "id of the journal")
        if isinstance(message, Put):
            seqs = range(message.first_seq, message.first_seq + message.count)
            if self.invalid & {*seqs}:
                return Ack(str(STREAM), before, INVALID, 0, "cannot be read")
            if seqs.start > self.next_seq:
                status = "hole"
            else:
                self.next_seq = max(seqs.stop, self.next_seq)
        elif isinstance(message, GapMessage):
            assert message.first <= self.next_seq
            self.gaps += range(self.next_seq, message.end)
            self.next_seq = max(message.end, self.next_seq)
        return Ack(str(STREAM), self.next_seq, status)


def write(spool: Path, count: int) -> SpoolWriter:
    writer = SpoolWriter(spool, STREAM)
    for _ in range(count):
        writer.write("log")
    writer.fields[FLAGS] = CLOSED
    return writer


@pytest.mark.parametrize("invalid", [{0}, {299}, {700, 701}, {3, 400, 999}])
def test_just_the_records_that_the_broker_cannot_read_become_gaps(
    tmp_path: Path, invalid: set[int]
) -> None:
    writer = write(tmp_path, 1000)
    sender = StreamSender(STREAM, writer.folder.path, 0)
    found: list[int] = []
    sender.invalid.on_found = lambda record: found.append(record.seq)
    broker = FakeBroker(sender, invalid)
    broker.run()
    assert broker.next_seq == sender.acked == 1000
    assert broker.gaps == found == sorted(invalid)
    assert sender.gaps == len(invalid)
    assert broker.messages < 20 + 25 * len(invalid)
    kept = (tmp_path / FOLDER / "run" / "rank0" / "a.1.seg").read_bytes()
    assert len(list(record_bodies(kept))) == len(invalid)
    writer.close()


def test_answers_to_earlier_messages_are_about_no_later_one(tmp_path: Path) -> None:
    writer = write(tmp_path, 5120)
    invalid = {*range(300, 5120, 256)}
    sender = StreamSender(STREAM, writer.folder.path, 0)
    found: list[int] = []
    sender.invalid.on_found = lambda record: found.append(record.seq)
    broker = FakeBroker(sender, invalid, window=64, turn=2)
    broker.run()
    assert broker.next_seq == sender.acked == 5120
    assert broker.gaps == found == sorted(invalid)
    writer.close()


def test_a_stream_of_such_records_alone_ends(tmp_path: Path) -> None:
    writer = write(tmp_path, 20)
    broker = FakeBroker(StreamSender(STREAM, writer.folder.path, 0), {*range(20)})
    broker.run()
    assert broker.gaps == list(range(20))
    writer.close()


def test_a_record_that_cannot_be_kept_is_sent_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = write(tmp_path, 3)
    (tmp_path / FOLDER).write_text("in the way")
    sender = StreamSender(STREAM, writer.folder.path, 0)
    broker = FakeBroker(sender, {1})
    broker.run()
    assert (broker.next_seq, broker.gaps) == (1, [])
    assert "event 1 cannot be set aside" in caplog.text
    (tmp_path / FOLDER).unlink()
    assert sender.next(NOW + 60) is not None
    sender.on_disconnect()
    sender._retry_at = 0.0
    broker.run()
    assert (broker.next_seq, broker.gaps) == (3, [1])
    writer.close()


def test_a_record_that_was_kept_in_part_is_kept_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = write(tmp_path, 3)
    sender = StreamSender(STREAM, writer.folder.path, 0)
    broker = FakeBroker(sender, {1})
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: os.pwrite(fd, data[:10], 0))
        broker.run()
    assert broker.next_seq == 1
    sender._retry_at = 0.0
    broker.run()
    assert (broker.next_seq, broker.gaps) == (3, [1])
    kept = (tmp_path / FOLDER / "run" / "rank0" / "a.1.seg").read_bytes()
    [body] = record_bodies(kept)
    assert len(kept) == HEADER.size + len(body)
    writer.close()


def test_the_run_has_the_reason_and_the_place_of_an_event_that_the_broker_cannot_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "check_container_count", lambda body: None)
    writer = SpoolWriter(bench.spool, STREAM)
    for number in range(300):
        writer.write("log", data=TOO_MANY_LISTS if number == 200 else {"loss": 1.0})
    writer.fields[FLAGS] = CLOSED
    writer.close()
    bench.broker()
    shipped = ship(bench.spool, bench.address, 30)
    assert shipped == ShipResult(streams=1, events=299, gaps=1, left=0)
    events = read_all(bench.address, [STREAM.run + "/rank0"])
    assert [event.seq for event in events] == [*range(200), *range(201, 300)]
    ship(bench.spool, bench.address, 30)

    def reported(events: list[Event]) -> bool:
        return any(event.kind == "gap" for event in events)

    [report] = read_all(bench.address, ["run/shipper"], until=reported)
    data = dict(report.data or {})
    kept = Path(data.pop("kept"))
    assert "maps and lists" in data.pop("error")
    assert data == {
        "first": 200,
        "end": 201,
        "kinds": {"log": 1},
        "why": "invalid",
        "producer": "rank0",
        "attempt": "a.1",
    }
    assert [decode_kind(body) for body in record_bodies(kept.read_bytes())] == ["log"]
    assert kept.is_relative_to(bench.spool)
