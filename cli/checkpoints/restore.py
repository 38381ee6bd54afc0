"""``lineside restore RUN --to DIR``: a checkpoint from the archive, verified."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lineside.bus.errors import LinesideError, UsageError
from lineside.bus.wording import plural
from lineside.cli.checkpoints.archive_source import NamedArchive, find_run
from lineside.cli.checkpoints.catalog import CatalogEntry, at_step, read_catalog
from lineside.cli.checkpoints.progress import ByteProgress
from lineside.cli.checkpoints.requests import request_check
from lineside.cli.output import print_json, warn
from lineside.dashboard.formatting import size
from lineside.store.archive.errors import ArchiveCorrupt
from lineside.subscribers.archiver.policy import KeepOptions, KnownCheckpoint, decide

if TYPE_CHECKING:
    from lineside.store.archive.archive import Archive
    from lineside.store.archive.manifest import Manifest

_MONITORS = ("eval_loss", "loss")
"""The metrics that decide which checkpoint is best where none is configured."""


class CheckpointDamaged(LinesideError):
    """Objects of the checkpoint are faulty in the archive; nothing was restored."""


@dataclass(frozen=True)
class Wanted:
    """Which checkpoint to restore: that of ``step``, the best, or else the last.

    Of all attempts, or of ``attempt``.
    """

    step: int | None
    best: bool
    last: bool
    attempt: str | None = None

    def __post_init__(self) -> None:
        if sum((self.step is not None, self.best, self.last)) > 1:
            raise UsageError("expected one of --step, --best and --last")


def restore_checkpoint(run: str, wanted: Wanted, to: Path, named: NamedArchive, json: bool) -> None:
    """Restore a checkpoint to ``to``, which must not exist, and print what was restored."""
    target = to.expanduser().absolute()
    if os.path.lexists(target):
        raise UsageError(f"--to {to}: it exists; expected the path of a folder that does not yet")
    archive = named.require()
    source = find_run(run, lambda: archive)
    catalog = read_catalog(source.run, source.history, archive, wanted.attempt)
    archived = [entry for entry in catalog if entry.key is not None]
    if not archived:
        raise UsageError(f"run {source.run} has no checkpoint in the archive {archive.url}")
    if wanted.step is not None:
        entry = at_step(archived, source.run, wanted.step)
    elif wanted.best:
        entry = best_entry(catalog, source.run, named.monitor, named.mode)
    else:
        entry = archived[0]
    try:
        manifest = entry.manifest
        with ByteProgress(f"step {entry.step:,}", manifest.size) as progress:
            archive.restore(manifest, target, progress.show)
    except ArchiveCorrupt as error:
        warn(f"{error}; looking for the newest sound checkpoint")
        request_check([entry])
        by_step: dict[int, CatalogEntry] = {}
        for one in archived:
            by_step.setdefault(one.step, one)  # that which --step restores
        others = [one for one in by_step.values() if one.step != entry.step]
        of_attempt = ["--attempt", wanted.attempt] if wanted.attempt else []
        command = ["lineside", "restore", source.run, "--to", str(to), *of_attempt, *named.words]
        raise CheckpointDamaged(
            f"step {entry.step:,} of {source.run} is damaged in the archive and was not restored. "
            + _offer(newest_sound(archive, others), command)
        ) from error
    _print(entry, manifest, target, json)


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


def newest_sound(archive: Archive, entries: Sequence[CatalogEntry]) -> CatalogEntry | None:
    """The first of ``entries`` whose objects are all sound: they are read back."""
    for entry in entries:
        try:
            manifest = entry.manifest
        except ArchiveCorrupt:
            continue
        with ByteProgress(f"checking step {entry.step:,}", manifest.size) as progress:
            if not archive.find_faults(manifest, progress.show):
                return entry
    return None


def _offer(sound: CatalogEntry | None, command: Sequence[str]) -> str:
    if sound is None:
        return "No other checkpoint of the run in the archive is sound"
    words = shlex.join([*command, "--step", str(sound.step)])
    return f"The newest sound one is of step {sound.step:,}: {words}"


def _print(entry: CatalogEntry, manifest: Manifest, target: Path, json: bool) -> None:
    scrubbed = [file.path for file in manifest.files if file.scrubbed]
    if json:
        facts = {"run": entry.run, "attempt": entry.attempt, "step": entry.step}
        counts = {"files": len(manifest.files), "bytes": manifest.size, "scrubbed": scrubbed}
        print_json({**facts, "to": str(target), **counts})
        return
    files = plural(len(manifest.files), "file")
    typer.echo(f"{target}: step {entry.step:,} of {entry.run}, {files}, {size(manifest.size)}")
    if scrubbed:
        warn(f"secrets were removed from {', '.join(scrubbed)} before it was archived")
