"""Archives in real places: a folder, rclone and moto; and checkpoints of random bytes."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

from lineside.store.archive import writing
from lineside.store.archive.archive import Archive, Progress, Written
from lineside.store.archive.keys import ManifestKey
from lineside.store.archive.location import ArchiveLocation, open_archive
from lineside.store.archive.manifest import CheckpointFacts, Manifest
from lineside.store.archive.source_file import of_folder
from tests.faults.conftest import small_disk
from tests.support.object_stores import (
    BUCKET,
    ObjectServer,
    moto_server,
    rclone_server,
)

__all__ = ["small_disk"]

PART = 1 << 16
RUN = "run-1"


@dataclass
class Place:
    """An archive, and its objects past the archive, in ``root``."""

    location: ArchiveLocation
    root: Path | S3Store
    archive: Archive = field(init=False)

    def __post_init__(self) -> None:
        self.archive = self.open()

    def open(self, **options: Any) -> Archive:
        return open_archive(self.location, **options)

    def sizes(self) -> dict[str, int]:
        """The objects by key."""
        if isinstance(self.root, Path):
            files = [file for file in self.root.rglob("*") if file.is_file()]
            return {str(file.relative_to(self.root)): file.stat().st_size for file in files}
        return {entry["path"]: entry["size"] for entry in obstore.list(self.root).collect()}

    def read(self, key: str) -> bytes:
        if isinstance(self.root, Path):
            return (self.root / key).read_bytes()
        return bytes(obstore.get(self.root, key).bytes())

    def write(self, key: str, data: bytes) -> None:
        if isinstance(self.root, Path):
            (self.root / key).write_bytes(data)
        else:
            obstore.put(self.root, key, data, use_multipart=False)

    def remove(self, key: str) -> None:
        if isinstance(self.root, Path):
            (self.root / key).unlink()
        else:
            obstore.delete(self.root, key)


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with rclone_server(tmp_path_factory.mktemp("rclone")) as rclone:
        yield rclone.server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(params=["folder", "rclone", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path, small_parts: None) -> Place:
    """An empty archive in each kind of place."""
    if request.param == "folder":
        root = tmp_path / "archive"
        return Place(ArchiveLocation(str(root)), root)
    prefix = f"test-{random.getrandbits(64):x}"
    url = f"s3://{BUCKET}/{prefix}"
    server: ObjectServer = request.getfixturevalue(request.param)
    return Place(ArchiveLocation(url, server.options()), server.objects(prefix))


@pytest.fixture
def folder(tmp_path: Path, small_parts: None) -> Place:
    """An empty archive in a folder."""
    root = tmp_path / "archive"
    return Place(ArchiveLocation(root.as_uri()), root)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 64 KiB, so that a small file has many."""
    monkeypatch.setattr(writing, "PART_BYTES", PART)


def make_checkpoint(folder: Path, seed: int = 0, size: int = 5 * PART + 100) -> Path:
    """A checkpoint: a large file, a small one, an empty one, and one in a folder below."""
    noise = random.Random(seed)
    (folder / "merged").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(noise.randbytes(size))
    (folder / "optimizer.pt").write_bytes(noise.randbytes(2 * PART))
    (folder / "trainer_state.json").write_text(f'{{"global_step": {seed}}}')
    (folder / "merged" / "empty.txt").write_bytes(b"")
    (folder / "merged" / "config.json").write_text("{}")
    return folder


def facts_of(checkpoint: Path, step: int = 5, **more: Any) -> CheckpointFacts:
    values = {"run": RUN, "attempt": "20261129T101112.131-ab12", "saved_at": 1.5, **more}
    return CheckpointFacts(step=step, checkpoint=str(checkpoint), **values)


def write(
    archive: Archive, checkpoint: Path, step: int = 5, **more: Any
) -> tuple[ManifestKey, Manifest, Written]:
    return archive.write_checkpoint(
        facts_of(checkpoint, step, **more), of_folder(checkpoint), ignore, threading.Event()
    )


def ignore(progress: Progress) -> None:
    pass


def contents(folder: Path) -> Mapping[str, bytes]:
    """The files below a folder."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
