"""Archives in a folder, and the checkpoints that they are made of."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from lineside.store.archive.location import ArchiveLocation, open_archive
from lineside.store.archive.manifest import CheckpointFacts, Manifest
from lineside.store.archive.source_file import of_folder

RUN = "bert-20261129-070000-abc123"
ATTEMPT = "20261129T070000.000-0001"
SAVED_AT = 1_764_400_000.0


def checkpoint(folder: Path, step: int) -> Path:
    """A checkpoint of ``step`` below ``folder``; its weights are those of no other step."""
    path = folder / f"checkpoint-{step}"
    (path / "merged").mkdir(parents=True)
    (path / "model.bin").write_bytes(os.urandom(5000))
    (path / "merged" / "config.json").write_text('{"layers": 2}')
    return path


def archive_checkpoint(
    url: Path | ArchiveLocation,
    path: Path,
    step: int,
    *,
    run: str = RUN,
    attempt: str = ATTEMPT,
    metrics: Mapping[str, float] | None = None,
    saved_as: Path | None = None,
) -> Manifest:
    """Archive in ``url`` what is at ``path``: the checkpoint, or the hold of ``saved_as``."""
    place = str(saved_as or path)
    facts = CheckpointFacts(
        run, attempt, step, place, SAVED_AT + step, world_size=1, metrics=metrics or {}
    )
    location = url if isinstance(url, ArchiveLocation) else ArchiveLocation(str(url))
    archive = open_archive(location)
    _, manifest, _ = archive.write_checkpoint(
        facts, of_folder(path), lambda _: None, threading.Event()
    )
    return manifest


def part_of(url: Path, manifest: Manifest, file: str, run: str = RUN) -> Path:
    """The object of the first part of ``file``."""
    (found,) = (one for one in manifest.files if one.path == file)
    sha256 = found.parts[0].sha256
    return url / "runs" / run / "parts" / sha256[:2] / sha256


def manifest_of(url: Path, step: int, run: str = RUN) -> Path:
    """The object of the manifest of ``step``."""
    (found,) = (url / "runs" / run / "checkpoints").glob(f"{step:012}-*.json")
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of each file below ``folder``."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
