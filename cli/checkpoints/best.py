"""Decides which archived checkpoint of a run is the best one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lineside.bus.errors import UsageError
from lineside.cli.checkpoints.catalog import CatalogEntry
from lineside.store.archive.errors import ArchiveCorrupt
from lineside.subscribers.archiver.policy import KeepOptions, KnownCheckpoint, decide

if TYPE_CHECKING:
    from lineside.store.archive.manifest import Manifest

_MONITORS = ("eval_loss", "loss")


def best_entry(
    entries: Sequence[CatalogEntry], run: str, monitor: Sequence[str], mode: str
) -> CatalogEntry:
    """The best of ``entries``: as the store has it, or else by the metrics of their manifests.

    ``monitor`` are the metrics that decide, by default the loss of the evaluation or the loss.

    Raises:
        UsageError: it is not in the archive, or none has such a metric.
    """
    marked = [entry for entry in entries if entry.record is not None and entry.record.best]
    if marked:
        if marked[0].key is None:
            raise UsageError(
                f"the best checkpoint of {run}, of step {marked[0].step:,}, is not in the archive; "
                f"`lineside checkpoints {run}` lists them"
            )
        return marked[0]
    known = []
    for entry in entries:
        if entry.key is not None:
            with contextlib.suppress(ArchiveCorrupt):
                known.append((_known(entry.manifest), entry))
    for metrics in [monitor] if monitor else [[name] for name in _MONITORS]:
        options = KeepOptions(monitor=metrics, mode=mode)
        for decision in decide([one for one, _ in known], options):
            if decision.is_best:
                return next(entry for one, entry in known if one is decision.checkpoint)
    raise UsageError(
        f"no archived checkpoint of {run} has the metric {' or '.join(monitor or _MONITORS)}; "
        f"`lineside checkpoints {run}` lists them, and --step N restores one"
    )


def _known(manifest: Manifest) -> KnownCheckpoint:
    facts = manifest.facts
    return KnownCheckpoint(
        facts.attempt, facts.step, facts.checkpoint, facts.saved_at, facts.metrics, is_archived=True
    )
