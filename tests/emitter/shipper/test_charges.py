"""Which streams a shipper looks after, and what it says of them, without a broker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.bus.protocol import wire
from lineside.bus.protocol.events import Event, Stream
from lineside.emitter.shipper import reports as reporting
from lineside.emitter.shipper.charges import Charges
from lineside.emitter.shipper.link import Link
from lineside.emitter.spool import yard
from lineside.emitter.spool.folder import LOCK_NAME
from lineside.emitter.spool.page import TRAINING
from lineside.emitter.spool.spool import SpoolWriter
from tests.emitter.shipper.conftest import Bench


@pytest.fixture
def charges(bench: Bench) -> Iterator[Charges]:
    link = Link(bench.address)
    charges = Charges(bench.spool, link)
    yield charges
    charges.close()
    link.close()


def told(spool: Path, run: str = "run") -> list[Event]:
    """What the shipper wrote of ``run``."""
    segments = sorted(spool.glob(f"{run}/shipper/*/*.seg"))
    bodies = [body for segment in segments for body in wire.bodies(segment.read_bytes())]
    return [wire.decode_event(body) for body in bodies]


def names(charges: Charges) -> set[str]:
    return {str(transfer.stream) for transfer in charges}


def test_a_stream_that_may_not_be_read_keeps_no_other_from_being_found(
    bench: Bench, charges: Charges, caplog: pytest.LogCaptureFixture
) -> None:
    barred = bench.spool / "a" / "rank0" / "a1"
    barred.mkdir(parents=True)
    (barred / LOCK_NAME).symlink_to(barred / LOCK_NAME)
    bench.producer("b/rank0/a1").tell("write 1")
    assert charges.discover(0.0)
    charges.look(1.0, beat=True)
    assert names(charges) >= {"a/rank0/a1", "b/rank0/a1"}
    assert caplog.text.count("cannot be looked after") == 1
    assert charges.live


def test_a_stream_that_may_not_be_read_keeps_the_shipper_from_nothing(
    bench: Bench, charges: Charges
) -> None:
    barred = bench.spool / "a" / "rank0" / "a1"
    barred.mkdir(parents=True)
    (barred / LOCK_NAME).symlink_to(barred / LOCK_NAME)
    charges.discover(0.0)
    assert not charges.live
    assert charges.settled
    (barred / LOCK_NAME).unlink()
    (barred / LOCK_NAME).touch()
    charges.look(1.0, beat=True)
    assert charges.settled, "empty, and nobody holds it"


def test_a_loss_is_told_once_however_often_it_is_looked_at(bench: Bench, charges: Charges) -> None:
    producer = bench.producer()
    producer.tell("write 3")
    producer.kill()
    for now in range(4):
        charges.discover(now)
        charges.look(now, beat=True)
    assert [event.kind for event in told(bench.spool)] == ["process_lost"]


def test_a_rank_that_let_go_of_its_lock_is_lost_with_its_process_or_ended_when_it_closed(
    bench: Bench, charges: Charges
) -> None:
    killed, closed = bench.producer("run/rank0/a1"), bench.producer("run/control/a1")
    for producer in (killed, closed):
        producer.tell("write 3")
    charges.discover(0.0)
    for producer in (killed, closed):
        producer.tell("read")
    charges.look(1.0, beat=True)
    assert [event.kind for event in told(bench.spool)] == ["heartbeat"]
    killed.kill()
    closed.tell("close")
    charges.look(2.0, beat=True)
    assert [event.kind for event in told(bench.spool)] == ["heartbeat", "process_lost"]
    control = charges["run/control/a1"]
    assert control is not None
    assert control.final


def test_a_rank_that_was_taken_for_gone_while_it_had_lost_its_lock_is_watched_again(
    bench: Bench, charges: Charges
) -> None:
    producer = bench.producer()
    producer.tell("write 3")
    producer.tell("read")
    charges.discover(0.0)
    assert [event.kind for event in told(bench.spool)] == ["process_lost"]
    producer.tell("tend")
    charges.look(1.0, beat=True)
    transfer = charges["run/rank0/a1"]
    assert transfer is not None
    assert not transfer.final
    assert charges.live
    producer.kill()
    charges.look(2.0, beat=True)
    kinds = [event.kind for event in told(bench.spool)]
    assert kinds == ["process_lost", "heartbeat", "process_lost"]


def test_a_rank_that_an_earlier_shipper_took_for_gone_is_told_of_again_when_it_is(
    bench: Bench, charges: Charges
) -> None:
    producer = bench.producer()
    producer.tell("write 3")
    yard.mark_lost(producer.folder)
    charges.discover(0.0)
    producer.kill()
    charges.look(1.0, beat=True)
    assert [event.kind for event in told(bench.spool)] == ["process_lost"]


def test_a_loss_found_late_is_told_with_the_last_sign_of_life(
    bench: Bench, charges: Charges
) -> None:
    producer = bench.producer()
    producer.tell("write 3")
    producer.kill()
    (segment,) = producer.folder.glob("*.seg")
    os.utime(producer.folder / "page", (1e9, 1e9))
    os.utime(segment, (2e9, 1e9 + 60))
    charges.discover(0.0)
    (lost,) = told(bench.spool)
    assert (lost.data or {})["alive_at"] == 1e9 + 60


def test_a_rank_that_never_wrote_and_others_than_ranks_are_not_called_lost(
    bench: Bench, charges: Charges
) -> None:
    bench.producer("run/rank0/a1").kill()
    launcher = bench.producer("run/launcher/a1")
    launcher.tell("write 1")
    launcher.kill()
    charges.discover(0.0)
    charges.look(1.0, beat=True)
    assert told(bench.spool) == []


def test_a_loss_that_a_full_disk_refused_is_told_later(
    bench: Bench, charges: Charges, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = bench.producer()
    producer.tell(f"flags {TRAINING}")
    producer.tell("write 3")
    producer.kill()
    with monkeypatch.context() as patch:
        patch.setattr(SpoolWriter, "write", lambda *args, **kwargs: False)
        charges.discover(0.0)
        charges.look(1.0, beat=True)
        assert told(bench.spool) == []
    charges.look(5.0, beat=True)
    assert told(bench.spool) == []
    charges.look(10.5, beat=True)
    assert [event.kind for event in told(bench.spool)] == ["process_lost"]
    assert len(list(bench.spool.glob("run/shipper/*"))) == 1


def test_a_report_whose_folder_cannot_be_made_is_only_logged(
    bench: Bench,
    charges: Charges,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    producer = bench.producer()
    producer.tell("write 3")

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(reporting, "SpoolWriter", refuse)
    charges.discover(0.0)
    charges.look(1.0, beat=True)
    charges.look(2.0, beat=True)
    assert caplog.text.count("no room") == 1
    assert charges.live


def test_a_rank_without_a_page_has_no_heartbeat(bench: Bench, charges: Charges) -> None:
    producer = bench.producer()
    (producer.folder / "page").unlink()
    charges.discover(0.0)
    charges.look(1.0, beat=True)
    assert told(bench.spool) == []
    producer.tell("write 1")
    producer.kill()
    charges.look(2.0, beat=True)
    (lost,) = told(bench.spool)
    assert lost.kind == "process_lost"
    assert lost.data is not None
    assert lost.data["pid"] == producer.process.pid
    assert lost.data["step"] is None


def test_what_the_shipper_says_of_a_run_ends_with_its_last_rank(
    bench: Bench, charges: Charges
) -> None:
    first, second = bench.producer("run/rank0/a1"), bench.producer("run/rank1/a1")
    for producer in (first, second):
        producer.tell("write 1")
    charges.discover(0.0)
    charges.look(1.0, beat=True)
    assert [e.kind for e in told(bench.spool)] == ["heartbeat", "heartbeat"]
    first.kill()
    charges.look(2.0, beat=False)
    charges.look(3.0, beat=True)
    assert [e.kind for e in told(bench.spool)][2:] == ["process_lost", "heartbeat"]
    second.kill()
    charges.look(4.0, beat=True)
    (own,) = (t for t in charges if t.stream.producer == "shipper")
    charges.look(5.0, beat=True)
    assert own.final
    assert not charges.live


def test_streams_are_known_by_name(bench: Bench, charges: Charges) -> None:
    bench.producer("run/rank0/a1")
    charges.discover(0.0)
    found = charges["run/rank0/a1"]
    assert found is not None
    assert found.stream == Stream("run", "rank0", "a1")
    assert charges["run/rank0/a2"] is None
    assert charges["nonsense"] is None
