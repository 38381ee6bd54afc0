"""What the broker promises a producer: kept before it is confirmed, in order, once."""

from __future__ import annotations

import os
import random
import socket as plain
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import zmq

from lineside.bus import broker as broker_module
from lineside.bus import subscriptions
from lineside.bus.broker import Broker
from lineside.bus.errors import (
    AddressInUse,
    JournalDamaged,
    JournalError,
    JournalFull,
    SettingsError,
)
from lineside.bus.events import Stream
from lineside.bus.journal import Write
from lineside.bus.messages import (
    DENIED,
    FULL,
    HOLE,
    OK,
    START,
    Ack,
    Cur,
    Evt,
    GapMessage,
    Hi,
    Put,
    Sub,
    Who,
)
from lineside.bus.reader import Reader
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer, read_all
from tests.bus.conftest import STREAM, Peer, Served, record, records

Serve = Callable[..., Served]
Connect = Callable[[], Peer]


def test_records_are_confirmed_after_the_last_one_kept(serve: Serve, peer: Connect) -> None:
    serve()
    producer = peer()
    assert producer.ask(Hi(STREAM)) == Ack(str(STREAM), 0, OK, 0)
    assert producer.ask(Put(STREAM, 0, 3, records(0, 3))) == Ack(str(STREAM), 3, OK, 1)
    assert producer.ask(Put(STREAM, 3, 2, records(3, 5))) == Ack(str(STREAM), 5, OK, 2)


def test_what_the_stream_has_already_is_trimmed(
    serve: Serve, peer: Connect, settings: Settings
) -> None:
    serve()
    producer = peer()
    producer.ask(Hi(STREAM))
    producer.ask(Put(STREAM, 0, 3, records(0, 3)))
    assert producer.ask(Put(STREAM, 0, 3, records(0, 3))) == Ack(str(STREAM), 3, OK, 1)
    assert producer.ask(Put(STREAM, 1, 4, records(1, 5))) == Ack(str(STREAM), 5, OK, 2)
    events = read_all(settings.broker)
    assert [event.seq for event in events] == [0, 1, 2, 3, 4]


def test_a_hole_is_refused_with_the_seq_that_is_wanted(serve: Serve, peer: Connect) -> None:
    serve()
    producer = peer()
    producer.ask(Hi(STREAM))
    assert producer.ask(Put(STREAM, 2, 1, records(2, 3))) == Ack(str(STREAM), 0, HOLE, 0)
    assert producer.ask(GapMessage(STREAM, 1, 2)) == Ack(str(STREAM), 0, HOLE, 0)


def test_a_gap_takes_the_place_of_records_that_cannot_be_had(serve: Serve, peer: Connect) -> None:
    serve()
    producer = peer()
    producer.ask(Hi(STREAM))
    assert producer.ask(GapMessage(STREAM, 0, 10)) == Ack(str(STREAM), 10, OK, 1)
    assert producer.ask(GapMessage(STREAM, 5, 12)) == Ack(str(STREAM), 12, OK, 2)
    assert producer.ask(GapMessage(STREAM, 0, 12)) == Ack(str(STREAM), 12, OK, 2)
    assert producer.ask(Put(STREAM, 12, 1, record(12))) == Ack(str(STREAM), 13, OK, 3)


def test_a_connection_that_has_not_said_hi_is_asked_who_it_is(serve: Serve, peer: Connect) -> None:
    serve()
    producer = peer()
    assert producer.ask(Put(STREAM, 0, 1, record(0))) == Who(str(STREAM))
    assert producer.ask(GapMessage(STREAM, 0, 1)) == Who(str(STREAM))
    assert producer.ask(GapMessage(None, 0, 1)) == Who("")
    assert producer.ask(Cur(0, 1)) == Who("")


def test_several_streams_share_a_connection(serve: Serve, peer: Connect) -> None:
    serve()
    producer = peer()
    streams = [Stream("run", f"rank{rank}", "a") for rank in range(3)]
    for stream in streams:
        producer.ask(Hi(stream))
    for stream in streams:
        producer.tell(Put(stream, 0, 2, records(0, 2)))
    acks = {producer.hear() for _ in streams}
    assert {(ack.key, ack.next) for ack in acks if isinstance(ack, Ack)} == {
        (str(stream), 2) for stream in streams
    }


@pytest.mark.parametrize(
    ("put", "why"),
    [
        (Put(STREAM, 0, 2, records(0, 1)), "2 records announced, 1 found"),
        (Put(STREAM, 0, 1, records(0, 2)), "1 records announced, 2 found"),
        (Put(STREAM, 0, 0, b""), "0 records announced, 0 found"),
        (Put(STREAM, 0, 1, records(0, 1)[:-1]), "cut short"),
        (Put(STREAM, 0, 1, records(0, 1)[:-1] + b"\xff"), "checksum does not match"),
        (Put(STREAM, (1 << 63) - 1, 1, records(0, 1)), "pass the last seq"),
    ],
)
def test_a_blob_that_is_not_what_it_says_is_denied_and_nothing_kept(
    serve: Serve, peer: Connect, put: Put, why: str
) -> None:
    serve()
    producer = peer()
    producer.ask(Hi(STREAM))
    answer = producer.ask(put)
    assert isinstance(answer, Ack)
    assert (answer.key, answer.status, answer.next) == (str(STREAM), DENIED, 0)
    assert why in answer.text
    again = producer.ask(Put(STREAM, 0, 1, record(0)))
    assert isinstance(again, Ack)
    assert (again.status, again.next) == (OK, 1)


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"NO", b"x"],
        [b"PUT"],
        [b"PUT", b"no stream", b"1", b"1", b""],
        [b"HI", b"\xff\xff", b"\x80"],
        [b"HI", b"run/rank0/a", b"\xc1"],
        [b"SUB", b"", b"cursor", bytes(8), b"\x90", bytes(8)],
        [b"SUB", b"", b"start", bytes(8), b"\x91\xa7a/b/c/d", bytes(8)],
        [b"SUB", b"x" * 200, b"start", bytes(8), b"\x90", bytes(8)],
        [b"EVT", bytes(8), b"run/rank0/a", bytes(8), bytes(8), b""],
        [b"ACK", b"x", bytes(8), b"ok", bytes(8), b""],
        [b"HI", b"_bus/broker/a", b"\x80"],
    ],
)
def test_a_malformed_message_is_denied_and_the_next_one_served(
    serve: Serve, peer: Connect, frames: list[bytes]
) -> None:
    serve()
    connection = peer()
    connection.socket.send_multipart(frames)
    answer = connection.hear()
    assert isinstance(answer, Ack)
    assert (answer.key, answer.status) == ("", DENIED)
    assert answer.text
    assert connection.ask(Hi(STREAM)) in (Ack(str(STREAM), 0, OK, head) for head in (0, 1))


def test_refused_messages_are_counted_on_the_brokers_own_stream(
    serve: Serve, peer: Connect, settings: Settings
) -> None:
    serve()
    connection = peer()
    for _ in range(20):
        connection.socket.send_multipart([b"NO"])
        connection.hear()
    [event] = read_all(settings.broker, ["_bus/broker"], until=bool)
    assert event.kind == "refused"
    assert event.data is not None
    assert 0 < event.data["count"] <= 20
    assert "unknown verb" in event.data["last"]


def test_an_identity_of_the_peers_own_choice_is_refused(serve: Serve, settings: Settings) -> None:
    serve()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.ROUTING_ID, b"me")
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(settings.broker)
        socket.send_multipart(Hi(STREAM).encode())
        assert socket.poll(5000)
        assert b"set no routing id" in socket.recv_multipart()[-1]


def test_a_fault_in_handling_one_message_does_not_end_the_broker(
    serve: Serve, peer: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    producer = peer()
    producer.ask(Hi(STREAM))

    def fail(message: Put) -> str:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(served.broker._intake, "put", fail)
        answer = producer.ask(Put(STREAM, 0, 1, record(0)))
    assert isinstance(answer, Ack)
    assert (answer.status, answer.text) == (DENIED, "the broker failed on this message")
    again = producer.ask(Put(STREAM, 0, 1, record(0)))
    assert isinstance(again, Ack)
    assert (again.status, again.next) == (OK, 1)


def test_a_peer_that_is_silent_for_long_is_asked_who_it_is(
    serve: Serve, peer: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_SILENT_SECONDS", 0.0)
    monkeypatch.setattr(broker_module, "_SWEEP_SECONDS", 0.1)
    serve()
    producer = peer()
    producer.ask(Hi(STREAM))
    deadline = time.monotonic() + 5
    while producer.ask(Put(STREAM, 0, 1, record(0))) != Who(str(STREAM)):
        assert time.monotonic() < deadline


def test_a_second_broker_at_the_address_is_told_which_process_listens(
    serve: Serve, settings: Settings
) -> None:
    serve()
    with pytest.raises(AddressInUse, match=f"process {os.getpid()} listens there"):
        Served(Broker(settings))


def test_a_second_broker_on_the_journal_is_told(serve: Serve, settings: Settings) -> None:
    serve()
    other = Settings.from_env(
        {"LINESIDE_HOME": str(settings.home), "LINESIDE_BROKER": f"ipc://{settings.home}/other"}
    )
    with pytest.raises(AddressInUse, match="another broker has it open"):
        Served(Broker(other))


def test_a_home_that_cannot_be_made_is_told(settings: Settings) -> None:
    (settings.home / "file").write_text("")
    inside = Settings.from_env({"LINESIDE_HOME": str(settings.home / "file" / "home")})
    with pytest.raises(SettingsError, match="cannot be made"):
        Served(Broker(inside))


def test_a_damaged_journal_ends_the_broker_with_a_sentence(
    serve: Serve, settings: Settings
) -> None:
    settings.journal.write_bytes(b"this is not a database at all, " * 1000)
    with pytest.raises(JournalError, match=r"is damaged .*move it aside"):
        Served(Broker(settings))


def test_a_full_journal_says_so_keeps_nothing_and_recovers(
    small_disk: Callable[[], Path],
) -> None:
    disk = small_disk()
    full = Settings.from_env({"LINESIDE_HOME": str(disk)})
    served = Served(Broker(full))
    producer = Peer(full.broker)
    try:
        producer.ask(Hi(STREAM))
        seq, blob = 0, b""
        while True:
            blob = record(seq, {"x": "y" * 200_000})
            answer = producer.ask(Put(STREAM, seq, 1, blob))
            assert isinstance(answer, Ack)
            if answer.status == FULL:
                break
            assert answer == Ack(str(STREAM), seq + 1, OK, seq + 1)
            seq += 1
            if seq == 5:
                (disk / "ballast").write_bytes(bytes(6 << 20))
        assert answer.next == seq
        assert "is full: free some space" in answer.text
        # Everything before can be read.
        events = read_all(full.broker, until=lambda events: len(events) == seq)
        assert [event.seq for event in events] == list(range(seq))
        assert producer.ask(Hi(STREAM)) == Ack(str(STREAM), seq, OK, seq)
        (disk / "ballast").unlink()
        assert producer.ask(Put(STREAM, seq, 1, blob)) == Ack(str(STREAM), seq + 1, OK, seq + 1)
    finally:
        producer.close()
        served.stop()
    assert served.error is None


def test_garbage_leaves_the_broker_serving(broker: BrokerProcess) -> None:
    dice = random.Random(7)
    verbs = [b"HI", b"PUT", b"ACK", b"GAP", b"SUB", b"EVT", b"CUR", b"WHO", b"", b"\0" * 300]
    good = [
        Hi(STREAM).encode(),
        Put(STREAM, 0, 5, records(0, 5)).encode(),
        GapMessage(STREAM, 0, 5).encode(),
        Sub("name", START, 0, ("run",), 5).encode(),
        Cur(5, 5).encode(),
    ]
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(broker.address)
        for _ in range(3000):
            if dice.random() < 0.5:
                frames = list(dice.choice(good))
                at = dice.randrange(len(frames))
                frame = bytearray(frames[at])
                if frame:
                    frame[dice.randrange(len(frame))] ^= 1 << dice.randrange(8)
                frames[at] = bytes(frame[: dice.randrange(len(frame) + 1)])
                frames = frames[: dice.randrange(1, len(frames) + 1)]
            else:
                frames = [dice.choice(verbs)]
                frames += [dice.randbytes(dice.randrange(40)) for _ in range(dice.randrange(8))]
            socket.send_multipart(frames)
            while socket.poll(0):
                socket.recv_multipart()
        assert_serves(broker)


def test_a_frame_beyond_the_limit_cuts_only_its_own_connection(broker: BrokerProcess) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(broker.address)
        socket.send_multipart([b"PUT", bytes(17 << 20)])
        assert not socket.poll(300)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(broker.address)
        socket.send_multipart(Put(STREAM, 0, 1, bytes(5 << 20)).encode())
        assert socket.poll(5000)
        assert b"at most 4194304 are taken" in socket.recv_multipart()[-1]
    assert_serves(broker)


def test_bytes_that_are_not_zmtp_leave_the_broker_serving(broker: BrokerProcess) -> None:
    dice = random.Random(8)
    for _ in range(30):
        with plain.socket(plain.AF_UNIX) as connection:
            connection.connect(broker.address.removeprefix("ipc://"))
            connection.sendall(dice.randbytes(dice.randrange(1, 5000)))
    assert_serves(broker)


def assert_serves(broker: BrokerProcess) -> None:
    with Producer(broker.address, "check/rank0/a") as producer:
        for _ in range(100):
            producer.emit("log")
        producer.flush()
    events = read_all(broker.address, ["check"])
    assert [event.seq for event in events] == list(range(100))


@pytest.mark.fault
def test_nothing_confirmed_is_lost_or_doubled_by_kills_of_the_broker(
    broker: BrokerProcess,
) -> None:
    total = 3000
    confirmed: list[int] = [0]
    read: list[int] = []
    failed: list[BaseException] = []

    def produce() -> None:
        with Producer(broker.address, STREAM) as producer:
            while producer.next_seq < total:
                for _ in range(10):
                    producer.emit("log", step=producer.next_seq)
                producer.flush(timeout=60)
                confirmed[0] = producer.acked

    def follow() -> None:
        until = time.monotonic() + 90
        with Reader(broker.address, name="follower") as reader:
            while len(read) < total and time.monotonic() < until:
                batch = reader.poll(0.5)
                if batch is not None:
                    assert not batch.gaps
                    read.extend(event.seq for event in batch.events)
                    reader.commit(batch.offset)

    def guarded(part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as error:  # noqa: BLE001 - told to the test
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(part,)) for part in (produce, follow)]
    for thread in threads:
        thread.start()
    dice = random.Random(9)
    while threads[0].is_alive():
        time.sleep(dice.uniform(0.05, 0.4))
        before = confirmed[0]
        broker.kill()
        broker.start()
        seqs = [event.seq for event in read_all(broker.address)]
        assert seqs == list(range(len(seqs)))
        assert len(seqs) >= before
    for thread in threads:
        thread.join()
    assert failed == []
    assert read == list(range(total))
    events = read_all(broker.address)
    assert [(event.seq, event.step) for event in events] == [(seq, seq) for seq in range(total)]


def test_a_batch_reaches_the_reader_as_it_was_put(serve: Serve, peer: Connect) -> None:
    serve()
    producer, reader = peer(), peer()
    blob = records(0, 3)
    producer.ask(Hi(STREAM))
    producer.ask(Put(STREAM, 0, 3, blob))
    ack = reader.ask(Sub("", START, 0, (), 10))
    assert isinstance(ack, Ack)
    assert (ack.next, ack.status, ack.head) == (0, OK, 1)
    assert reader.hear() == Evt(1, STREAM, 0, 3, blob)


def fail_with(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_journal_damaged_under_the_broker_ends_it_with_a_sentence(
    serve: Serve, peer: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    producer = peer()
    producer.ask(Hi(STREAM))
    monkeypatch.setattr(served.broker._journal, "append", fail_with(JournalDamaged("damaged")))
    producer.tell(Put(STREAM, 0, 1, record(0)))
    wait_for(lambda: served.error)
    assert isinstance(served.error, JournalDamaged)
    served.error = None


def test_damage_among_what_is_old_stops_expiry_and_nothing_else(
    serve: Serve,
    peer: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(broker_module, "_SWEEP_SECONDS", 0.05)
    served = serve()
    producer = peer()
    producer.ask(Hi(STREAM))
    with monkeypatch.context() as patch:
        patch.setattr(served.broker._housekeeping, "turn", fail_with(JournalDamaged("old")))
        wait_for(lambda: "nothing expires any more: old" in caplog.text)
    assert producer.ask(Put(STREAM, 0, 1, record(0))) == Ack(str(STREAM), 1, OK, 1)


def test_damage_found_while_expiring_stops_expiry_and_nothing_else(
    serve: Serve,
    peer: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(broker_module, "_SWEEP_SECONDS", 0.05)
    served = serve()
    producer = peer()
    producer.ask(Hi(STREAM))
    broker = served.broker
    append = broker._journal.append

    def fail(writes: Sequence[Write], cursors: Mapping[str, int], before: int = 0) -> int:
        if before:
            raise JournalDamaged("old")
        return append(writes, cursors, before)

    monkeypatch.setattr(broker._journal, "append", fail)
    producer.ask(Put(STREAM, 0, 1, record(0)))
    monkeypatch.setattr(broker._housekeeping._retention, "_keep_seconds", -1.0)
    producer.ask(Put(STREAM, 1, 1, record(1)))
    wait_for(lambda: "nothing expires any more: old" in caplog.text)
    producer.tell(Put(STREAM, 2, 1, record(2)))
    answer = producer.hear()
    while answer != Ack(str(STREAM), 3, OK, 3):
        assert isinstance(answer, Ack)
        assert answer.status == FULL
        answer = producer.ask(Put(STREAM, 2, 1, record(2)))


def test_housekeeping_that_fails_is_tried_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(broker_module, "_SWEEP_SECONDS", 0.05)
    served = serve()
    housekeeping = served.broker._housekeeping
    with monkeypatch.context() as patch:
        patch.setattr(housekeeping, "turn", fail_with(JournalFull("full")))
        wait_for(lambda: "housekeeping has to wait: full" in caplog.text)
    served.stop()
    assert served.error is None


def test_old_entries_expire_while_it_serves_and_a_late_reader_is_told(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_SWEEP_SECONDS", 0.05)
    served = serve(keep_bytes=1 << 20)
    with Producer(settings.broker, STREAM) as producer:
        for _ in range(300):
            producer.emit("log", data={"x": "y" * 20_000})
            producer.flush()
    wait_for(lambda: served.broker._journal.first > 240)
    with Reader(settings.broker, start=START) as reader:
        batch = reader.poll(5)
        assert batch is not None
        [gap] = batch.gaps
        assert (gap.stream, gap.first) == (None, 1)
        batch = reader.poll(5)
        assert batch is not None
        assert batch.offset == gap.end
    expired = read_all(settings.broker, ["_bus"])
    assert expired[-1].kind == "expired"
    assert expired[-1].data is not None
    assert expired[-1].data["end"] == gap.end


def test_a_reader_waits_for_a_journal_that_cannot_be_read_just_now(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    with Producer(settings.broker, STREAM) as producer:
        for _ in range(10):
            producer.emit("log")
        producer.flush()
    served.stop()
    served = serve()
    with monkeypatch.context() as patch, Reader(settings.broker, start=START) as reader:
        patch.setattr(served.broker._journal, "read", fail_with(JournalError("I/O")))
        assert reader.poll(0.3) is None
        patch.undo()
        batch = reader.poll(5)
        assert batch is not None
        assert len(batch.events) == 10


def test_readers_at_the_head_are_served_from_a_bounded_piece_of_memory(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_TAIL_BYTES", 100_000)
    served = serve()
    with Producer(settings.broker, STREAM) as producer:
        for _ in range(64 * 40):
            producer.emit("log", data={"x": "y" * 100})
        producer.flush()
        producer.lose(1)
        producer.flush()
    readers = served.broker._readers
    assert 0 < len(readers._tail) < 20
    assert readers._tail_bytes <= 100_000
    assert len(read_all(settings.broker)) == 64 * 40


def test_a_reader_whose_queue_is_full_is_served_when_it_reads_again(
    serve: Serve, peer: Connect, settings: Settings
) -> None:
    serve()
    reader = peer()
    reader.ask(Sub("", START, 0, (), subscriptions.MAX_CREDIT))
    with Producer(settings.broker, STREAM) as producer:
        # More messages than both queues and the kernel's buffers hold.
        for _ in range(1000):
            producer.emit("log", data={"x": "y" * 5000})
            if producer.next_seq % 10 == 0:
                producer.turn(0)
        producer.flush()
        for _ in range(1000):
            producer.emit("log", data={"x": "y" * 5000})
            producer.turn(0)
        producer.flush(30)
    seqs: list[int] = []
    while len(seqs) < 2000:
        message = reader.hear(5)
        if isinstance(message, Evt):
            seqs += range(message.first_seq, message.first_seq + message.count)
            reader.tell(Cur(message.offset, 1))
    assert seqs == list(range(2000))


def test_a_reader_that_is_gone_is_forgotten(serve: Serve, settings: Settings) -> None:
    served = serve()
    gone = Peer(settings.broker)
    gone.ask(Sub("gone", START, 0, (), 10))
    gone.close()
    with Producer(settings.broker, STREAM) as producer:
        deadline = time.monotonic() + 5
        while "gone" in served.broker._readers.names:
            assert time.monotonic() < deadline
            producer.emit("log")
            producer.flush()
