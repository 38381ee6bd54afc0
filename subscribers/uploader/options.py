"""The options of one upload, checked by the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

SinkName = Literal["http", "influxdb", "otlp", "remote-write"]
MAX_BATCH = 1000
"""Points that a batch may have at most."""


@dataclass(frozen=True)
class ReceiverOptions:
    """Where to send to, and how."""

    sink: SinkName
    url: str = field(repr=False)
    key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    gzip: bool = True
    connect_timeout: float = 10.0
    timeout: float = 60.0


@dataclass(frozen=True)
class CollectOptions:
    """What is sent, and when."""

    interval: float = 10.0
    """Seconds between two sendings, unless ``steps`` or ``frequency`` is not 0."""
    steps: int = 0
    frequency: float = 0.0
    """The part of a run between two sendings."""
    batch: int = 500
    log_key_prefix: str = ""
    metrics: Sequence[str] = ()
    exclude: Sequence[str] = ()
    producers: Sequence[str] = ("rank0",)
