"""``lineside checkpoints``: the checkpoints of a run, and where each of them is."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import typer

from lineside.bus.errors import LinesideError
from lineside.bus.protocol.checkpoints import ARCHIVED, CORRUPT
from lineside.bus.terminal_text import printable
from lineside.cli.checkpoints.archive_source import NamedArchive, RunSource, find_run
from lineside.cli.checkpoints.catalog import CatalogEntry, read_catalog
from lineside.cli.checkpoints.wholeness import newest_whole, whole_folder
from lineside.cli.output import local_time, print_json, table, warn
from lineside.dashboard import formatting
from lineside.store.archive.errors import ArchiveCorrupt
from lineside.store.history.checkpoints import main_metric

if TYPE_CHECKING:
    pass


class NoWholeCheckpoint(LinesideError):
    """No checkpoint of the run is whole, or none on this machine."""


def list_checkpoints(
    run: str, named: NamedArchive, *, only_newest_whole: bool, only_paths: bool, json: bool
) -> None:
    """Print the checkpoints of ``run``, the newest first.

    The archive is read if the command line names it or the store does not have the run; otherwise
    what the archiver has reported counts.
    """
    source = find_run(run, named.open)
    archive = source.archive or (named.require() if named.url else None)
    entries = read_catalog(source.run, source.history, archive)
    if only_newest_whole:
        entries = [_newest_whole(entries, source, named, only_paths)]
    if json:
        print_json({"run": source.run, "items": [_as_json(entry) for entry in entries]})
    elif only_paths:
        for entry in entries:
            if folder := whole_folder(entry, source.history):
                typer.echo(folder)
    elif entries:
        _print_table(entries)
    else:
        warn(f"run {source.run} has no checkpoints")


def _newest_whole(
    entries: Sequence[CatalogEntry], source: RunSource, named: NamedArchive, here: bool
) -> CatalogEntry:
    """The newest whole one; ``here``: it has to be on this machine."""
    run, found = source.run, newest_whole(entries, source.history)
    if found is None:
        raise NoWholeCheckpoint(
            f"no checkpoint of {run} is whole, on this machine or in the archive; "
            f"`lineside checkpoints {run}` lists them"
        )
    entry, folder = found
    if here and folder is None:
        options = ["--step", str(entry.step), "--to", "DIR", *named.words]
        command = shlex.join(["lineside", "restore", run, *options])
        raise NoWholeCheckpoint(
            f"the newest whole checkpoint of {run}, of step {entry.step:,}, is only in the "
            f"archive: `{command}` restores it"
        )
    return entry


def _print_table(entries: Sequence[CatalogEntry]) -> None:
    now = datetime.now(timezone.utc)
    header = ("STEP", "SAVED", "STATE", "SIZE", "METRIC", "MARKS", "WHERE")
    typer.echo(table(header, [_row(entry, now) for entry in entries], right=(0, 3)))
    for entry in entries:
        for note in _notes(entry):
            superseded = "" if entry.counts else " (superseded)"
            typer.echo(f"step {entry.step:,}{superseded}: {printable(note)}")


def _row(entry: CatalogEntry, now: datetime) -> tuple[str, ...]:
    record = entry.record
    if record is None and entry.key is None:
        return (f"{entry.step:,}", "", "not recorded", "", "", "", "local")
    if record is not None:
        saved_at, bytes_, metrics = record.time, record.bytes, record.metrics
    else:
        try:
            facts = entry.manifest.facts
        except ArchiveCorrupt:
            return (f"{entry.step:,}", "", CORRUPT, "", "", "", "archived")
        saved_at = datetime.fromtimestamp(facts.saved_at, timezone.utc)
        bytes_, metrics = entry.manifest.size, facts.metrics
    return (
        f"{entry.step:,}",
        formatting.ago(saved_at, now),
        _state(entry),
        "" if bytes_ is None else formatting.size(bytes_),
        _metric(metrics),
        ", ".join(_marks(entry)),
        ", ".join(_places(entry)),
    )


def _state(entry: CatalogEntry) -> str:
    record = entry.record
    if record is None or (entry.is_archived and not record.is_archived):
        return ARCHIVED
    if record.is_archived and not entry.is_archived:
        return "missing"  # the archive, which was read, does not have it
    if record.copied is not None:
        return f"{record.state} {100 * record.copied:.0f} %"
    return record.state or "not archived"


def _metric(metrics: Mapping[str, float]) -> str:
    shown = main_metric(metrics)
    return f"{shown[0]} {formatting.number(shown[1])}" if shown else ""


def _marks(entry: CatalogEntry) -> list[str]:
    record = entry.record
    names = ("best", "last", "pinned")
    marks = [name for name in names if record is not None and getattr(record, name)]
    return marks if entry.counts else [*marks, "superseded"]


def _places(entry: CatalogEntry) -> list[str]:
    places = {"local": entry.folder, "held": entry.hold, "archived": entry.is_archived or None}
    found = [name for name, place in places.items() if place is not None]
    if found or entry.record is None:
        return found
    return ["gone"] if entry.record.deleted else ["not on this machine"]


def _notes(entry: CatalogEntry) -> list[str]:
    record = entry.record
    if record is None:
        return []
    notes = [record.why] if record.why else []
    if record.retry_at is not None:
        notes.append(f"it is tried again at {local_time(record.retry_at)}")
    if record.requested:
        notes.append(f"{record.requested_by} asked to {record.requested} it")
    if record.refused:
        notes.append(f"not done as asked: {record.refused}")
    return notes


def _as_json(entry: CatalogEntry) -> dict[str, Any]:
    """As in the API, and where it is; what neither record nor manifest has is null."""
    from lineside.dashboard.api.checkpoint_models import Checkpoint

    document: dict[str, Any] = dict.fromkeys(Checkpoint.model_fields)
    if entry.record is not None:
        document |= Checkpoint.from_store(entry.record).model_dump(mode="json")
    else:
        document |= {"attempt": entry.attempt, "step": entry.step, **_unrecorded(entry)}
    return document | {
        "counts": entry.counts,
        "folder": entry.folder and str(entry.folder),
        "hold": entry.hold and str(entry.hold),
        "in_archive": entry.is_archived,
    }


def _unrecorded(entry: CatalogEntry) -> dict[str, Any]:
    """What the manifest has of a checkpoint without a record."""
    if entry.key is None:
        return {"path": entry.path}
    try:
        manifest = entry.manifest
    except ArchiveCorrupt as error:
        return {"state": CORRUPT, "why": str(error)}
    facts = manifest.facts
    time = datetime.fromtimestamp(facts.saved_at, timezone.utc)
    return {
        "epoch": facts.epoch,
        "time": time.isoformat(),
        "path": facts.checkpoint,
        "metrics": dict(facts.metrics),
        "state": ARCHIVED,
        "bytes": manifest.size,
        "files": len(manifest.files),
    }
