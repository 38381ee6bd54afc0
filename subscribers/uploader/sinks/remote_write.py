"""Sends batches by Prometheus remote write 1.0, for VictoriaMetrics, Mimir and the like.

The request is a protobuf of two fields in a snappy block, so a few lines stand for two libraries:

    WriteRequest  1: repeated TimeSeries      TimeSeries  1: repeated Label, 2: repeated Sample
    Label         1: name, 2: value           Sample      1: double value, 2: int64 milliseconds

A snappy block may be made of literals only, which leaves the bytes as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from lineside.subscribers.uploader.batch import Batch
from lineside.subscribers.uploader.sinks.receiver import Receiver

METRIC, STEP = "lineside_run_metric", "lineside_run_step"
"""The series of a metric, as the exporter names it, and of the step beside it."""
_HEADERS = {"Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"}
_LITERAL_BYTES = 65536


class RemoteWrite:
    """A series for each metric of a stream. A sample has a time and no step."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def send(self, batch: Batch) -> None:
        body = snappy_block(write_request(batch))
        self._receiver.post(body, "application/x-protobuf", _HEADERS)


def write_request(batch: Batch) -> bytes:
    """The protobuf of ``batch``; of two samples of one millisecond the later one counts."""
    series: dict[tuple[str, str], dict[int, float]] = {}
    for point in batch.points:
        at = round(point.time * 1000)
        series.setdefault((STEP, ""), {})[at] = float(point.step)
        for name, value in point.values.items():
            series.setdefault((METRIC, name), {})[at] = float(value)
    common = {
        "attempt": batch.attempt,
        "producer": batch.producer,
        "project": batch.project,
        "run": batch.run,
        "name": batch.name,
    }
    return b"".join(
        _field(1, _time_series({"__name__": family, "metric": metric, **common}, samples))
        for (family, metric), samples in series.items()
    )


def _time_series(labels: Mapping[str, str], samples: Mapping[int, float]) -> bytes:
    return b"".join(
        [
            *(_field(1, _label(name, labels[name])) for name in sorted(labels) if labels[name]),
            *(_field(2, _sample(at, samples[at])) for at in sorted(samples)),
        ]
    )


def _label(name: str, value: str) -> bytes:
    return _field(1, name.encode()) + _field(2, value.encode(errors="replace"))


def _sample(at: int, value: float) -> bytes:
    return b"\x09" + struct.pack("<d", value) + b"\x10" + _varint(at)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def snappy_block(content: bytes) -> bytes:
    """``content`` as a snappy block of literals."""
    return _varint(len(content)) + b"".join(_literals(content))


def _literals(content: bytes) -> Iterable[bytes]:
    for begin in range(0, len(content), _LITERAL_BYTES):
        part = content[begin : begin + _LITERAL_BYTES]
        yield b"\xf4" + struct.pack("<H", len(part) - 1) + part
