"""The options of the archiver, checked by the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from lineside.subscribers.archiver.files.redaction import Redaction
from lineside.subscribers.archiver.policy import KeepOptions
from lineside.subscribers.context import RunFilter


@dataclass(frozen=True)
class ArchiverOptions:
    """What is kept, and of which files. ``verify`` reads each checkpoint back after it was copied.

    ``redaction`` finds the secrets that are taken out of files. ``runs`` are those that are
    archived; the holds of others are removed, because all trainings of the home make some.
    """

    redaction: Redaction
    keep: KeepOptions = field(default_factory=KeepOptions)
    verify: bool = False
    weights_only: bool = False
    runs: RunFilter = field(default_factory=RunFilter)
