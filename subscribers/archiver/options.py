"""The options of the archiver, checked by the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from lineside.subscribers.archiver.policy import KeepOptions


@dataclass(frozen=True)
class ArchiverOptions:
    """What is kept, and whether each checkpoint is read back after it was copied."""

    keep: KeepOptions = field(default_factory=KeepOptions)
    verify: bool = False
