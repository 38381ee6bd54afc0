"""Checkpoints on the bus: the states that the archiver publishes, and what a person asks of it.

A training's rank 0 publishes ``checkpoint_held``, the archiver ``checkpoint_state`` and
``checkpoint_progress`` in a stream of the run, and a client ``checkpoint_request`` in a control
stream of the run. A checkpoint is identified by its attempt, step and path.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lineside.bus.errors import UsageError
from lineside.bus.protocol.commands import current_user
from lineside.bus.protocol.event_kinds import (
    CHECKPOINT_PROGRESS,
    CHECKPOINT_REQUEST,
    CHECKPOINT_STATE,
)
from lineside.bus.protocol.fields import INT_MAX, is_int64

ARCHIVER = "archiver"
"""The producer of the states of checkpoints."""
WAITING, COPYING, ARCHIVED, VERIFIED, FAILED = (
    "waiting",
    "copying",
    "archived",
    "verified",
    "failed",
)
INCOMPLETE, EVICTED, SKIPPED, DELETED, CORRUPT = (
    "incomplete",
    "evicted",
    "skipped",
    "deleted",
    "corrupt",
)
STATES = {
    WAITING: "waits for a file of a rank, or for its turn",
    COPYING: "is being copied to the archive",
    ARCHIVED: "is in the archive, whole",
    VERIFIED: "is in the archive, and was read back",
    FAILED: "could not be copied; it is tried again",
    INCOMPLETE: "never became whole, and was given up",
    EVICTED: "was gone before it was archived",
    SKIPPED: "is not kept by the policy",
    DELETED: "was deleted from the archive",
    CORRUPT: "is in the archive, and reading it back found a fault",
}
"""Each state of a checkpoint, and what it means."""
IN_ARCHIVE = frozenset({ARCHIVED, VERIFIED, CORRUPT})
"""The states in which the archive has the checkpoint."""
STATE_KINDS = (CHECKPOINT_STATE, CHECKPOINT_PROGRESS)
"""The events that carry a state."""
PIN, UNPIN, DELETE, VERIFY = "pin", "unpin", "delete", "verify"
OPS = {
    PIN: "keep it in the archive, whatever the policy is",
    UNPIN: "leave it to the policy again",
    DELETE: "delete it from the archive",
    VERIFY: "read it back from the archive and compare it",
}
"""What a client can ask for a checkpoint."""
HELD = "held"
"""The state before the archiver has reported one: the files are linked, and outlive rotation."""
TO_ARCHIVE = (HELD, WAITING, COPYING, FAILED)
"""The states of a checkpoint that is yet to be archived."""
PATH_LENGTH = 4000
"""The most characters of a checkpoint's path."""
NAME_LENGTH = 1000
"""The most characters of an id, an issuer and an attempt."""


@dataclass(frozen=True)
class CheckpointRequest:
    """Ask the archiver to pin, unpin, delete or verify a checkpoint in the archive.

    The state that answers it has its ``id`` as ``request``.

    Raises:
        UsageError: ``op`` is none of ``OPS``, or a field is no text or step, or too long.
    """

    op: str
    checkpoint: str
    attempt: str
    step: int
    issuer: str = field(default_factory=current_user)
    id: str = field(default_factory=lambda: secrets.token_hex(6))

    kind = CHECKPOINT_REQUEST

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise UsageError(f"op {self.op!r:.100}: expected one of {', '.join(OPS)}")
        for name, longest in (
            ("checkpoint", PATH_LENGTH),
            ("attempt", NAME_LENGTH),
            ("issuer", NAME_LENGTH),
            ("id", NAME_LENGTH),
        ):
            value = getattr(self, name)
            if not isinstance(value, str) or not 0 < len(value) <= longest:
                raise UsageError(
                    f"{name} {value!r:.100} cannot be used: expected a text of 1 to {longest} "
                    "characters"
                )
        if not is_int64(self.step) or self.step < 0:
            raise UsageError(f"step {self.step!r:.100} cannot be used: expected 0 to {INT_MAX}")

    def to_data(self) -> Mapping[str, Any]:
        """The data of its event."""
        return {
            "id": self.id,
            "op": self.op,
            "checkpoint": self.checkpoint,
            "attempt": self.attempt,
            "step": self.step,
            "issuer": self.issuer,
        }


def checkpoint_id(attempt: str, step: int, path: str) -> str:
    """The id by which a client names a checkpoint of a run: 32 hexadecimal digits."""
    identity = f"{attempt}\n{step}\n{path}".encode("utf-8", "replace")
    return hashlib.sha256(identity).hexdigest()[:32]
