"""A receiver that drops what it has already, as the how-to shows it, and uploads to it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lineside.bus.settings import Settings
from lineside.subscribers.uploader.batch import Batch, Point
from lineside.subscribers.uploader.dead_letters import DeadLetters
from lineside.subscribers.uploader.options import CollectOptions, ReceiverOptions
from lineside.subscribers.uploader.sinks.registry import make_sink
from lineside.subscribers.uploader.uploader import Uploader
from tests.subscribers.kit import ServedKit
from tests.support.http_receiver import HttpReceiver, Request

NAME = "lake"


def batch_of(request: Request) -> dict[str, Any]:
    """The body of a request."""
    is_packed = request.headers.get("content-encoding") == "gzip"
    found: dict[str, Any] = json.loads(gzip.decompress(request.body) if is_packed else request.body)
    return found


class Lake:
    """What a receiver with ``(stream, seq)`` as its key has: ``rows`` in the order of arrival."""

    def __init__(self, receiver: HttpReceiver) -> None:
        self._receiver = receiver

    @property
    def batches(self) -> list[dict[str, Any]]:
        """The batches that were taken, with those that came twice."""
        return [batch_of(request) for request in list(self._receiver.taken)]

    @property
    def rows(self) -> dict[tuple[str, int], dict[str, Any]]:
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for batch in self.batches:
            for point in batch["points"]:
                found.setdefault((batch["stream"], point["seq"]), point)
        return found

    def steps(self, stream: str) -> list[int]:
        """The steps of a stream, in the order in which they came."""
        return [point["step"] for (name, _), point in self.rows.items() if name == stream]


@contextmanager
def uploading(
    settings: Settings, url: str, receiver: Any = None, run_filter: Any = None, **collect: Any
) -> Iterator[ServedKit]:
    """An upload to ``url`` in this process, which sends every second."""
    options = CollectOptions(**{"interval": 0.0, **collect})
    sink = make_sink(receiver or ReceiverOptions("http", url))
    dead_letters = DeadLetters(settings.home, NAME)
    with ServedKit(
        settings,
        Uploader,
        lambda: Uploader(sink, options, dead_letters),
        name=NAME,
        run_filter=run_filter,
    ) as kit:
        yield kit


def batch(*values: dict[str, float], producer: str = "rank0", **fields: Any) -> Batch:
    """Points at one second each, from the first of January 2026 unless ``begin`` is given."""
    begin = fields.pop("begin", 1_767_225_600.0)
    points = [Point(seq, 10 * seq, seq / 10, begin + seq, one) for seq, one in enumerate(values)]
    named = {"run": "run-1", "name": "first run", "project": "p", "attempt": "20260101T000000-0000"}
    return Batch(**{**named, **fields}, producer=producer, points=points)
