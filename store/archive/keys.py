"""Where things are in an archive.

runs/<run>/checkpoints/<step, 12 digits>-<attempt>-<12 hex of its SHA-256>.json    a manifest
runs/<run>/parts/<2 hex>/<SHA-256>                                                 a part of a file
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lineside.bus.protocol.events import PART
from lineside.store.archive.errors import ArchiveLocationError

RUNS = "runs"
DIGEST_DIGITS = 12
_STEP_DIGITS = 12
_NAME = re.compile(PART)
_MANIFEST = re.compile(
    rf"{RUNS}/(?P<run>{PART})/checkpoints/"
    rf"(?P<step>[0-9]{{{_STEP_DIGITS}}})-(?P<attempt>{PART})-(?P<digest>[0-9a-f]{{{DIGEST_DIGITS}}})\.json"
)


@dataclass(frozen=True)
class ManifestKey:
    """Names the manifest of a checkpoint; ``digest`` begins the SHA-256 of its bytes."""

    run: str
    step: int
    attempt: str
    digest: str

    def __str__(self) -> str:
        name = f"{self.step:0{_STEP_DIGITS}}-{self.attempt}-{self.digest}.json"
        return f"{checkpoints_prefix(self.run)}{name}"

    @classmethod
    def parse(cls, text: str) -> ManifestKey | None:
        """The key in ``text``; None if it names no manifest."""
        match = _MANIFEST.fullmatch(text)
        if match is None:
            return None
        return cls(match["run"], int(match["step"]), match["attempt"], match["digest"])


def is_name(text: str) -> bool:
    """True if ``text`` can be a run or an attempt in a key."""
    return _NAME.fullmatch(text) is not None


def run_prefix(run: str) -> str:
    """The prefix of everything of a run.

    Raises:
        ArchiveLocationError: the run's id cannot be part of a key.
    """
    if not is_name(run):
        raise ArchiveLocationError(
            f"run {run[:200]!r} cannot be in an archive: expected 1 to 128 of A-Z a-z 0-9 . _ - "
            "and not beginning with . or -"
        )
    return f"{RUNS}/{run}/"


def checkpoints_prefix(run: str) -> str:
    return f"{run_prefix(run)}checkpoints/"


def parts_prefix(run: str) -> str:
    return f"{run_prefix(run)}parts/"


def part_key(run: str, sha256: str) -> str:
    return f"{parts_prefix(run)}{sha256[:2]}/{sha256}"
