"""Shipper, broker and recorder are killed again and again while events flow."""

from __future__ import annotations

from random import Random

import pytest

from tests.faults.conftest import Check
from tests.faults.producer_process import Producer
from tests.faults.stack import Stack, inject_faults

pytestmark = pytest.mark.fault

SECONDS = 6.0


def test_a_shipper_killed_again_and_again_loses_nothing(
    stack: Stack, rng: Random, check: Check
) -> None:
    stack.start()
    producer = stack.produce()
    producer.wait_flowing()
    inject_faults(rng, SECONDS, [lambda: _kill_shipper(stack, producer)])
    assert producer.finish() == 0
    stack.ship()
    check("run", producer.items())
    stack.wait_status("run", "finished")


def test_a_broker_killed_again_and_again_loses_nothing(
    stack: Stack, rng: Random, check: Check
) -> None:
    stack.start()
    producer = stack.produce()
    producer.wait_flowing()
    inject_faults(rng, SECONDS, [lambda: _kill_broker(stack, producer)])
    assert producer.finish() == 0
    stack.ship()
    check("run", producer.items())
    stack.wait_status("run", "finished")


def test_a_recorder_killed_again_and_again_loses_nothing(
    stack: Stack, rng: Random, check: Check
) -> None:
    stack.start()
    producer = stack.produce()
    producer.wait_flowing()
    stack.history()
    inject_faults(rng, SECONDS, [lambda: _kill_recorder(stack)], longest=2.5)
    assert producer.finish() == 0
    check("run", producer.items())
    stack.wait_status("run", "finished")


def test_shipper_broker_and_recorder_killed_in_any_order_lose_nothing(
    stack: Stack, rng: Random, check: Check
) -> None:
    stack.start()
    producer = stack.produce()
    producer.wait_flowing()
    stack.history()
    actions = [
        lambda: stack.kill_shipper(),
        lambda: _kill_broker(stack, None),
        lambda: _kill_recorder(stack),
    ]
    inject_faults(rng, SECONDS, actions)
    assert producer.finish() == 0
    stack.ship()
    check("run", producer.items())
    stack.wait_status("run", "finished")


def _kill_shipper(stack: Stack, producer: Producer) -> None:
    stack.kill_shipper()
    producer.wait_flowing()


def _kill_broker(stack: Stack, producer: Producer | None) -> None:
    stack.broker.kill()
    stack.broker.start()
    if producer is not None:
        producer.wait_flowing()


def _kill_recorder(stack: Stack) -> None:
    stack.recorder.kill()
    stack.recorder.start()
