"""``lineside verify``: reads archived checkpoints back and compares them with their manifests."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer

from lineside.bus.errors import UsageError
from lineside.bus.terminal_text import printable
from lineside.bus.wording import plural
from lineside.cli.checkpoints.archive_source import NamedArchive, find_run
from lineside.cli.checkpoints.catalog import CatalogEntry, at_step, read_catalog
from lineside.cli.checkpoints.progress import ByteProgress
from lineside.cli.checkpoints.requests import request_check
from lineside.cli.output import print_json
from lineside.dashboard.formatting import size
from lineside.store.archive.errors import ArchiveCorrupt, Fault

if TYPE_CHECKING:
    from lineside.store.archive.archive import Archive


@dataclass(frozen=True)
class Verified:
    """What reading one checkpoint back has found; ``bytes`` is 0 if its manifest is faulty."""

    entry: CatalogEntry
    bytes: int
    faults: tuple[Fault, ...]


def verify_run(
    run: str, step: int | None, attempt: str | None, named: NamedArchive, json: bool
) -> None:
    """Read the checkpoints of ``run`` back and print what is found.

    Only that of ``step`` and those of ``attempt``, if these are given.

    Raises:
        typer.Exit: with code 1, if an object is faulty.
    """
    archive = named.require()
    source = find_run(run, lambda: archive)
    catalog = read_catalog(source.run, source.history, archive, attempt)
    entries = [entry for entry in catalog if entry.is_archived or _is_missing(entry)]
    if step is not None:
        entries = [at_step(entries, source.run, step)]
    if not entries:
        raise UsageError(f"run {source.run} has no checkpoint in the archive {archive.url}")
    found = []
    for entry in entries:
        found.append(_verify(archive, entry))
        if not json:
            typer.echo(_text(found[-1]))
    is_sound = not any(one.faults for one in found)
    if json:
        items = [_as_json(one) for one in found]
        print_json({"run": source.run, "archive": archive.url, "ok": is_sound, "items": items})
    if not is_sound:
        request_check([one.entry for one in found if one.faults])
        raise typer.Exit(1)


def _is_missing(entry: CatalogEntry) -> bool:
    """Whether the archiver has reported it as archived, and the archive does not have it."""
    return entry.key is None and entry.record is not None and entry.record.is_archived


def _verify(archive: Archive, entry: CatalogEntry) -> Verified:
    if _is_missing(entry):
        fault = Fault("its manifest", "is missing; the store has the checkpoint as archived")
        return Verified(entry, 0, (fault,))
    try:
        manifest = entry.manifest
    except ArchiveCorrupt as error:
        return Verified(entry, 0, error.faults)
    with ByteProgress(f"step {entry.step:,}", manifest.size) as progress:
        return Verified(entry, manifest.size, tuple(archive.find_faults(manifest, progress.show)))


def _text(verified: Verified) -> str:
    title = f"step {verified.entry.step:,}"
    if not verified.faults:
        return f"{title}: sound, {size(verified.bytes)}"
    faults = [f"  {printable(str(fault))}" for fault in verified.faults]
    return "\n".join((f"{title}: {plural(len(faults), 'faulty object')}", *faults))


def _as_json(verified: Verified) -> dict[str, object]:
    entry = verified.entry
    return {
        "attempt": entry.attempt,
        "step": entry.step,
        "manifest": None if entry.key is None else str(entry.key),
        "bytes": verified.bytes,
        "ok": not verified.faults,
        "faults": [asdict(fault) for fault in verified.faults],
    }
