"""When a checkpoint of a run last reached the archive."""

from __future__ import annotations

from collections.abc import Iterable

from lineside.store.history.checkpoints import Checkpoint


class ArchiveTrack:
    """Follows which checkpoints the archive has.

    A state that is reported again, as when a checkpoint is pinned or is no longer the last one, is
    no new copy. Of those that the archive had when the run was met, the newest report counts.
    """

    def __init__(self) -> None:
        self.last_at: float | None = None
        """When the last one was archived, in seconds since the epoch; None if none ever was."""
        self._there: frozenset[str] = frozenset()

    def add(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Take in all checkpoints of the run."""
        there = {one.id: one.state_at for one in checkpoints if one.is_archived}
        new = [at.timestamp() for id_, at in there.items() if at and id_ not in self._there]
        if new:
            self.last_at = max(new)
        self._there = frozenset(there)
