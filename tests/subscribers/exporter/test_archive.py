"""What the page shows of checkpoints on their way into the archive."""

from __future__ import annotations

import json

import pytest

from lineside.bus.protocol.events import Event, Stream
from lineside.bus.testing import BrokerProcess, Producer
from lineside.subscribers.exporter.exporter import ARCHIVE_SECONDS, LINGER_SECONDS
from lineside.subscribers.exporter.record import RunRecord
from tests.subscribers.exporter.conftest import StartExporter
from tests.subscribers.exporter.exporting import Clock, Samples, select, value
from tests.subscribers.exporter.test_tracker import NOW, STREAM, Feed

ARCHIVER = Stream("run", "archiver", "r1")


def path(step: int) -> str:
    return f"/out/checkpoint-{step}"


class ArchiveFeed(Feed):
    """Also publishes what training and archiver report of checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self._seqs = {STREAM: 1, ARCHIVER: 0}
        self.event(0, "run_start")

    def held(self, step: int, *evicted: int, at: float = 0.0) -> None:
        gone = [{"checkpoint": path(one), "step": one, "why": "5 are held"} for one in evicted]
        data = {"checkpoint": path(step), "bytes": 100, "evicted": gone}
        self._publish(STREAM, "checkpoint_held", step, at, data)

    def state(self, step: int, state: str, at: float = 0.0, **more: object) -> None:
        kind = "checkpoint_progress" if state == "copying" else "checkpoint_state"
        data = {"checkpoint": path(step), "attempt": "a1", "step": step, "state": state}
        self._publish(ARCHIVER, kind, 0, at, data | {"bytes": 100} | more)

    def states(self) -> dict[str, float]:
        """How many checkpoints have each state that one has."""
        found = select(self.samples(), "lineside_checkpoints").items()
        return {dict(labels)["state"]: count for labels, count in found if count}

    def _publish(
        self, stream: Stream, kind: str, step: int, at: float, data: dict[str, object]
    ) -> None:
        self.read(stream, Event(self._seqs[stream], NOW + at, 0, kind, step, data=data))
        self._seqs[stream] += 1


@pytest.fixture
def feed() -> ArchiveFeed:
    return ArchiveFeed()


def test_a_run_without_an_archive_has_no_series_of_one(feed: ArchiveFeed) -> None:
    feed.event(1, "save", step=5, checkpoint=path(5))
    samples = feed.samples()
    assert feed.states() == {"local": 1}
    assert not select(samples, "lineside_checkpoint_bytes")
    assert not select(samples, "lineside_archive_sent_bytes_total")
    assert not select(samples, "lineside_archive_seconds_count")


def test_each_checkpoint_has_one_state_of_the_archive_beside_its_place(feed: ArchiveFeed) -> None:
    for step in (1, 2, 3):
        feed.held(step)
    feed.state(2, "copying", sent=40)
    feed.state(3, "archived", sent=60)
    assert feed.states() == {"held": 1, "copying": 1, "archived": 1}
    samples = feed.samples()
    assert value(samples, "lineside_checkpoint_bytes", state="archived") == 100
    assert value(samples, "lineside_checkpoint_bytes", state="failed") == 0
    assert value(samples, "lineside_checkpoint_last_archived_step") == 3


def test_what_made_room_for_another_is_evicted_unless_the_archive_has_it(feed: ArchiveFeed) -> None:
    feed.held(1)
    feed.held(2)
    feed.state(2, "archived")
    feed.held(3, 1, 2)
    assert feed.states() == {"evicted": 1, "archived": 1, "held": 1}


def test_bytes_are_counted_once_however_often_a_copy_begins_again(feed: ArchiveFeed) -> None:
    feed.held(1)
    for sent in (0, 30, 70):
        feed.state(1, "copying", sent=sent)
    feed.state(1, "failed", why="no network", sent=70)
    for sent in (0, 20, 30):
        feed.state(1, "copying", sent=sent)
    feed.state(1, "archived", sent=30)
    feed.state(1, "verified", sent=30)
    assert value(feed.samples(), "lineside_archive_sent_bytes_total") == 100


def test_the_time_until_a_checkpoint_is_archived_begins_with_its_save(feed: ArchiveFeed) -> None:
    feed.held(1, at=0)
    feed.held(2, at=50)
    feed.state(2, "archived", at=52)
    feed.state(1, "archived", at=86_400)
    feed.state(1, "verified", at=90_000)
    samples = feed.samples()
    assert value(samples, "lineside_archive_seconds_sum") == 86_402
    assert value(samples, "lineside_archive_seconds_bucket", le="3.0") == 1
    assert value(samples, "lineside_archive_seconds_count") == 2
    assert value(samples, "lineside_checkpoint_last_archived_step") == 2
    last = "lineside_checkpoint_last_archived_timestamp_seconds"
    assert value(samples, last) == NOW + 86_400


def test_a_second_save_of_a_step_is_a_checkpoint_that_waits_again(feed: ArchiveFeed) -> None:
    feed.held(1)
    feed.state(1, "archived", sent=60)
    feed.held(1)
    assert feed.states() == {"held": 1}
    assert not select(feed.samples(), "lineside_checkpoint_last_archived_step")
    feed.state(1, "archived", sent=60)
    assert value(feed.samples(), "lineside_archive_sent_bytes_total") == 120


def test_data_that_no_archiver_writes_changes_nothing(feed: ArchiveFeed) -> None:
    feed.held(1)
    feed.state(1, "a state of a later version")
    feed.state(1, "copying", sent="much")
    feed.event(9, "checkpoint_held", evicted=[{"step": []}, 3], checkpoint=None)
    assert feed.states() == {"copying": 1}
    assert value(feed.samples(), "lineside_archive_sent_bytes_total") == 0


def test_the_state_of_the_archive_is_loaded_as_it_was_saved(feed: ArchiveFeed) -> None:
    feed.held(1)
    feed.held(2)
    feed.state(1, "archived", sent=60, at=30)
    saved = json.loads(json.dumps(feed.record.to_dict()))
    assert RunRecord.from_dict("run", saved).to_dict() == feed.record.to_dict()
    del saved["archive"]
    assert not RunRecord.from_dict("run", saved).archive.copies


def test_the_series_of_an_ended_run_stay_while_a_checkpoint_waits_for_the_archive(
    start_exporter: StartExporter, training: Producer, broker: BrokerProcess, clock: Clock
) -> None:
    harness = start_exporter(clock=clock)
    training.emit("checkpoint_held", step=1, data={"checkpoint": path(1), "bytes": 8})
    training.emit("train_end", step=1)
    training.emit("run_end", step=1, data={"how": "exit"})
    training.flush()
    harness.read_all()

    def samples_after(seconds: float) -> Samples:
        clock.now += seconds
        harness.run_until(lambda: harness.exporter._level_at == clock.now)
        harness.exporter.render()
        return harness.samples()

    assert value(samples_after(7 * 86_400), "lineside_checkpoints", state="held") == 1
    harness.exporter.flush()
    assert not select(samples_after(ARCHIVE_SECONDS), "lineside_checkpoints")
    with Producer(broker.address, "run/archiver/r1") as archiver:
        data = {"checkpoint": path(1), "attempt": "a1", "step": 1, "state": "archived"}
        archiver.emit("checkpoint_state", data=data)
        archiver.flush()
    harness.read_all()
    clock.now += LINGER_SECONDS
    assert not select(samples_after(0), "lineside_checkpoints"), "it is archived"
