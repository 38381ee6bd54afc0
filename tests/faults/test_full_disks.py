"""Disks run full and get space again; a spool reaches its cap."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from lineside.emitter.spool.status_page import DROPPED
from tests.faults.accounts import AccountCheck, journal, rows
from tests.faults.conftest import Check
from tests.faults.producer_process import Producer
from tests.faults.stack import Stack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fault

MIB = 1 << 20
SmallDisk = Callable[[str, int], Path]


def test_a_full_spool_disk_counts_dropped_events_and_keeps_the_rest(
    small_disk: SmallDisk, stack: Stack, rng: Random, check: Check
) -> None:
    spool = small_disk("small", 32 * MIB)
    filler = _fill(spool, 31 * MIB)  # without it there is room until the end
    producer = stack.produce(ballast=400, LINESIDE_SPOOL=str(spool))
    wait_until(lambda: _dropped(producer) > 50, "the disk is full")
    time.sleep(rng.uniform(0.0, 1.0))
    filler.unlink()
    dropped = _dropped(producer)
    producer.wait_noted(1000)
    wait_until(lambda: _drops_nothing(producer), "events are kept again")
    stack.start()
    producer.wait_flowing()
    assert producer.finish() == 0
    result = check("run", producer.items(), exact=False)
    assert result.gaps >= dropped
    _check_account(stack, producer, result, "disk")


def test_a_loop_killed_on_a_full_spool_disk_leaves_an_exact_account(
    small_disk: SmallDisk, stack: Stack, rng: Random, check: Check
) -> None:
    spool = small_disk("small", 4 * MIB)
    filler = _fill(spool, 3 * MIB)
    producer = stack.produce(ballast=400, LINESIDE_SPOOL=str(spool))
    wait_until(lambda: _dropped(producer) > 50, "the disk is full")
    time.sleep(rng.uniform(0.0, 1.0))
    producer.kill()
    dropped = _dropped(producer)
    filler.unlink()
    stack.start()
    stack.ship(spool)
    result = check("run", producer.items(), exact=False)
    assert result.gaps == dropped
    # One may have been dropped, or kept, before it could be noted.
    assert result.noted - result.recorded in (dropped, dropped - 1)
    assert (result.lost, result.twice) == (0, 0), result
    assert result.in_order
    stack.wait_status("run", "lost")


@pytest.mark.parametrize("broker", ["kept", "killed"])
def test_a_full_journal_disk_loses_nothing(
    small_disk: SmallDisk, stack: Stack, rng: Random, check: Check, broker: str
) -> None:
    home = small_disk("small", 64 * MIB)
    filler = _fill(home, 62 * MIB)
    stack.move_broker(home)
    stack.start()
    producer = stack.produce(ballast=1000)
    wait_until(lambda: "is full" in stack.logs()["broker.log"], "the disk is full")
    time.sleep(rng.uniform(0.0, 2.0))
    if broker == "killed":
        stack.broker.kill()
        stack.broker.start()  # it reads from a disk that it cannot write
    producer.wait_noted(100)
    filler.unlink()
    producer.wait_flowing()
    assert producer.finish() == 0
    check("run", producer.items())


def test_a_full_store_disk_loses_nothing(
    small_disk: SmallDisk, stack: Stack, rng: Random, check: Check
) -> None:
    disk = small_disk("small", 32 * MIB)
    filler = _fill(disk, 31 * MIB)
    stack.move_store(f"sqlite:///{disk}/store.db")
    stack.start()
    producer = stack.produce()
    wait_until(lambda: "is full" in stack.logs()["recorder.log"], "the disk is full")
    time.sleep(rng.uniform(0.0, 2.0))
    filler.unlink()
    assert producer.finish() == 0
    check("run", producer.items())


def test_a_spool_at_its_cap_keeps_rare_events_and_reports_dropped_ones(
    stack: Stack, rng: Random, check: Check
) -> None:
    producer = stack.produce(ballast=8000, steps=True, rare=100, cap=8 * MIB)
    wait_until(lambda: _dropped(producer) > 500, "the cap is reached")
    producer.wait_noted(rng.randrange(100, 1000))
    stack.broker.start()
    stack.recorder.start()
    assert producer.finish() == 0
    stack.ship()
    result = check("run", producer.items(), exact=False)
    _check_account(stack, producer, result, "cap")
    kept = {
        (event.kind, event.step)
        for stream, found in journal(stack.broker.address).items()
        if stream.producer == "rank0"
        for event in found.events
    }
    dropped = [item for item in producer.items() if item not in kept]
    assert {kind for kind, _ in dropped} == {"step_end", "log"}
    first = dict(reversed(dropped))  # the first dropped step of each kind
    assert first["step_end"] < first["log"], "step events must be dropped before logs"
    stack.wait_status("run", "finished")  # run_end came too


def _check_account(stack: Stack, producer: Producer, result: AccountCheck, why: str) -> None:
    """Check that every event not recorded is a gap with its reason, and all numbers agree."""
    assert result.gaps > 0
    assert result.recorded + result.gaps == result.noted
    assert (result.lost, result.twice, result.surplus) == (0, 0, 0), result
    assert result.in_order
    history = stack.history()
    [account] = [s for s in history.streams("run") if s.producer == "rank0"]
    assert account.emitted == account.recorded + account.gaps
    assert account.gaps == account.dropped == result.gaps
    notes = [row.data or {} for row in rows(history, "run", ["gap"])]
    assert {note["why"] for note in notes} == {why}
    assert sum(sum(note["kinds"].values()) for note in notes) == result.gaps


def _dropped(producer: Producer) -> int:
    return producer.fields()[DROPPED]


def _drops_nothing(producer: Producer) -> bool:
    """Whether the next events are all kept."""
    before = _dropped(producer)
    producer.wait_noted(200)
    return _dropped(producer) == before


def _fill(disk: Path, size: int) -> Path:
    filler = disk / "filler"
    filler.write_bytes(bytes(size))
    return filler
