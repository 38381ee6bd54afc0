"""Exporters that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from tests.subscribers.exporter.exporting import Clock, Harness

StartExporter = Callable[..., Harness]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start_exporter(settings: Settings, broker: BrokerProcess) -> Iterator[StartExporter]:
    """``start_exporter()``: an exporter beside a real broker."""
    started: list[Harness] = []

    def start(**options: Any) -> Harness:
        started.append(Harness(settings, **options))
        return started[-1]

    yield start
    for harness in started:
        harness.exporter.shutdown()


@pytest.fixture
def training(broker: BrokerProcess) -> Iterator[Producer]:
    """Rank 0 of a run that has begun to train."""
    with Producer(broker.address, "run/rank0/a1") as producer:
        producer.emit("run_start", data={"name": "run", "project": "tests"})
        producer.emit("train_begin")
        yield producer
