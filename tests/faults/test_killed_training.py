"""The training process is killed at a random moment; every returned hook is recorded."""

from __future__ import annotations

import os
import signal
import time
from random import Random

import pytest

from tests.faults.conftest import Check
from tests.faults.producer_process import Producer
from tests.faults.stack import Stack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fault


def test_a_killed_trainer_loses_no_event_and_its_run_is_lost(
    stack: Stack, rng: Random, check: Check
) -> None:
    stack.start()
    trainer = stack.train(steps=1_000_000)
    trainer.wait_noted(rng.randrange(1, 400))
    time.sleep(rng.uniform(0.0, 0.5))
    trainer.kill()
    stack.wait_recorded("run")
    stack.wait_status("run", "lost", "killed")
    check("run", trainer.items(), torn=True)


def test_a_killed_loop_loses_no_event_and_its_run_is_lost(
    stack: Stack, rng: Random, check: Check
) -> None:
    stack.start()
    loop = stack.produce(pause=0)
    loop.wait_noted(1)
    time.sleep(rng.uniform(0.0, 2.0))
    loop.kill()
    stack.wait_recorded("run")
    stack.wait_status("run", "lost", "killed")
    check("run", loop.items(), torn=True)


def test_trainer_and_shipper_killed_together_lose_nothing_once_their_spool_is_shipped(
    stack: Stack, rng: Random, check: Check
) -> None:
    stack.start()
    trainer = stack.train(steps=1_000_000)
    trainer.wait_noted(rng.randrange(1, 400))
    _kill_with_shipper(stack, trainer, rng)
    stack.ship()
    stack.wait_recorded("run")
    stack.wait_status("run", "lost", "killed")
    check("run", trainer.items(), torn=True)


def test_loop_and_shipper_killed_together_lose_nothing_once_their_spool_is_shipped(
    stack: Stack, rng: Random, check: Check
) -> None:
    stack.start()
    loop = stack.produce(pause=0)
    loop.wait_noted(1)
    time.sleep(rng.uniform(0.0, 2.0))
    _kill_with_shipper(stack, loop, rng)
    stack.ship()
    stack.wait_recorded("run")
    stack.wait_status("run", "lost", "killed")
    check("run", loop.items(), torn=True)


def _kill_with_shipper(stack: Stack, producer: Producer, rng: Random) -> None:
    """Freeze both, so that neither sees the other end, then kill them in either order."""
    wait_until(stack.shipper_pid, "there is a shipper")
    shipper = stack.shipper_pid()
    producer.freeze()
    os.kill(shipper, signal.SIGSTOP)
    victims = [producer.pid, shipper]
    rng.shuffle(victims)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    producer.wait()
    wait_until(lambda: stack.shipper_pid() != shipper, "the shipper is gone")
