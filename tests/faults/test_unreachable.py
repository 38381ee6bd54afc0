"""Training goes on and loses nothing while the broker is frozen, cut off or missing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest

from lineside.bus.testing import FaultyProxy
from tests.faults.conftest import Check
from tests.faults.producer_process import Producer
from tests.faults.stack import Stack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fault

LONGER_THAN_ANY_TIMEOUT = 6.5  # an acknowledgement is waited for 3 s, an answer to a reader 5 s
EXIT_WITHIN = 6.0


@pytest.mark.parametrize("fault", ["frozen", "cut", "swallowed"])
def test_a_broker_out_of_reach_slows_no_event_and_loses_none(
    stack: Stack, rng: Random, check: Check, fault: str
) -> None:
    stack.start()
    with FaultyProxy(stack.home / "link.sock", stack.broker.address) as link:
        producer = stack.produce(pause=0.001, LINESIDE_BROKER=link.address)
        producer.wait_flowing()
        producer.wait_noted(1500)
        begun = time.monotonic_ns()
        with _out_of_reach(stack, link, fault):
            time.sleep(LONGER_THAN_ANY_TIMEOUT + rng.uniform(0, 1))
            ended = time.monotonic_ns()
        producer.wait_flowing()
        assert producer.finish() == 0
        check("run", producer.items())
    before, meanwhile = _cost(producer, 0, begun), _cost(producer, begun, ended)
    assert meanwhile < 3 * before, f"{before} ns an event before, {meanwhile} meanwhile"


@contextmanager
def _out_of_reach(stack: Stack, link: FaultyProxy, fault: str) -> Iterator[None]:
    if fault == "frozen":
        stack.broker.freeze()
    elif fault == "cut":
        link.cut()
    else:
        link.swallow()
    yield
    if fault == "frozen":
        stack.broker.resume()
    else:
        link.restore()


def _cost(producer: Producer, begun: int, ended: int) -> float:
    """The median nanoseconds of a log between two moments."""
    lines = producer.lines()
    return statistics.median(
        line.took_ns for line in lines if line.kind == "log" and begun < line.at_ns < ended
    )


def test_a_loop_without_a_broker_exits_in_time_with_its_own_code_and_loses_nothing(
    stack: Stack, rng: Random, check: Check
) -> None:
    loop = stack.produce(exit_code=7)
    loop.wait_noted(rng.randrange(1, 2000))
    _exits_in_time(loop, 7)
    _arrives_later(stack, loop, check)


def test_a_trainer_without_a_broker_exits_in_time_with_its_own_code_and_loses_nothing(
    stack: Stack, rng: Random, check: Check
) -> None:
    trainer = stack.train(steps=rng.randrange(20, 150), exit_code=7)
    wait_until(
        lambda: any(line.kind == "epoch_end" for line in trainer.lines()), "training has begun"
    )
    _exits_in_time(trainer, 7)
    _arrives_later(stack, trainer, check)


def _exits_in_time(producer: Producer, code: int) -> None:
    assert producer.finish() == code
    exited = time.monotonic_ns()
    lines = producer.lines()
    released = next((line.at_ns for line in lines if line.kind == "exit"), exited)
    last = max(line.at_ns for line in lines if line.kind not in ("train_end", "exit"))
    assert (released - last) / 1e9 < EXIT_WITHIN
    assert f"lineside ship --spool {producer.spool}" in producer.log_text()


def _arrives_later(stack: Stack, producer: Producer, check: Check) -> None:
    stack.start()
    stack.ship()
    check("run", producer.items())
    stack.wait_status("run", "finished")
