"""Events, the streams they belong to, and the gaps in a stream."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NamedTuple

from lineside.bus.errors import StreamNameError

VERSION = 1

CONTROL_BITS = (
    "should_training_stop",
    "should_epoch_stop",
    "should_save",
    "should_evaluate",
    "should_log",
)
"""``TrainerControl`` flags, lowest bit of ``Event.control`` first."""

AUDIT = "audit"
"""The run of the streams that hold refusals; no training has this id."""
INTERNAL_RUN = "_lineside"
"""The run of alerts of no training, such as a full disk, and of mutes for every run."""
SAMPLER_PREFIX = "sampler-"
"""How the producer of a machine's metrics is named; its host follows."""
RANK_0 = "rank0"
"""The producer whose stream has the whole lifecycle of an attempt."""

UNREADABLE = "unreadable"
"""The kind of an event in place of one that cannot be decoded, or whose kind is no name."""

PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
"""A part of a stream's name, as a regular expression."""
_PART = re.compile(PART)
_RANK_NAME = re.compile(r"rank[0-9]+")


class Stream(NamedTuple):
    """One producer's numbered sequence of events: ``run/producer/attempt``.

    Each part is 1 to 128 of ``A-Z a-z 0-9 . _ -`` and does not begin with a dot or a dash, so a
    stream is also a safe relative path. Sorting attempts sorts them by their start.
    """

    run: str
    producer: str
    attempt: str

    def __str__(self) -> str:
        return f"{self.run}/{self.producer}/{self.attempt}"

    @classmethod
    def parse(cls, name: str) -> Stream:
        """Read ``run/producer/attempt``.

        Raises:
            StreamNameError: not three parts, or a part with other characters.
        """
        parts = name.split("/")
        if len(parts) != 3 or not all(_PART.fullmatch(part) for part in parts):
            raise StreamNameError(name)
        return cls(*parts)


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    ``time`` is seconds since the epoch (UTC); ``monotonic_ns`` is the producing machine's
    ``CLOCK_MONOTONIC``, comparable only between events of one machine; ``epoch`` is the Trainer's
    fractional epoch; ``control`` holds the ``CONTROL_BITS`` as they stood when the hook was called.
    """

    seq: int
    time: float
    monotonic_ns: int
    kind: str
    step: int = 0
    epoch: float | None = None
    control: int = 0
    data: Mapping[str, Any] | None = None
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Gap:
    """Events ``first`` (included) to ``end`` (excluded) of a stream that are missing.

    With ``stream`` None the two are journal offsets: a live reader that lagged, or retention.
    ``is_reported``: the producer has reported that it cannot supply them.
    """

    stream: Stream | None
    first: int
    end: int
    is_reported: bool = field(default=False, compare=False)

    @property
    def count(self) -> int:
        return self.end - self.first


def new_attempt() -> str:
    """A fresh attempt name, sortable by start time (ms, UTC): ``20261121T082653.481-4f2a``."""
    now = datetime.now(timezone.utc)
    return f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03}-{secrets.token_hex(2)}"


def is_run_id(text: str) -> bool:
    """Whether ``text`` can be the id of a training's run."""
    return _PART.fullmatch(text) is not None and text not in (AUDIT, INTERNAL_RUN)


def is_rank(producer: str) -> bool:
    """Whether the producer is a training process."""
    return _RANK_NAME.fullmatch(producer) is not None


def is_run_process(producer: str) -> bool:
    """Whether an event of the producer proves that the run's own processes are alive."""
    return is_rank(producer) or producer == "shipper"
