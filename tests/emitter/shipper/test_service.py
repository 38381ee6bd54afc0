"""A real shipper between real producers and a real broker."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from lineside.bus.testing import FaultyProxy, read_all
from lineside.emitter.spool import directory
from lineside.emitter.spool.segment_reader import segments
from lineside.emitter.spool.sidecar_process import shipper_pid
from lineside.emitter.spool.status_page import CLOSED, TRAIN_ENDED, TRAINING
from tests.emitter.shipping import SHIPPER, STREAM, Bench, seqs
from tests.faults.session import repeats
from tests.support.waiting import wait_until


def test_events_arrive_and_are_confirmed_to_the_producer(bench: Bench) -> None:
    bench.broker()
    producer = bench.producer()
    bench.shipper()
    assert producer.send("write 1000") == 1000
    wait_until(lambda: producer.acked == 1000)
    assert seqs(bench, STREAM, 1000) == list(range(1000))


def test_a_new_event_of_a_quiet_stream_is_sent_within_half_a_second(bench: Bench) -> None:
    bench.broker()
    producer = bench.producer()
    bench.shipper()
    producer.send("write 1")
    wait_until(lambda: producer.acked == 1)
    time.sleep(1.5)  # so that the shipper has become slow
    producer.send("write 1")
    wait_until(lambda: producer.acked == 2, seconds=0.5)


def test_only_one_shipper_serves_a_spool_and_a_second_one_ends_at_once(bench: Bench) -> None:
    bench.broker()
    bench.producer()
    first = bench.shipper()
    wait_until(lambda: shipper_pid(bench.spool))
    second = bench.shipper()
    assert second.wait() == 0
    assert "another one ships" in second.log_text()
    assert shipper_pid(bench.spool) == first.pid


def test_leftover_streams_are_shipped_and_process_lost_is_published(
    bench: Bench,
) -> None:
    producer = bench.producer()
    producer.send(f"flags {TRAINING}")
    producer.send("write 50")
    producer.kill()
    bench.broker()
    shipper = bench.shipper()
    assert seqs(bench, STREAM, 50) == list(range(50))
    (lost,) = bench.events(SHIPPER, 1)
    assert lost.kind == "process_lost"
    assert lost.step == 7
    assert lost.data is not None
    assert lost.data["producer"] == "rank0"
    assert lost.data["attempt"] == "a1"
    assert lost.data["pid"] == producer.process.pid
    assert lost.data["emitted"] == 50
    shipper.kill()
    bench.shipper()
    wait_until(lambda: shipper_pid(bench.spool))
    time.sleep(2.5)
    assert len(bench.events(SHIPPER, 1)) == 1, "published once, by one of the shippers"


@pytest.mark.parametrize("flags", [TRAIN_ENDED, CLOSED])
def test_a_producer_that_ended_by_itself_is_not_lost(bench: Bench, flags: int) -> None:
    bench.broker()
    producer = bench.producer()
    bench.shipper()
    producer.send("write 5")
    producer.send(f"flags {flags}")
    wait_until(lambda: producer.acked == 5)
    producer.end()
    wait_until(lambda: directory.read_acked_file(producer.folder) == 5)
    assert all(e.kind == "heartbeat" for e in read_all(bench.address, [SHIPPER]))


def test_a_killed_producer_is_reported_within_a_second_and_loses_nothing(bench: Bench) -> None:
    bench.broker()
    producer = bench.producer()
    bench.shipper()
    producer.send("write 10")
    wait_until(lambda: producer.acked == 10)
    producer.start("flow 100000 0.001")
    time.sleep(0.7)
    os.kill(producer.process.pid, signal.SIGKILL)
    killed = time.time()
    events = read_all(
        bench.address,
        [SHIPPER],
        until=lambda events: any(e.kind == "process_lost" for e in events),
    )
    lost = next(event for event in events if event.kind == "process_lost")
    assert lost.time - killed < 1.0
    assert lost.data is not None
    emitted = lost.data["emitted"]
    assert emitted > 100
    assert seqs(bench, STREAM, emitted) == list(range(emitted))


def test_each_live_rank_has_a_heartbeat_a_second_and_others_have_none(bench: Bench) -> None:
    bench.broker()
    for name in (STREAM, "run/rank1/a1", "run/launcher/b", "other/rank0/a1"):
        bench.producer(name).send("write 1")
    bench.shipper()
    beats = bench.events(SHIPPER, 6)
    assert {e.kind for e in beats} == {"heartbeat"}
    assert {e.data["producer"] for e in beats if e.data} == {"rank0", "rank1"}
    times = [e.time for e in beats if e.data and e.data["producer"] == "rank0"]
    assert all(0.8 < later - earlier < 1.6 for earlier, later in pairwise(times))
    assert bench.events("other/shipper", 1)[0].kind == "heartbeat"


def test_heartbeats_do_not_pile_up_without_a_broker(bench: Bench) -> None:
    producer = bench.producer()
    bench.shipper()
    producer.send("write 1")
    wait_until(lambda: (bench.spool / "run" / "shipper").is_dir())
    time.sleep(8)
    (own,) = (bench.spool / "run" / "shipper").iterdir()
    sizes = [s.path.stat().st_size for s in segments(own)]
    bench.broker()
    beats = bench.events(SHIPPER, 7)
    assert len(sizes) == 1
    assert sizes[0] < 3000
    assert [e.seq for e in beats] == list(range(len(beats)))
    waits = [b.time - a.time for a, b in pairwise(beats)]
    assert max(waits) > 2, "the time without a broker has no heartbeats"


@pytest.mark.fault
def test_a_killed_shipper_loses_and_repeats_nothing(bench: Bench) -> None:
    bench.broker()
    producer = bench.producer(segment=20_000)
    producer.start("flow 4000 0.001")
    for _ in repeats(12):
        shipper = bench.shipper()
        time.sleep(0.45)
        shipper.kill()
    bench.shipper()
    assert producer.wait() == 4000
    wait_until(lambda: producer.acked == 4000)
    assert seqs(bench, STREAM, 4000) == list(range(4000))


@pytest.mark.fault
def test_a_broker_that_is_down_for_a_while_gets_everything_afterwards(bench: Bench) -> None:
    broker = bench.broker()
    producer = bench.producer()
    bench.shipper()
    producer.start("flow 2000 0.002")
    for _ in repeats(3):
        time.sleep(0.5)
        broker.kill()
        time.sleep(0.3)
        broker.start()
    assert producer.wait() == 2000
    wait_until(lambda: producer.acked == 2000)
    assert seqs(bench, STREAM, 2000) == list(range(2000))


@pytest.mark.fault
def test_a_broker_that_freezes_gets_everything_once(bench: Bench) -> None:
    broker = bench.broker()
    producer = bench.producer()
    bench.shipper()
    producer.send("write 10")
    wait_until(lambda: producer.acked == 10)
    broker.freeze()
    producer.start("flow 1000 0.005")
    assert producer.wait() == 1010
    assert producer.acked == 10
    broker.resume()
    wait_until(lambda: producer.acked == 1010)
    assert seqs(bench, STREAM, 1010) == list(range(1010))


@pytest.mark.fault
@pytest.mark.parametrize("fault", ["cut", "swallow"])
def test_a_connection_that_is_cut_again_and_again_loses_nothing(bench: Bench, fault: str) -> None:
    broker = bench.broker()
    producer = bench.producer()
    with FaultyProxy(bench.folder / "link", broker.address) as link:
        bench.shipper(link.address)
        producer.start("flow 3000 0.002")
        for _ in repeats(3):
            time.sleep(1)
            getattr(link, fault)()
            time.sleep(1)
            link.restore()
        assert producer.wait() == 3000
        wait_until(lambda: producer.acked == 3000, seconds=40)
    assert seqs(bench, STREAM, 3000) == list(range(3000))


def test_a_broker_that_lost_its_journal_gets_the_kept_events_again(bench: Bench) -> None:
    broker = bench.broker()
    producer = bench.producer()
    bench.shipper()
    producer.send("write 300")
    wait_until(lambda: producer.acked == 300)
    broker.stop()
    for path in broker.home.glob("journal.db*"):
        path.unlink()
    broker.start()
    producer.send("write 10")
    wait_until(lambda: producer.acked == 310)
    assert seqs(bench, STREAM, 310) == list(range(310))


def test_damage_in_a_segment_costs_the_record_it_hit_and_is_logged(bench: Bench) -> None:
    producer = bench.producer()
    producer.send("write 100")
    producer.kill()
    (segment,) = segments(producer.folder)
    data = bytearray(segment.path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.path.write_bytes(data)
    bench.broker()
    shipper = bench.shipper()
    wait_until(lambda: producer.acked == 100)
    kept = seqs(bench, STREAM, 99)
    assert len(kept) == 99
    assert set(kept) < set(range(100))
    assert "damaged bytes" in shipper.log_text()


def test_twenty_streams_are_shipped_side_by_side(bench: Bench) -> None:
    bench.broker()
    backlog = bench.producer("big/rank0/a1", segment=1 << 20)
    backlog.send("write 100000")
    producers = [bench.producer(f"run{n}/rank0/a1") for n in range(20)]
    for producer in producers:
        producer.send("write 5")
    bench.shipper()
    wait_until(lambda: all(producer.acked == 5 for producer in producers))
    for producer in producers:
        producer.start("flow 200 0.005")
    for producer in producers:
        assert producer.wait() == 205
    wait_until(lambda: all(producer.acked == 205 for producer in producers))
    wait_until(lambda: backlog.acked == 100_000, seconds=60)
    for n in (0, 7, 19):
        assert seqs(bench, f"run{n}/rank0", 205) == list(range(205))
    assert len(bench.events("big/rank0", 100_000)) == 100_000


def test_garbage_in_the_spool_stops_nothing(bench: Bench) -> None:
    bench.broker()
    odd = bench.spool / "run" / "rank0"
    (odd / "empty").mkdir(parents=True)
    (odd / "-bad-").mkdir()
    (odd / "files").mkdir()
    (odd / "files" / f"{0:016}.seg").write_bytes(os.urandom(5000))
    (odd / "files" / "page").write_bytes(os.urandom(4096))
    (odd / "files" / "stream.json").write_bytes(os.urandom(50))
    (odd / "files" / "lock").mkdir()
    (odd / "folder" / f"{0:016}.seg").mkdir(parents=True)
    (odd / "folder" / "lock").touch()
    (bench.spool / "notes.txt").write_text("hello")
    (bench.spool / "loop").symlink_to(bench.spool)
    producer = bench.producer()
    shipper = bench.shipper()
    producer.send("write 20")
    wait_until(lambda: producer.acked == 20)
    time.sleep(2)
    producer.send("write 20")
    wait_until(lambda: producer.acked == 40)
    assert shipper.is_alive()
    assert len(shipper.log_text()) < 20_000


def test_a_stream_deleted_under_the_shipper_becomes_a_gap(bench: Bench) -> None:
    bench.broker()
    producer = bench.producer()
    shipper = bench.shipper()
    producer.send("write 20")
    wait_until(lambda: producer.acked == 20)
    for path in producer.folder.iterdir():
        path.unlink()
    producer.folder.rmdir()
    producer.send("maintain")  # makes the folder again, as the callback does each second
    producer.send("write 5")
    wait_until(lambda: producer.acked == producer.send("write 0"))
    assert seqs(bench, STREAM, 25)[:20] == list(range(20))
    assert shipper.is_alive()


def test_a_stream_closed_and_opened_again_is_shipped_without_a_loss_or_a_heartbeat_between(
    bench: Bench,
) -> None:
    """As a training that has ended, and is evaluated later."""
    bench.broker()
    bench.shipper()
    producer = bench.producer()
    producer.send("write 3")
    bench.events(SHIPPER, 1)
    producer.send("close")
    wait_until(lambda: producer.acked == 3)
    time.sleep(1.5)  # a second is the longest until the lock is asked for
    before = len(bench.events(SHIPPER, 1))
    time.sleep(2.0)
    assert len(bench.events(SHIPPER, 1)) == before
    producer.send("reopen")
    producer.send("write 2")
    wait_until(lambda: producer.acked == 5)
    bench.events(SHIPPER, before + 1)
    producer.send("close")
    producer.kill()
    assert seqs(bench, "run/rank0", 5) == list(range(5))
    assert {event.kind for event in bench.events(SHIPPER, before + 1)} == {"heartbeat"}


MANY = """
import sys
from pathlib import Path
from lineside.bus.protocol.events import Stream
from lineside.emitter.spool.writer import SpoolWriter
writers = [SpoolWriter(Path(sys.argv[1]), Stream(f"run{n}", "rank0", "a1")) for n in range(120)]
for writer in writers: writer.write("log")
print(flush=True)
sys.stdin.read()
"""


def test_a_shipper_at_its_limit_of_files_ships_everything(bench: Bench) -> None:
    bench.broker()
    command = [sys.executable, "-c", MANY, str(bench.spool)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as many:
        assert many.stdout is not None
        many.stdout.readline()
        shipper = bench.shipper()
        resource.prlimit(shipper.pid, resource.RLIMIT_NOFILE, (128, 128))
        for n in (0, 119):
            assert seqs(bench, f"run{n}/rank0", 1) == [0]
        bench.events("run119/shipper", 2)
        late = bench.producer("late/rank0/a1")
        late.send("write 3")
        wait_until(lambda: late.acked == 3)
        many.communicate()
    wait_until(lambda: shipper_pid(bench.spool) == shipper.pid)
    bench.events("run119/shipper", 3)
    later = bench.producer("later/rank0/a1")
    later.send("write 3")
    wait_until(lambda: later.acked == 3)
    assert "Too many open files" not in shipper.log_text()
