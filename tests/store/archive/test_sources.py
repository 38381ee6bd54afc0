"""Files that change, go or lie elsewhere while a checkpoint is read."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from lineside.store.archive.errors import ArchiveLocationError, SourceChanged
from lineside.store.archive.location import ArchiveLocation, open_archive
from lineside.store.archive.source_file import SourceFile, of_folder
from tests.store.archive.conftest import (
    RUN,
    Place,
    contents,
    facts_of,
    ignore,
    make_checkpoint,
    write,
)


class ChangingFile(io.FileIO):
    """A file that changes before its first bytes are read."""

    def __init__(self, file: Path, change: Callable[[], None]) -> None:
        super().__init__(file)
        self._change: Callable[[], None] | None = change

    def read(self, size: int | None = -1) -> bytes:
        if self._change is not None:
            self._change()
            self._change = None
        return super().read(size) or b""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rewrite", "was written to"),
        ("rewrite while it is read", "was written to"),
        ("truncate while it is read", "became shorter"),
        ("append while it is read", "became longer"),
        ("remove", "went"),
    ],
)
def test_a_file_that_changes_while_it_is_read_leaves_no_checkpoint(
    folder: Place, tmp_path: Path, change: str, message: str
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5")
    model = checkpoint / "model.safetensors"
    listed = of_folder(checkpoint)

    def change_it() -> None:
        if change.startswith("rewrite"):
            with model.open("r+b") as writer:
                writer.write(b"new")
            os.utime(model, ns=(1, 1))
        elif change.startswith("truncate"):
            os.truncate(model, 100)
        else:
            with model.open("ab") as writer:
                writer.write(b"more")

    if change == "remove":
        model.unlink()
    elif change == "rewrite":
        change_it()
    else:
        listed = [
            replace(file, open=lambda: ChangingFile(model, change_it))
            if file.path == model.name
            else file
            for file in listed
        ]
    with pytest.raises(SourceChanged, match=rf"model\.safetensors {message}"):
        folder.archive.write_checkpoint(facts_of(checkpoint), listed, ignore, threading.Event())
    assert folder.archive.entries(RUN) == []


def test_a_file_that_is_made_in_memory_is_archived_as_scrubbed(
    folder: Place, tmp_path: Path
) -> None:
    made = SourceFile("training_args.bin", 5, 1, lambda: BytesIO(b"clean"), scrubbed=True)
    _, manifest, _ = folder.archive.write_checkpoint(
        facts_of(tmp_path), [made], ignore, threading.Event()
    )
    assert [(file.path, file.scrubbed) for file in manifest.files] == [("training_args.bin", True)]
    folder.archive.restore(manifest, tmp_path / "out")
    assert contents(tmp_path / "out") == {"training_args.bin": b"clean"}


def test_links_inside_are_files_and_links_that_lead_out_are_left_out(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint-5")
    (tmp_path / "secret").write_text("x")
    (checkpoint / "out").symlink_to(tmp_path / "secret")
    (checkpoint / "nowhere").symlink_to(checkpoint / "missing")
    (checkpoint / "folder").symlink_to(tmp_path)
    (checkpoint / "inside.pt").symlink_to("optimizer.pt")
    os.mkfifo(checkpoint / "pipe")
    found = [file.path for file in of_folder(checkpoint)]
    assert found == [
        "inside.pt", "merged/config.json", "merged/empty.txt", "model.safetensors",
        "optimizer.pt", "trainer_state.json",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a/../b", "a//b", "./a", "", "a\0"])
def test_a_file_outside_of_its_checkpoint_is_not_archived(
    folder: Place, tmp_path: Path, path: str
) -> None:
    file = SourceFile(path, 1, 1, lambda: BytesIO(b"x"))
    with pytest.raises(ArchiveLocationError, match="no plain path below the checkpoint"):
        folder.archive.write_checkpoint(facts_of(tmp_path), [file], ignore, threading.Event())


def test_a_file_of_more_than_64_mib_is_cut_into_parts_of_64_mib(tmp_path: Path) -> None:
    archive = open_archive(ArchiveLocation(str(tmp_path / "archive")))
    checkpoint = tmp_path / "checkpoint-5"
    checkpoint.mkdir()
    with (checkpoint / "model.safetensors").open("wb") as file:
        file.truncate((64 << 20) + 10)
    _, manifest, written = write(archive, checkpoint)
    assert [part.size for part in manifest.files[0].parts] == [64 << 20, 10]
    assert archive.find_faults(manifest) == []
    assert written.sent == (64 << 20) + 10
