"""What travels: events, the streams they belong to, and the holes a stream can have."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

from lineside.bus.errors import StreamNameError

VERSION = 1

# The Trainer's own callbacks, without ``on_`` (transformers 4.56 has all but push_begin).
LIFECYCLE_KINDS = (
    "init_end",
    "train_begin",
    "train_end",
    "epoch_begin",
    "epoch_end",
    "step_begin",
    "pre_optimizer_step",
    "optimizer_step",
    "substep_end",
    "step_end",
    "evaluate",
    "predict",
    "save",
    "log",
    "prediction_step",
    "push_begin",
)
# Lineside's own.
OWN_KINDS = (
    "run_start",  # first record of a rank's stream: facts of the process, arguments, model
    "run_end",  # last record of a rank's stream: how it ended, and the emitter's own counters
    "train_error",  # train() raised: what, whether the script catches it or not
    "gap",  # the emitter dropped events: which, and why
    "heartbeat",  # from the shipper, one a second for each rank
    "process_lost",  # from the shipper: the training process went without a train_end
    "process_exit",  # from `lineside run`: exit code or signal
    "command",  # from whoever steers the run: what is to be done
    "control_on",  # first record of a rank's control stream: commands are taken from here on
    "control_delivered",  # a command has reached the training process
    "control_applied",  # it was applied at the event's step
    "control_rejected",  # it was not, and why
    "control_expired",  # its time was over before it could be
    "control_superseded",  # a later one took its place
    "refused",  # from broker and dashboard: who was not allowed what
    "alert",  # from the stopper: a rule held, or cannot, or would have asked for something
)
# Step-level kinds come several times a step. The store folds them into one timing row a step;
# a full spool drops them first.
STEP_KINDS = frozenset(
    {
        "step_begin",
        "substep_end",
        "pre_optimizer_step",
        "optimizer_step",
        "step_end",
        "prediction_step",
    }
)

CONTROL_BITS = (
    "should_training_stop",
    "should_epoch_stop",
    "should_save",
    "should_evaluate",
    "should_log",
)
"""``TrainerControl`` flags, lowest bit of ``Event.control`` first."""

AUDIT = "audit"
"""The run whose streams say who was refused what; no training is called so."""
REFUSED = "refused"
"""The kind of events there."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


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
    """One thing that happened.

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
    """Events ``first`` (included) to ``end`` (excluded) of a stream that cannot be had.

    With ``stream`` None the two are journal offsets: a live reader that lagged, or retention.
    """

    stream: Stream | None
    first: int
    end: int

    @property
    def count(self) -> int:
        return self.end - self.first


def new_attempt() -> str:
    """A fresh attempt name, sortable by start time (ms, UTC): ``20261121T082653.481-4f2a``."""
    now = datetime.now(timezone.utc)
    return f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03}-{secrets.token_hex(2)}"


def is_run_id(text: str) -> bool:
    """Whether a training may be called ``text``."""
    return _PART.fullmatch(text) is not None and text != AUDIT
