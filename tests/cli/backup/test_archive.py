"""The archive of a backup: whole and private, or refused."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from lineside.bus.errors import UsageError
from lineside.cli.backup import archive
from lineside.cli.backup.archive import ArchiveError, ArchiveReader, ArchiveWriter

FILES = {"home/keys/list.json": b'{"keys": []}', "home/journal.db": bytes(range(256)) * 2000}
ROOT = "lineside-backup/"


def make(path: Path, files: Mapping[str, bytes] = FILES) -> Path:
    with ArchiveWriter(path) as writer:
        writer.begin({"lineside": "0.1"})
        for number, (name, content) in enumerate(files.items()):
            source = path.parent / f"source{number}"
            source.write_bytes(content)
            writer.add(name, source)
        writer.commit({"spool_events": 3}, replace=True)
    return path


def read(path: Path) -> dict[str, bytes]:
    reader = ArchiveReader(path)
    with reader.open() as files:
        found = {name: content.read() for name, content in files}
    assert reader.facts["lineside"] == "0.1"
    assert reader.manifest["spool_events"] == 3
    return found


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes], format_: object = 1) -> Path:
    """A tar file as another program would make it."""
    with tarfile.open(path, "w") as tar:
        first = tarfile.TarInfo(f"{ROOT}format.json")
        data = json.dumps({"format": format_, "lineside": "9.9"}).encode()
        for info, content in ((first, data), *members):
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
def test_what_was_written_is_read_again(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name)
    assert read(path) == FILES
    assert path.stat().st_mode & 0o777 == 0o600
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == (name != "a.tar")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_an_archive_without_its_end_is_refused(tmp_path: Path, name: str) -> None:
    content = make(tmp_path / name).read_bytes()
    manifest = content.find(f"{ROOT}manifest.json".encode())
    ends = [1, 100, 600, len(content) // 2, *([manifest, manifest + 600] if manifest > 0 else ())]
    for end in ends:
        cut = tmp_path / "cut"
        cut.write_bytes(content[:end])
        with pytest.raises(ArchiveError, match=r"truncated or damaged|not an archive"):
            read(cut)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tar")
    content = bytearray(path.read_bytes())
    content[content.find(FILES["home/journal.db"]) + 1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"'home/journal.db' does not match its checksum"):
        read(path)


@pytest.mark.parametrize(
    "content", [b"", b"no archive", b"\0" * 20_480, b"\x1f\x8bnone", b"{" * 9000]
)
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="is not an archive of `lineside backup`"):
        read(path)


def test_another_programs_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(__file__, "test.py")
    with pytest.raises(ArchiveError, match="is not an archive of `lineside backup`"):
        read(path)


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "/etc/passwd",
        f"{ROOT}../out",
        f"{ROOT}home/../../out",
        f"{ROOT}home//a",
        f"{ROOT}/etc/x",
        f"{ROOT}home/a\nb",
        ROOT,
        f"{ROOT}.",
    ],
)
def test_a_name_that_leads_out_of_the_home_is_refused(tmp_path: Path, name: str) -> None:
    path = tar_of(tmp_path / "a.tar", (tarfile.TarInfo(name), b"x"))
    with (
        pytest.raises(ArchiveError, match="which no backup has"),
        ArchiveReader(path).open() as files,
    ):
        list(files)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_only_files_are_taken(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo(f"{ROOT}home/link")
    info.type, info.linkname = kind, "/etc/passwd"
    path = tar_of(tmp_path / "a.tar", (info, b""))
    with (
        pytest.raises(ArchiveError, match="which no backup has"),
        ArchiveReader(path).open() as files,
    ):
        list(files)


def test_a_newer_archive_names_the_version_that_wrote_it(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", format_=archive.FORMAT + 1)
    with (
        pytest.raises(UsageError, match=r"format 2, newer than .* Lineside 9.9"),
        ArchiveReader(path).open(),
    ):
        pass


def test_a_backup_that_fails_leaves_nothing_and_the_old_archive(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tar")
    with ArchiveWriter(path) as writer:
        writer.begin({})
        with pytest.raises(FileNotFoundError):
            writer.add("home/x", tmp_path / "missing")
    assert read(path) == FILES
    assert not list(tmp_path.glob(".*"))


def test_two_backups_to_one_file_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with ArchiveWriter(path), pytest.raises(UsageError, match="another process writes a backup"):
        ArchiveWriter(path)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_backup_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".a.tar.partial"
    left.mkdir()
    (left / "archive").write_bytes(b"half")
    (left / "copy").write_bytes(b"half")
    assert read(make(tmp_path / "a.tar")) == FILES
    assert not left.exists()
