"""The writer of an archive and its object store are killed at random moments."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from lineside.store.archive import writing
from lineside.store.archive.archive import Archive, Written
from lineside.store.archive.errors import ArchiveError
from lineside.store.archive.keys import part_key, parts_prefix
from lineside.store.archive.location import ArchiveLocation, open_archive
from lineside.store.archive.manifest import CheckpointFacts, Manifest
from lineside.store.archive.objects.objects import Objects
from lineside.store.archive.source_file import of_folder
from tests.faults.session import repeats
from tests.support.object_stores import BUCKET, ObjectServer, rclone_server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fault

RUN = "run-1"
PART = 1 << 16
# A write takes two seconds, so that a kill comes in the middle of it.
_BYTES, _BYTES_PER_SECOND = 3 << 20, 1.5 * (1 << 20)
_WRITER = f"""
import json, sys
from pathlib import Path
from lineside.store.archive import writing
from lineside.store.archive.location import ArchiveLocation, open_archive
from tests.faults.test_killed_archive import write
writing.PART_BYTES = {PART}
location = ArchiveLocation(sys.argv[1], json.loads(sys.argv[2]))
write(open_archive(location, bytes_per_second={_BYTES_PER_SECOND}), Path(sys.argv[3]))
"""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PART_BYTES", PART)


@pytest.mark.parametrize("place", ["folder", "rclone"])
def test_killed_writers_leave_no_partial_checkpoint_and_no_part_is_sent_twice(
    place: str, tmp_path: Path, rng: Random
) -> None:
    checkpoint = _checkpoint(tmp_path / "checkpoint-5", rng)
    with _location(place, tmp_path) as location:
        archive = open_archive(location)
        for _ in repeats(4):
            command = [sys.executable, "-c", _WRITER, location.url]
            command += [json.dumps(dict(location.options)), str(checkpoint)]
            writer = subprocess.Popen(command)
            with suppress(subprocess.TimeoutExpired):
                writer.wait(rng.uniform(0.3, 4.0))
            writer.kill()
            writer.wait()
            _check_whole_or_absent(archive)
        before = _parts(archive)
        _check_only_the_rest_is_sent(archive, checkpoint, before)
        _check_whole_or_absent(archive)
        [key] = archive.entries(RUN)
        archive.delete_checkpoint(key)
        archive.collect_garbage(RUN)
        assert archive.runs() == []


def test_a_killed_object_store_fails_the_write_and_the_next_sends_the_rest(
    tmp_path: Path, rng: Random
) -> None:
    checkpoint = _checkpoint(tmp_path / "checkpoint-5", rng)
    with rclone_server(tmp_path) as rclone:
        location = ArchiveLocation(f"s3://{BUCKET}/killed", rclone.server.options())
        for _ in repeats(4):
            slow = open_archive(location, bytes_per_second=_BYTES_PER_SECOND)
            _kill_server_meanwhile(rclone.server, slow, checkpoint, rng)
            archive = open_archive(location)
            _check_whole_or_absent(archive)
        before = _parts(archive)
        _check_only_the_rest_is_sent(archive, checkpoint, before)
        _check_whole_or_absent(archive)
        assert len(archive.entries(RUN)) == 1


def write(archive: Archive, checkpoint: Path) -> tuple[Manifest, Written]:
    facts = CheckpointFacts(RUN, "1", 5, str(checkpoint), 1.0)
    _, manifest, written = archive.write_checkpoint(
        facts, of_folder(checkpoint), lambda _: None, threading.Event()
    )
    return manifest, written


def _check_only_the_rest_is_sent(
    archive: Archive, checkpoint: Path, before: dict[str, int]
) -> None:
    """What was cut short by the kill has another size, and is sent again."""
    manifest, written = write(archive, checkpoint)
    keys = {part: part_key(RUN, part.sha256) for part in manifest.parts()}
    rest = [part.size for part, key in keys.items() if before.get(key) != part.size]
    assert written.sent == sum(rest)


@contextmanager
def _location(place: str, folder: Path) -> Iterator[ArchiveLocation]:
    if place == "folder":
        yield ArchiveLocation(str(folder / "archive"))
        return
    with rclone_server(folder) as rclone:
        yield ArchiveLocation(f"s3://{BUCKET}/killed", rclone.server.options())


def _kill_server_meanwhile(
    server: ObjectServer, archive: Archive, checkpoint: Path, rng: Random
) -> None:
    def write_or_fail() -> None:
        with suppress(ArchiveError):
            write(archive, checkpoint)

    writer = threading.Thread(target=write_or_fail)
    writer.start()
    time.sleep(rng.uniform(0.0, 2.0))
    server.kill()
    wait_until(lambda: not writer.is_alive(), "the write ended")
    server.start()


def _check_whole_or_absent(archive: Archive) -> None:
    for key in archive.entries(RUN):
        assert archive.find_faults(archive.read_manifest(key)) == []


def _parts(archive: Archive) -> dict[str, int]:
    """The parts that are there, also those of no checkpoint."""

    async def read(objects: Objects) -> dict[str, int]:
        return await objects.sizes(parts_prefix(RUN))

    return archive._run(read)


def _checkpoint(folder: Path, rng: Random) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(rng.randbytes(_BYTES))
    for number in range(5):
        (folder / f"rng_state_{number}.pth").write_bytes(rng.randbytes(20_000))
    return folder
