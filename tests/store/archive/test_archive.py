"""An archive in a folder, in rclone and in moto: written, read back, checked, restored, freed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lineside.store.archive.archive import Progress
from lineside.store.archive.errors import (
    ArchiveCorrupt,
    ArchiveLocationError,
    ArchiveStopped,
    ArchiveUnavailable,
)
from lineside.store.archive.keys import ManifestKey
from lineside.store.archive.manifest import Manifest
from lineside.store.archive.source_file import of_folder
from lineside.store.archive.writing import CheckpointWriter
from tests.store.archive.conftest import (
    PART,
    RUN,
    Place,
    contents,
    facts_of,
    ignore,
    make_checkpoint,
    write,
)


def test_a_restored_checkpoint_has_the_bytes_and_facts_that_were_saved(
    place: Place, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5")
    seen: list[Progress] = []
    key, manifest, written = place.archive.write_checkpoint(
        facts_of(checkpoint, metrics={"eval_loss": 0.5}, name="a run", world_size=2),
        of_folder(checkpoint),
        seen.append,
        threading.Event(),
    )
    assert (
        written.bytes
        == written.sent
        == manifest.size
        == sum(map(len, contents(checkpoint).values()))
    )
    assert seen[-1] == Progress(written.bytes, written.bytes, written.bytes)
    # Another process, which knows nothing but the URL:
    archive = place.open()
    assert archive.runs() == [RUN]
    assert archive.entries(RUN) == [key]
    assert archive.read_manifest(key) == manifest
    assert archive.find_faults(manifest) == []
    target = tmp_path / "restored" / "checkpoint-5"
    archive.restore(manifest, target, seen.append)
    assert contents(target) == contents(checkpoint)
    assert seen[-1] == Progress(written.bytes, written.bytes)
    assert [entry.name for entry in target.parent.iterdir()] == ["checkpoint-5"]


def test_a_checkpoint_of_which_half_was_sent_is_not_there_and_the_rest_is_sent_later(
    place: Place, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5")
    whole = write(place.archive, checkpoint)
    place.archive.delete_checkpoint(whole[0])
    lost = _part_keys(whole[1])[:3]
    for key in lost:
        place.remove(key)
    assert place.archive.entries(RUN) == []
    _, _, written = write(place.open(), checkpoint)
    assert written.sent == sum(part.size for part in whole[1].parts() if _key(part.sha256) in lost)
    assert written.stored == whole[2].stored


def test_a_write_that_is_stopped_leaves_no_checkpoint(place: Place, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5", size=40 * PART)
    stop = threading.Event()
    stop.set()
    with pytest.raises(ArchiveStopped):
        place.open(bytes_per_second=PART).write_checkpoint(
            facts_of(checkpoint), of_folder(checkpoint), ignore, stop
        )
    assert place.archive.entries(RUN) == []
    _, manifest, _ = write(place.archive, checkpoint)
    with pytest.raises(ArchiveStopped):
        place.open(bytes_per_second=PART).find_faults(manifest, stop=stop)


def test_parts_that_two_checkpoints_share_are_stored_once(place: Place, tmp_path: Path) -> None:
    first = make_checkpoint(tmp_path / "checkpoint-5")
    second = make_checkpoint(tmp_path / "checkpoint-10")
    (second / "optimizer.pt").write_bytes(b"other" * PART)
    write(place.archive, first)
    key, manifest, written = write(place.archive, second, step=10)
    assert written.sent == len(b"other" * PART)
    assert written.bytes == written.stored > written.sent
    assert [entry.step for entry in place.archive.entries(RUN)] == [10, 5]
    assert place.archive.find_faults(manifest) == []
    # Without the first, what only it named goes, and the second stays whole.
    place.archive.delete_checkpoint(place.archive.entries(RUN)[1])
    collected = place.archive.collect_garbage(RUN)
    assert (collected.parts, collected.bytes) == (2, 2 * PART)
    assert place.archive.find_faults(manifest) == []
    assert place.archive.entries(RUN) == [key]
    place.archive.delete_checkpoint(key)
    place.archive.collect_garbage(RUN)
    assert place.sizes() == {}
    assert place.archive.runs() == []


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("corrupt", "has another SHA-256 than its name"),
        ("truncate", f"has 100 bytes, and the manifest {PART}"),
        ("extend", "is longer than"),
        ("swap", "has another SHA-256 than its name"),
        ("remove", "is missing"),
    ],
)
def test_a_damaged_part_is_found_refused_and_replaced(
    place: Place, tmp_path: Path, damage: str, problem: str
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5")
    _, manifest, _ = write(place.archive, checkpoint)
    first, second, *_ = _part_keys(manifest)
    data = place.read(first)
    if damage == "remove":
        place.remove(first)
    elif damage == "swap":
        place.write(first, place.read(second))
    else:
        changed = {"corrupt": data[:-1] + bytes([data[-1] ^ 1]), "truncate": data[:100]}
        place.write(first, changed.get(damage, data + b"x"))
    [fault] = place.archive.find_faults(manifest)
    assert fault.key == first
    assert problem in fault.problem
    target = tmp_path / "restored" / "checkpoint-5"
    with pytest.raises(ArchiveCorrupt, match="step 5 of run-1 is damaged") as raised:
        place.archive.restore(manifest, target)
    assert raised.value.faults == (fault,)
    assert list(target.parent.iterdir()) == []
    place.archive.remove_faulty([fault])
    _, manifest, written = write(place.archive, checkpoint)
    assert written.sent == PART
    assert place.archive.find_faults(manifest) == []


def test_a_part_that_was_cut_short_is_sent_again(place: Place, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5")
    _, manifest, _ = write(place.archive, checkpoint)
    place.write(_part_keys(manifest)[0], b"short")
    _, manifest, written = write(place.archive, checkpoint)
    assert written.sent == PART
    assert place.archive.find_faults(manifest) == []


def test_a_swapped_or_edited_manifest_is_refused(place: Place, tmp_path: Path) -> None:
    first = write(place.archive, make_checkpoint(tmp_path / "checkpoint-5"))[0]
    second = write(place.archive, make_checkpoint(tmp_path / "checkpoint-10", seed=1), step=10)[0]
    place.write(str(first), place.read(str(second)))
    with pytest.raises(ArchiveCorrupt, match="has another SHA-256 than the 12 digits in its name"):
        place.archive.read_manifest(first)
    with pytest.raises(ArchiveCorrupt):
        place.archive.collect_garbage(RUN)
    assert place.archive.find_faults(place.archive.read_manifest(second)) == []
    place.archive.delete_checkpoint(first)
    with pytest.raises(ArchiveCorrupt, match="is missing"):
        place.archive.read_manifest(first)


def test_a_checkpoint_that_is_there_keeps_its_manifest_and_a_newer_save_replaces_it(
    place: Place, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5")
    first, manifest, _ = write(place.archive, checkpoint)
    again, same, written = write(place.archive, checkpoint)
    assert (again, same, written.sent) == (first, manifest, 0)
    (checkpoint / "trainer_state.json").write_text("{}")
    newer, _, _ = write(place.archive, checkpoint)
    assert place.archive.entries(RUN) == [newer] != [first]
    # One of the same step at another path is another checkpoint.
    write(place.archive, make_checkpoint(tmp_path / "elsewhere" / "checkpoint-5"))
    assert len(place.archive.entries(RUN)) == 2


def test_parts_that_the_archive_lost_meanwhile_fail_the_write(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5")
    key, manifest, _ = write(place.archive, checkpoint)
    place.archive.delete_checkpoint(key)
    check_parts = CheckpointWriter._check_parts
    lost = _part_keys(manifest)[1]

    async def lose_one(writer: CheckpointWriter, written: object) -> None:
        place.remove(lost)
        await check_parts(writer, manifest)

    monkeypatch.setattr(CheckpointWriter, "_check_parts", lose_one)
    with pytest.raises(ArchiveUnavailable, match=lost):
        write(place.archive, checkpoint)
    assert place.archive.entries(RUN) == []


@pytest.mark.parametrize("run", ["../other", "a/b", ".hidden", "-x", "", "a\0b", "x" * 129, "ü"])
def test_a_run_id_that_would_leave_its_place_is_refused(
    folder: Place, tmp_path: Path, run: str
) -> None:
    with pytest.raises(ArchiveLocationError):
        write(folder.archive, make_checkpoint(tmp_path / "checkpoint-5"), run=run)
    with pytest.raises(ArchiveLocationError):
        folder.archive.entries(run)
    with pytest.raises(ArchiveLocationError):
        folder.archive.delete_checkpoint(ManifestKey(run, 1, "a", "0" * 12))
    assert not folder.sizes()


def test_entries_are_the_newest_first_and_other_files_are_no_checkpoints(
    folder: Place, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5")
    for attempt, step in (("20260102-a", 5), ("20260101-b", 90), ("20260102-a", 40)):
        write(folder.archive, checkpoint, step, attempt=attempt)
    (tmp_path / "archive/runs/run-1/checkpoints/notes.json").write_text("{}")
    (tmp_path / "archive/runs/run-1/checkpoints/.x.json").write_text("{}")
    found = [(key.attempt, key.step) for key in folder.archive.entries(RUN)]
    assert found == [("20260102-a", 40), ("20260102-a", 5), ("20260101-b", 90)]
    assert folder.archive.entries("unknown") == []


def test_what_killed_writes_left_is_removed(folder: Place, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5")
    key, manifest, _ = write(folder.archive, checkpoint)
    left = tmp_path / "archive" / Path(_part_keys(manifest)[0]).parent / ".0123.tmp"
    left.write_bytes(b"half")
    folder.archive.collect_garbage(RUN)
    assert not left.exists()
    left.write_bytes(b"half")
    write(folder.archive, checkpoint)
    assert not left.exists()
    assert folder.archive.entries(RUN) == [key]


def test_a_folder_without_hard_links_refuses_what_exists_too(
    folder: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_link)
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5")
    _, manifest, _ = write(folder.archive, checkpoint)
    assert folder.archive.find_faults(manifest) == []
    assert not list((tmp_path / "archive").rglob("*.tmp"))


def _key(sha256: str) -> str:
    return f"runs/{RUN}/parts/{sha256[:2]}/{sha256}"


def _part_keys(manifest: Manifest) -> list[str]:
    """The parts of 64 KiB, in their order."""
    return [_key(part.sha256) for part in manifest.parts() if part.size == PART]
