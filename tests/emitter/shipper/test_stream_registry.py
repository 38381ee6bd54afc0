"""The registry's streams, and the events that the shipper publishes about them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.bus.protocol import wire
from lineside.bus.protocol.events import Event, Stream
from lineside.emitter.shipper import event_writer as event_writer_module
from lineside.emitter.shipper.broker_connection import BrokerConnection
from lineside.emitter.shipper.stream_registry import StreamRegistry
from lineside.emitter.spool import directory
from lineside.emitter.spool.status_page import TRAINING
from lineside.emitter.spool.stream_folder import LOCK_NAME
from lineside.emitter.spool.writer import SpoolWriter
from tests.emitter.shipping import Bench


@pytest.fixture
def stream_registry(bench: Bench) -> Iterator[StreamRegistry]:
    broker_connection = BrokerConnection(bench.address)
    stream_registry = StreamRegistry(bench.spool, broker_connection)
    yield stream_registry
    stream_registry.close()
    broker_connection.close()


def shipper_events(spool: Path, run: str = "run") -> list[Event]:
    """The shipper's events of ``run``."""
    segments = sorted(spool.glob(f"{run}/shipper/*/*.seg"))
    bodies = [body for segment in segments for body in wire.record_bodies(segment.read_bytes())]
    return [wire.decode_event(body) for body in bodies]


def names(stream_registry: StreamRegistry) -> set[str]:
    return {str(stream_sender.stream) for stream_sender in stream_registry}


def test_an_unreadable_stream_does_not_hide_others(
    bench: Bench, stream_registry: StreamRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    barred = bench.spool / "a" / "rank0" / "a1"
    barred.mkdir(parents=True)
    (barred / LOCK_NAME).symlink_to(barred / LOCK_NAME)
    bench.producer("b/rank0/a1").send("write 1")
    assert stream_registry.discover(0.0)
    stream_registry.check_producers(1.0, beat=True)
    assert names(stream_registry) >= {"a/rank0/a1", "b/rank0/a1"}
    assert caplog.text.count("cannot be checked") == 1
    assert stream_registry.has_live_producers


def test_an_unreadable_stream_does_not_keep_the_shipper_running(
    bench: Bench, stream_registry: StreamRegistry
) -> None:
    barred = bench.spool / "a" / "rank0" / "a1"
    barred.mkdir(parents=True)
    (barred / LOCK_NAME).symlink_to(barred / LOCK_NAME)
    stream_registry.discover(0.0)
    assert not stream_registry.has_live_producers
    assert stream_registry.is_complete
    (barred / LOCK_NAME).unlink()
    (barred / LOCK_NAME).touch()
    stream_registry.check_producers(1.0, beat=True)
    assert stream_registry.is_complete, "the stream is empty and its lock free"


def test_a_loss_is_published_once_however_often_it_is_checked(
    bench: Bench, stream_registry: StreamRegistry
) -> None:
    producer = bench.producer()
    producer.send("write 3")
    producer.kill()
    for now in range(4):
        stream_registry.discover(now)
        stream_registry.check_producers(now, beat=True)
    assert [event.kind for event in shipper_events(bench.spool)] == ["process_lost"]


def test_a_rank_that_released_its_lock_is_lost_with_its_process_or_ended_when_it_closed(
    bench: Bench, stream_registry: StreamRegistry
) -> None:
    killed, closed = bench.producer("run/rank0/a1"), bench.producer("run/control/a1")
    for producer in (killed, closed):
        producer.send("write 3")
    stream_registry.discover(0.0)
    for producer in (killed, closed):
        producer.send("read")
    stream_registry.check_producers(1.0, beat=True)
    assert [event.kind for event in shipper_events(bench.spool)] == ["heartbeat"]
    killed.kill()
    closed.send("close")
    stream_registry.check_producers(2.0, beat=True)
    assert [event.kind for event in shipper_events(bench.spool)] == ["heartbeat", "process_lost"]
    control = stream_registry["run/control/a1"]
    assert control is not None
    assert control.final


def test_a_rank_reported_lost_is_watched_again_once_it_holds_its_lock(
    bench: Bench, stream_registry: StreamRegistry
) -> None:
    producer = bench.producer()
    producer.send("write 3")
    producer.send("read")
    stream_registry.discover(0.0)
    assert [event.kind for event in shipper_events(bench.spool)] == ["process_lost"]
    producer.send("maintain")
    stream_registry.discover(1.0)
    stream_registry.check_producers(1.0, beat=True)
    stream_sender = stream_registry["run/rank0/a1"]
    assert stream_sender is not None
    assert not stream_sender.final
    assert stream_registry.has_live_producers
    producer.kill()
    stream_registry.check_producers(2.0, beat=True)
    kinds = [event.kind for event in shipper_events(bench.spool)]
    assert kinds == ["process_lost", "heartbeat", "process_lost"]


def test_the_loss_of_a_rank_that_an_earlier_shipper_reported_lost_is_published_again(
    bench: Bench, stream_registry: StreamRegistry
) -> None:
    producer = bench.producer()
    producer.send("write 3")
    (producer.folder / directory.LOST_NAME).touch()
    stream_registry.discover(0.0)
    producer.kill()
    stream_registry.check_producers(1.0, beat=True)
    assert [event.kind for event in shipper_events(bench.spool)] == ["process_lost"]


def test_a_loss_is_published_once_also_where_it_cannot_be_marked(
    bench: Bench, stream_registry: StreamRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = bench.producer()
    producer.send("write 3")
    producer.kill()

    def refuse(path: Path, mode: int = 0o666) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(Path, "touch", refuse)
    for now in range(3):
        stream_registry.discover(now)
        stream_registry.check_producers(now, beat=True)
    assert not (producer.folder / directory.LOST_NAME).exists()
    assert [event.kind for event in shipper_events(bench.spool)] == ["process_lost"]


def test_a_loss_found_late_has_the_time_of_the_last_sign_of_life(
    bench: Bench, stream_registry: StreamRegistry
) -> None:
    producer = bench.producer()
    producer.send("write 3")
    producer.kill()
    (segment,) = producer.folder.glob("*.seg")
    os.utime(producer.folder / "page", (1e9, 1e9))
    os.utime(segment, (2e9, 1e9 + 60))
    stream_registry.discover(0.0)
    (lost,) = shipper_events(bench.spool)
    assert (lost.data or {})["alive_at"] == 1e9 + 60


def test_a_rank_that_never_wrote_and_a_launcher_are_never_lost(
    bench: Bench, stream_registry: StreamRegistry
) -> None:
    bench.producer("run/rank0/a1").kill()
    launcher = bench.producer("run/launcher/a1")
    launcher.send("write 1")
    launcher.kill()
    stream_registry.discover(0.0)
    stream_registry.check_producers(1.0, beat=True)
    assert shipper_events(bench.spool) == []


def test_a_loss_that_a_full_disk_refused_is_published_later(
    bench: Bench, stream_registry: StreamRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = bench.producer()
    producer.send(f"flags {TRAINING}")
    producer.send("write 3")
    producer.kill()
    with monkeypatch.context() as patch:
        patch.setattr(SpoolWriter, "write", lambda *args, **kwargs: False)
        stream_registry.discover(0.0)
        stream_registry.check_producers(1.0, beat=True)
        assert shipper_events(bench.spool) == []
    stream_registry.check_producers(5.0, beat=True)
    assert shipper_events(bench.spool) == []
    stream_registry.check_producers(10.5, beat=True)
    assert [event.kind for event in shipper_events(bench.spool)] == ["process_lost"]
    assert len(list(bench.spool.glob("run/shipper/*"))) == 1


def test_a_heartbeat_whose_folder_cannot_be_made_is_only_logged(
    bench: Bench,
    stream_registry: StreamRegistry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    producer = bench.producer()
    producer.send("write 3")

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(event_writer_module, "SpoolWriter", refuse)
    stream_registry.discover(0.0)
    stream_registry.check_producers(1.0, beat=True)
    stream_registry.check_producers(2.0, beat=True)
    assert caplog.text.count("no room") == 1
    assert stream_registry.has_live_producers


def test_a_rank_without_a_page_has_no_heartbeat(
    bench: Bench, stream_registry: StreamRegistry
) -> None:
    producer = bench.producer()
    (producer.folder / "page").unlink()
    stream_registry.discover(0.0)
    stream_registry.check_producers(1.0, beat=True)
    assert shipper_events(bench.spool) == []
    producer.send("write 1")
    producer.kill()
    stream_registry.check_producers(2.0, beat=True)
    (lost,) = shipper_events(bench.spool)
    assert lost.kind == "process_lost"
    assert lost.data is not None
    assert lost.data["pid"] == producer.process.pid
    assert lost.data["step"] is None


def test_the_shippers_own_stream_of_a_run_ends_with_its_last_rank(
    bench: Bench, stream_registry: StreamRegistry
) -> None:
    first, second = bench.producer("run/rank0/a1"), bench.producer("run/rank1/a1")
    for producer in (first, second):
        producer.send("write 1")
    stream_registry.discover(0.0)
    stream_registry.check_producers(1.0, beat=True)
    assert [e.kind for e in shipper_events(bench.spool)] == ["heartbeat", "heartbeat"]
    first.kill()
    stream_registry.check_producers(2.0, beat=False)
    stream_registry.check_producers(3.0, beat=True)
    assert [e.kind for e in shipper_events(bench.spool)][2:] == ["process_lost", "heartbeat"]
    second.kill()
    stream_registry.check_producers(4.0, beat=True)
    (own,) = (t for t in stream_registry if t.stream.producer == "shipper")
    stream_registry.check_producers(5.0, beat=True)
    assert own.final
    assert not stream_registry.has_live_producers


def test_streams_are_found_by_name(bench: Bench, stream_registry: StreamRegistry) -> None:
    bench.producer("run/rank0/a1")
    stream_registry.discover(0.0)
    found = stream_registry["run/rank0/a1"]
    assert found is not None
    assert found.stream == Stream("run", "rank0", "a1")
    assert stream_registry["run/rank0/a2"] is None
    assert stream_registry["nonsense"] is None
