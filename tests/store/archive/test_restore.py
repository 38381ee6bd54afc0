"""Restores: into a folder that does not exist yet, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.file_lock import FileLock
from lineside.store.archive.archive import Progress
from lineside.store.archive.errors import (
    ArchiveCorrupt,
    ArchiveDenied,
    ArchiveUnavailable,
    RestoreRefused,
)
from lineside.store.archive.keys import ManifestKey
from lineside.store.archive.location import ArchiveLocation, open_archive
from lineside.store.archive.manifest import Manifest, ManifestFile
from tests.store.archive.conftest import (
    RUN,
    Place,
    contents,
    facts_of,
    make_checkpoint,
    write,
)


@pytest.fixture
def manifest(folder: Place, tmp_path: Path) -> Manifest:
    """That of an archived checkpoint of ten parts."""
    return write(folder.archive, make_checkpoint(tmp_path / "checkpoint-5"))[1]


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "link to nowhere"])
def test_a_target_that_exists_is_refused_and_left_alone(
    folder: Place, manifest: Manifest, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "target"
    if kind.endswith("folder"):
        target.mkdir()
        if kind == "folder":
            (target / "mine").write_text("x")
    elif kind == "file":
        target.write_text("x")
    else:
        target.symlink_to(tmp_path / "missing")
    before = (target.lstat(), contents(target))
    with pytest.raises(RestoreRefused, match="exists: name a folder that does not exist yet"):
        folder.archive.restore(manifest, target)
    assert (target.lstat(), contents(target)) == before
    assert not list(tmp_path.glob(".*"))


def test_what_a_killed_restore_left_is_removed_by_the_next(
    folder: Place, manifest: Manifest, tmp_path: Path
) -> None:
    left = tmp_path / ".target.restoring"
    (left / "merged").mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    (left / "merged" / "other").write_bytes(b"half")
    folder.archive.restore(manifest, tmp_path / "target")
    assert contents(tmp_path / "target") == contents(tmp_path / "checkpoint-5")
    assert not left.exists()


def test_a_second_restore_to_the_same_target_is_refused(
    folder: Place, manifest: Manifest, tmp_path: Path
) -> None:
    left = tmp_path / ".target.restoring"
    left.mkdir()
    with FileLock(left), pytest.raises(RestoreRefused, match="another restore"):
        folder.archive.restore(manifest, tmp_path / "target")
    folder.archive.restore(manifest, tmp_path / "target")


def test_a_target_that_appears_meanwhile_is_left_alone(
    folder: Place, manifest: Manifest, tmp_path: Path
) -> None:
    target = tmp_path / "target"

    def appear(progress: Progress) -> None:
        target.mkdir(exist_ok=True)

    archive = folder.open(bytes_per_second=manifest.size)
    with pytest.raises(RestoreRefused, match="exists"):
        archive.restore(manifest, target, appear)
    assert list(target.iterdir()) == []


def test_a_disk_without_room_refuses_a_restore_before_and_while_it_is_written(
    folder: Place,
    manifest: Manifest,
    small_disk: Callable[[str, int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = small_disk("small", 256 << 10)
    with pytest.raises(RestoreRefused, match=f"the checkpoint needs {manifest.size:,}"):
        folder.archive.restore(manifest, disk / "target")
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Plenty)
    with pytest.raises(RestoreRefused, match="became full: free some of it"):
        folder.archive.restore(manifest, disk / "target")
    assert list(disk.iterdir()) == []


class _Plenty:
    free = 1 << 60


def test_a_target_that_cannot_be_made_is_refused(
    folder: Place, manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RestoreRefused, match="cannot be written"):
        folder.archive.restore(manifest, tmp_path / "file" / "target")


def test_a_full_disk_under_an_archive_is_an_outage_and_leaves_no_checkpoint(
    small_disk: Callable[[str, int], Path], small_parts: None, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5")
    disk = small_disk("small", 256 << 10)
    archive = open_archive(ArchiveLocation(str(disk / "archive")))
    with pytest.raises(ArchiveUnavailable, match=r"the disk of the archive in .* is full"):
        write(archive, checkpoint)
    assert archive.entries(RUN) == []
    assert not list(disk.rglob("*.tmp"))


def test_an_archive_in_a_folder_that_cannot_be_made_is_denied(
    small_parts: None, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    archive = open_archive(ArchiveLocation(str(tmp_path / "file" / "archive")))
    with pytest.raises(ArchiveDenied, match="one that this user can write to"):
        write(archive, make_checkpoint(tmp_path / "checkpoint-5"))


def _forged(folder: Place, change: Callable[[dict[str, Any]], None]) -> ManifestKey:
    """The key of a manifest of which ``change`` made another, with its right name."""
    [key] = folder.archive.entries(RUN)
    values = json.loads(folder.read(str(key)))
    change(values)
    body = json.dumps(values).encode()
    forged = ManifestKey(RUN, key.step, key.attempt, hashlib.sha256(body).hexdigest()[:12])
    folder.write(str(forged), body)
    return forged


def _set(**entry: object) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        values["files"][-1].update(entry)

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_set(path="../../escaped"), "no plain path below the checkpoint"),
        (_set(path="/escaped"), "no plain path below the checkpoint"),
        (_set(path="a/../../escaped"), "no plain path below the checkpoint"),
        (_set(path="optimizer.pt"), "is there twice"),
        (_set(path="optimizer.pt/x"), "is a file and a folder"),
        (_set(size=-1), "expected a whole number from 0"),
        (_set(size=1 << 50), "and its parts have others"),
        (_set(parts=[{"sha256": "../../x", "size": 1}]), "no SHA-256 in hexadecimal digits"),
        (lambda values: values.update(run="other"), "is that of step 5 of other"),
        (lambda values: values.update(format=2), "upgrade Lineside"),
        (lambda values: values.update(bytes=1), "its files have"),
        (lambda values: values.clear(), "it has format None"),
    ],
)
def test_a_hostile_manifest_is_refused(
    folder: Place,
    manifest: Manifest,
    change: Callable[[dict[str, Any]], None],
    problem: str,
) -> None:
    key = _forged(folder, change)
    with pytest.raises(ArchiveCorrupt) as raised:
        folder.archive.read_manifest(key)
    assert problem in str(raised.value)


def test_bytes_that_are_no_json_are_refused(folder: Place, manifest: Manifest) -> None:
    body = b"\xff{"
    key = ManifestKey(RUN, 5, "a", hashlib.sha256(body).hexdigest()[:12])
    folder.write(str(key), body)
    with pytest.raises(ArchiveCorrupt, match="it is no JSON"):
        folder.archive.read_manifest(key)


def test_metrics_that_json_does_not_know_are_left_out(folder: Place, tmp_path: Path) -> None:
    facts = facts_of(tmp_path, metrics={"loss": float("nan"), "eval_loss": 1.0})
    text = Manifest(facts, (ManifestFile("a", 0, ()),), 1.0).to_json()
    assert Manifest.from_json(text).facts.metrics == {"eval_loss": 1.0}
