"""When a shipper ends, gives up or hands over, and which failures it survives."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lineside.emitter.shipper.service import Shipper, ShipperLimits
from lineside.emitter.spool.segment_reader import segments
from lineside.emitter.spool.sidecar_process import LOCK_NAME, LOG_NAME, shipper_pid
from lineside.emitter.spool.status_page import CLOSED, TRAIN_ENDED
from tests.emitter.shipping import Bench, work_until
from tests.support.waiting import DEADLINE, wait_until


@pytest.mark.long
def test_a_shipper_ends_by_itself_and_leaves_nothing_unconfirmed(bench: Bench) -> None:
    bench.broker()
    producer = bench.producer()
    shipper = bench.shipper()
    producer.send("write 20")
    producer.send(f"flags {TRAIN_ENDED}")
    producer.end()
    assert shipper.wait() == 0
    assert producer.acked == 20
    assert shipper_pid(bench.spool) is None
    assert "ended" in shipper.log_text()
    again = bench.shipper()
    assert again.wait() == 0


@pytest.mark.parametrize("what", ["lock", "spool"])
def test_a_shipper_whose_spool_was_removed_ends(bench: Bench, what: str) -> None:
    producer = bench.producer()
    shipper = bench.shipper()
    producer.send("write 3")
    wait_until(lambda: shipper_pid(bench.spool))
    if what == "lock":
        (bench.spool / LOCK_NAME).unlink()
    else:
        bench.spool.rename(bench.folder / "elsewhere")
    assert shipper.wait() == 0


def test_sigterm_sends_the_backlog_and_ends(bench: Bench) -> None:
    bench.broker()
    producer = bench.producer()
    shipper = bench.shipper()
    producer.send("write 1")
    wait_until(lambda: producer.acked == 1)
    producer.send("write 3000")
    started = time.monotonic()
    assert shipper.stop() == 0
    assert time.monotonic() - started < 5
    assert producer.acked == 3001


def test_sigterm_with_a_frozen_broker_ends_soon(bench: Bench) -> None:
    broker = bench.broker()
    producer = bench.producer()
    shipper = bench.shipper()
    producer.send("write 1")
    wait_until(lambda: producer.acked == 1)
    broker.freeze()
    producer.send("write 3000")
    started = time.monotonic()
    assert shipper.stop() == 0
    assert time.monotonic() - started < 6


def test_a_shipper_that_is_ended_waits_for_a_broker_that_comes_back(bench: Bench) -> None:
    broker = bench.broker()
    producer = bench.producer()
    shipper = Shipper(bench.spool, bench.address, ShipperLimits(drain=DEADLINE))
    shipper.startup()
    producer.send("write 1")
    work_until(shipper, lambda: producer.acked == 1)
    broker.freeze()
    producer.send("write 3000")
    producer.kill()
    back = threading.Timer(3.0, broker.resume)  # later than what can be sent at once
    back.start()
    started = time.monotonic()
    shipper.shutdown()
    back.join()
    assert producer.acked == 3001
    assert time.monotonic() - started < DEADLINE / 2, "it ends when all is confirmed"


def test_an_invalid_address_is_a_sentence_in_the_log(bench: Bench) -> None:
    shipper = bench.shipper("tcp://127.0.0.1:7430")
    assert shipper.wait() == 2
    assert "cannot be used" in shipper.log_text()
    assert "Traceback" not in shipper.log_text()


def test_a_service_waits_while_a_training_has_a_shipper_of_its_own(bench: Bench) -> None:
    bench.broker()
    producer = bench.producer()
    own = bench.shipper()
    wait_until(lambda: shipper_pid(bench.spool))
    limits = ShipperLimits(idle_timeout=math.inf, broker_timeout=math.inf)
    service = Shipper(bench.spool, bench.address, limits)
    service.startup()
    service.run_once()
    assert not service.should_exit
    assert shipper_pid(bench.spool) == own.pid
    own.kill()
    own.wait()
    producer.send("write 5")

    def is_confirmed() -> bool:
        service.run_once()
        return producer.acked == 5

    wait_until(is_confirmed)
    service.shutdown()


def test_a_complete_stream_is_removed_after_the_retention(bench: Bench) -> None:
    bench.broker()
    producer = bench.producer()
    producer.send("write 5")
    producer.send(f"flags {CLOSED}")
    producer.end()
    shipper = Shipper(bench.spool, bench.address, ShipperLimits(idle_timeout=30, retention=0.5))
    shipper.startup()
    work_until(shipper, lambda: not producer.folder.exists())
    work_until(shipper, lambda: not list(shipper.stream_registry))
    shipper.shutdown()


def test_a_shipper_without_a_broker_and_without_a_producer_gives_up(bench: Bench) -> None:
    producer = bench.producer()
    producer.send("write 5")
    producer.kill()
    shipper = Shipper(bench.spool, bench.address, ShipperLimits(first_timeout=1.0))
    shipper.serve()
    assert producer.acked == 0
    assert len(segments(producer.folder)) == 1


def test_a_producer_that_starts_while_the_shipper_ends_is_shipped(bench: Bench) -> None:
    shipper = Shipper(bench.spool, bench.address, ShipperLimits(idle_timeout=1e-9))
    shipper.startup()
    shipper.work()
    producer = bench.producer()  # after the last discover, and while the lock was held
    shipper._exit_unless_needed()
    assert not shipper.should_exit
    assert shipper._lock is not None
    assert (
        next(stream_sender.stream for stream_sender in shipper.stream_registry) == producer.stream
    )
    shipper.shutdown()


def test_a_producer_whose_own_shipper_was_quicker_is_left_to_that_one(bench: Bench) -> None:
    shipper = Shipper(bench.spool, bench.address, ShipperLimits(idle_timeout=0.0))
    shipper.startup()
    shipper.work()
    bench.producer()
    hold = (
        "import sys; from pathlib import Path; from lineside.emitter.spool import liveness_lock\n"
        "fd = liveness_lock.acquire(Path(sys.argv[1])); print(fd, flush=True); sys.stdin.read()"
    )
    os.close(shipper._lock or -1)
    shipper._lock = None
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(bench.spool / LOCK_NAME)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        shipper._exit_unless_needed()
        assert shipper.should_exit
        other.kill()
    shipper.shutdown()


def test_a_turn_that_fails_is_logged_and_the_next_one_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shipper = Shipper(bench.spool, bench.address)
    shipper.startup()

    def fail(now: float) -> bool:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(shipper.stream_registry, "discover", fail)
        shipper.work()
    assert "a turn failed" in caplog.text
    shipper.work()
    shipper.shutdown()


def test_a_stream_that_fails_does_not_stop_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.broker()
    bad, good = bench.producer("bad/rank0/a1"), bench.producer("good/rank0/a1")
    for producer in (bad, good):
        producer.send("write 3")
    shipper = Shipper(bench.spool, bench.address)
    shipper.startup()
    shipper.stream_registry.discover(time.monotonic())

    def fail(now: float) -> None:
        raise RuntimeError("a bug")

    for stream_sender in shipper.stream_registry:
        if stream_sender.stream.run == "bad":
            monkeypatch.setattr(stream_sender, "next", fail)
    work_until(shipper, lambda: good.acked == 3)
    assert bad.acked == 0
    assert "cannot be read" in caplog.text
    shipper.shutdown()


def test_a_long_log_is_replaced_by_a_new_one(bench: Bench) -> None:
    bench.spool.mkdir()
    log = bench.spool / LOG_NAME
    log.write_bytes(b"x" * (2 << 20))
    shipper = bench.shipper()
    previous = Path(f"{log}.1")
    wait_until(previous.exists)
    wait_until(lambda: log.exists() and log.stat().st_size < 1 << 20)
    assert previous.stat().st_size >= 2 << 20
    shipper.stop()
    assert "ended" in shipper.log_text()


def test_the_shipper_loads_nothing_heavy(bench: Bench) -> None:
    code = (
        "import sys, lineside.emitter.shipper.__main__\n"
        "heavy = {'torch', 'transformers', 'numpy', 'sqlalchemy', 'typer', 'fastapi', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_importing_the_shipper_package_loads_no_zmq() -> None:
    code = "import sys, lineside.emitter.shipper, lineside.emitter.spool.sidecar_process\n"
    code += "print('zmq' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
