"""A slow, a frozen and a killed reader delay only themselves."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS
from tests.faults.accounts import NotedEvent, journal
from tests.faults.conftest import Check
from tests.faults.stack import HERE, Stack, inject_faults
from tests.support.processes import Child, supervised
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fault


class Reading(Child):
    """``reading.py`` under a durable name."""

    def __init__(self, stack: Stack, name: str, pause: float) -> None:
        self.notes = stack.home / f"{name}.notes"
        command = [str(HERE / "reading.py"), stack.broker.address, name, str(self.notes)]
        log = stack.home / f"{name}.log"
        super().__init__([*command, str(pause)], supervised(stack.home), log)

    def seen(self) -> list[tuple[str, int, NotedEvent]]:
        """Stream, seq, kind and step of each event, in the order of arrival."""
        return [
            (stream, int(seq), (kind, int(step)))
            for stream, seq, kind, step in map(str.split, _whole_lines(self.notes))
        ]

    def wait_more(self) -> None:
        """Wait until more events have arrived."""
        size = len(self.seen())
        wait_until(lambda: len(self.seen()) > size, "the reader goes on")

    def wait_done(self, stack: Stack) -> None:
        """Wait until every event has arrived."""
        wait_until(lambda: self.is_done(stack), "the reader has everything")

    def is_done(self, stack: Stack) -> bool:
        """Whether every event of the journal has arrived."""
        seen = {(stream, seq) for stream, seq, _ in self.seen()}
        return all(
            (str(stream), event.seq) in seen
            for stream, found in journal(stack.broker.address).items()
            for event in found.events
        )


def test_a_reader_killed_again_and_again_catches_up_exactly(
    stack: Stack, rng: Random, check: Check
) -> None:
    stack.start()
    producer = stack.produce(pause=0.001)
    reading = Reading(stack, "reading", 0.0)
    reading.start()

    def kill() -> None:
        reading.kill()
        reading.start()
        reading.wait_more()

    inject_faults(rng, 6.0, [kill])
    assert producer.finish() == 0
    check("run", producer.items())
    reading.wait_done(stack)
    reading.kill()
    _check_exact(reading, producer.items())


def test_a_slow_and_a_frozen_reader_delay_no_other_and_catch_up_exactly(
    stack: Stack, rng: Random, check: Check
) -> None:
    stack.start()
    slow, frozen = Reading(stack, "slow", 0.5), Reading(stack, "frozen", 0.0)
    producer = stack.produce(pause=0.001)
    for reading in (slow, frozen):
        reading.start()
        reading.wait_more()
    frozen.freeze()
    time.sleep(rng.uniform(5.5, 7.0))  # longer than a reader's own timeouts
    assert producer.finish() == 0
    check("run", producer.items())
    assert not slow.is_done(stack), "the reader was not slow enough for this test"
    assert not frozen.is_done(stack)
    frozen.resume()
    slow.kill()
    quick = Reading(stack, "slow", 0.0)
    quick.start()
    for reading in (quick, frozen):
        reading.wait_done(stack)
        reading.kill()
        _check_exact(reading, producer.items())


def _check_exact(reading: Reading, noted: list[NotedEvent]) -> None:
    """Check that every noted event arrived in order; repeats only after a restart."""
    seen = [found for found in reading.seen() if found[0].startswith("run/rank0/")]
    first: dict[int, NotedEvent] = {}
    for _, seq, item in seen:
        assert seq in first or seq == len(first), f"{seq} came after {len(first)}"
        assert first.setdefault(seq, item) == item
    assert [item for item in first.values() if item[0] in LIFECYCLE_KINDS] == noted


def _whole_lines(path: Path) -> list[str]:
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()
