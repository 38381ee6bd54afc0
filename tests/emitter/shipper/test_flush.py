"""``ship`` sends the events that training left behind, and counts them."""

from __future__ import annotations

import threading
import time

import pytest

from lineside.bus.errors import AddressError, BrokerUnreachable, UsageError
from lineside.bus.testing import read_all
from lineside.emitter.shipper import flush
from lineside.emitter.shipper.flush import ShipResult, ship
from lineside.emitter.spool.segment_reader import segments
from lineside.emitter.spool.sidecar_process import shipper_pid
from lineside.emitter.spool.status_page import CLOSED, NEXT_SEQ
from tests.emitter.shipping import Bench, Producer
from tests.support.waiting import wait_until


def leave(bench: Bench, name: str, count: int, flags: int = CLOSED) -> Producer:
    """A producer that wrote ``count`` events and ended."""
    producer = bench.producer(name)
    producer.send(f"write {count}")
    producer.send(f"flags {flags}")
    producer.end()
    return producer


def test_the_whole_backlog_is_shipped_and_counted(bench: Bench) -> None:
    leave(bench, "one/rank0/a1", 100)
    leave(bench, "two/rank0/a1", 50)
    bench.broker()
    seen: list[ShipResult] = []
    shipped = ship(bench.spool, bench.address, 30, seen.append)
    assert shipped == ShipResult(streams=2, events=150, gaps=0, left=0, holder=None)
    assert seen[-1] == shipped
    assert [e.seq for e in bench.events("one", 100)] == list(range(100))
    assert ship(bench.spool, bench.address, 30) == ShipResult()
    assert shipper_pid(bench.spool) is None


def test_missing_events_are_counted_as_gaps(bench: Bench) -> None:
    producer = leave(bench, "one/rank0/a1", 100)
    (segment,) = segments(producer.folder)
    data = bytearray(segment.path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.path.write_bytes(data)
    with (producer.folder / "page").open("r+b") as page:
        page.seek(NEXT_SEQ * 8)
        page.write((105).to_bytes(8, "little"))
    bench.broker()
    shipped = ship(bench.spool, bench.address, 30)
    assert shipped == ShipResult(streams=1, events=99, gaps=6, left=0)


def test_the_loss_of_a_training_killed_with_its_shipper_is_published_by_ship(
    bench: Bench,
) -> None:
    leave(bench, "one/rank0/a1", 10, flags=0)
    bench.broker()
    assert ship(bench.spool, bench.address, 30).left == 0
    (lost,) = read_all(bench.address, ["one/shipper"])
    assert lost.kind == "process_lost"
    ship(bench.spool, bench.address, 30)
    assert len(read_all(bench.address, ["one/shipper"])) == 1


def test_without_a_broker_ship_raises_and_removes_nothing(bench: Bench) -> None:
    producer = leave(bench, "one/rank0/a1", 10)
    started = time.monotonic()
    with pytest.raises(BrokerUnreachable, match="no broker answered"):
        ship(bench.spool, bench.address, 1.0)
    assert time.monotonic() - started < 5
    assert segments(producer.folder)


def test_an_invalid_address_is_an_error(bench: Bench) -> None:
    bench.spool.mkdir()
    with pytest.raises(AddressError):
        ship(bench.spool, "tcp://somewhere:1", 1.0)


def test_a_missing_spool_has_nothing_to_ship(bench: Bench) -> None:
    assert ship(bench.spool, bench.address, 1.0) == ShipResult()


def test_an_empty_backlog_needs_no_broker(bench: Bench) -> None:
    broker = bench.broker()
    leave(bench, "one/rank0/a1", 10)
    ship(bench.spool, bench.address, 30)
    broker.stop()
    assert ship(bench.spool, bench.address, 1.0) == ShipResult()


def test_a_spool_that_is_removed_meanwhile_ends_the_wait(bench: Bench) -> None:
    leave(bench, "one/rank0/a1", 10)
    remove = threading.Timer(1.0, lambda: bench.spool.rename(bench.folder / "elsewhere"))
    remove.start()
    started = time.monotonic()
    with pytest.raises(BrokerUnreachable):
        ship(bench.spool, bench.address)
    assert time.monotonic() - started < 15
    remove.join()


def test_a_live_producer_is_shipped_up_to_its_last_event(bench: Bench) -> None:
    bench.broker()
    producer = bench.producer("one/rank0/a1")
    producer.send("write 30")
    shipped = ship(bench.spool, bench.address, 30)
    assert shipped == ShipResult(streams=1, events=30, gaps=0, left=0)
    assert producer.acked == 30


def test_another_shipper_is_waited_for_and_its_pid_returned(bench: Bench) -> None:
    leave(bench, "one/rank0/a1", 100)
    (bench.producer("one/rank1/a1")).send("write 5")
    holder = bench.shipper()
    wait_until(lambda: shipper_pid(bench.spool))
    seen: list[ShipResult] = []
    start_later = threading.Timer(1.0, bench.broker)
    start_later.start()
    shipped = ship(bench.spool, bench.address, 30, seen.append)
    start_later.join()
    assert seen[0].left >= 105  # and the other shipper's own events
    assert shipped.holder == holder.pid
    assert shipped.left == 0
    assert shipped.events >= 105


def test_the_wait_for_another_shipper_ends_with_the_timeout(bench: Bench) -> None:
    leave(bench, "one/rank0/a1", 100)
    holder = bench.shipper()
    wait_until(lambda: shipper_pid(bench.spool))
    shipped = ship(bench.spool, bench.address, 1.0)
    assert shipped.left == 100
    assert shipped.holder == holder.pid


def test_the_backlog_of_another_shipper_that_dies_is_shipped(bench: Bench) -> None:
    leave(bench, "one/rank0/a1", 100)
    holder = bench.shipper()
    wait_until(lambda: shipper_pid(bench.spool))
    bench_broker = threading.Timer(2.0, bench.broker)
    threading.Timer(1.0, holder.kill).start()
    bench_broker.start()
    shipped = ship(bench.spool, bench.address, 30)
    bench_broker.join()
    assert shipped.left == 0
    assert shipped.holder is None
    assert [e.seq for e in bench.events("one/rank0", 100)] == list(range(100))


def test_a_shipper_whose_own_broker_is_dead_is_ended_for_another_broker(bench: Bench) -> None:
    leave(bench, "one/rank0/a1", 100)
    holder = bench.shipper(f"ipc://{bench.folder}/dead/bus.sock")
    wait_until(lambda: shipper_pid(bench.spool) == holder.pid)
    bench.broker()
    shipped = ship(bench.spool, bench.address, 30)
    assert (shipped.left, shipped.holder) == (0, None)
    assert [event.seq for event in bench.events("one/rank0", 100)] == list(range(100))
    wait_until(lambda: not holder.is_alive())


def test_a_shipper_whose_own_broker_confirms_is_not_ended_for_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flush, "_REPORT_PROBLEM_SECONDS", 0.5)
    bench.broker()
    producer = bench.producer("one/rank0/a1")
    holder = bench.shipper()
    producer.send("write 100")
    wait_until(lambda: producer.acked == 100)
    producer.start("write 2000000")  # so that some are left at any time
    wait_until(lambda: producer.acked > 100)
    elsewhere = f"ipc://{bench.folder}/other/bus.sock"
    with pytest.raises(UsageError, match=f"process {holder.pid} ships .*, which takes them"):
        ship(bench.spool, elsewhere, 30)
    assert holder.is_alive()
