"""The data of heartbeats and of process_lost."""

from __future__ import annotations

import platform
import shutil
import time

from lineside.emitter.shipper.heartbeat import heartbeat_data, process_lost_data
from lineside.emitter.spool.status_page import TRAINING
from lineside.emitter.spool.status_reader import StreamInfo, read_page
from tests.emitter.shipping import Bench


def test_a_heartbeat_holds_the_state_of_the_rank(bench: Bench) -> None:
    producer = bench.producer()
    producer.send("write 3")
    producer.send(f"flags {TRAINING}")
    fields = read_page(producer.folder)
    assert fields is not None
    beat = heartbeat_data(fields, StreamInfo.read(producer.folder), time.monotonic_ns())
    assert beat.pop("rss") > 1 << 20
    assert 0 <= beat.pop("hook_age") < 10
    assert beat == {
        "rank": 0,
        "pid": producer.process.pid,
        "host": platform.node(),
        "step": 7,
        "phase": "starting",
        "emitted": 3,
        "dropped": 0,
        "hook_errors": 0,
        "hook_ns": 0,
        "hooks": 0,
        "acked": 0,
    }
    far = heartbeat_data(fields._replace(phase=99), StreamInfo(1, "elsewhere"), 0)
    assert (far["rss"], far["hook_age"], far["phase"]) == (None, None, "unknown")
    dead = heartbeat_data(fields._replace(pid=2**22 + 1), StreamInfo.read(producer.folder), 0)
    assert dead["rss"] is None


def test_nothing_is_known_of_the_loss_of_a_removed_stream(bench: Bench) -> None:
    producer = bench.producer()
    producer.kill()
    shutil.rmtree(producer.folder)
    lost = process_lost_data(producer.folder, None, StreamInfo.read(producer.folder))
    assert set(lost.values()) == {None}
