"""What is in a backup, and that its parts fit together."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from lineside.bus.broker.storage.journal import Cursor
from lineside.bus.errors import UsageError
from lineside.bus.protocol.events import Stream
from lineside.bus.settings import Settings
from lineside.cli.backup import backup, sqlite_copy
from lineside.cli.backup.backup import NoSpace
from lineside.emitter.spool.directory import write_acked_file
from tests.cli.backup.homes import (
    READER,
    STREAM,
    append,
    back_up,
    make_home,
    opened,
    settings_of,
    write_spool,
)

ROOT = "lineside-backup/"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = settings_of(tmp_path / "home")
    make_home(found)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backup.tar"


def extracted(file: Path, name: str) -> Path:
    """A member of the archive as a file beside it."""
    target = file.with_name(Path(name).name)
    with tarfile.open(file) as tar:
        content = tar.extractfile(ROOT + name)
        assert content is not None
        target.write_bytes(content.read())
    return target


def copied_journal(file: Path, home: Path) -> Settings:
    """A home with the journal of the archive alone."""
    home.mkdir()
    extracted(file, "home/journal.db").rename(home / "journal.db")
    return settings_of(home)


def test_it_holds_what_the_home_needs_and_nothing_else(
    settings: Settings, file: Path, tmp_path: Path
) -> None:
    home, config = settings.home, tmp_path / "mine.yaml"
    config.write_text("broker: {}\n")
    for name in ("store.db.damaged-20260101T000000Z", "demo/journal.db", "before-restore-1/x"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text("")
    os.mkfifo(home / "pipe")
    (home / "keys" / "link").symlink_to("/nowhere")
    write_spool(settings.spool, 0, 3)
    result = back_up(settings, file, config)
    assert set(result.members) == {
        "config.yaml",
        "home/journal.db",
        "home/keys/broker.key",
        "home/keys/ci.key",
        "home/keys/list.json",
        "home/rules.yaml",
        f"home/subscribers/{READER}.1.db",
        "store.db",
    }
    assert (result.journal or {})["head"] == 2
    assert (result.store or {})["kind"] == "sqlite"
    assert result.bytes == file.stat().st_size


def test_readers_get_the_places_that_they_had_before_their_states_were_copied(
    settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = sqlite_copy.copy

    def copy_while_the_broker_goes_on(source: Path, *rest: object) -> None:
        copy(source, *rest)  # type: ignore[arg-type]
        if source != settings.journal:
            append(journal, journal.next_seq(STREAM) + 5, cursor=journal.head)
            journal.append([], {"new reader": Cursor(1, 1)})

    monkeypatch.setattr(sqlite_copy, "copy", copy_while_the_broker_goes_on)
    with opened(settings) as journal:
        back_up(settings, file)
        assert journal.cursors()[READER].offset > 1
    with opened(copied_journal(file, file.parent / "copy")) as journal:
        assert journal.cursors() == {READER: Cursor(1, 1)}
        assert journal.next_seq(STREAM) == 20  # what came before the journal was copied is in it


def test_the_journal_of_a_backup_gets_what_the_spool_holds_beyond_it(
    settings: Settings, file: Path
) -> None:
    other, gone = Stream("run", "rank1", "a"), Stream("run", "rank2", "a")
    write_spool(settings.spool, 5, 12)  # 10 of them are in the journal
    write_spool(settings.spool, 15, 20)  # 12 to 15 were dropped on a full disk
    write_spool(settings.spool, 0, 7, other)
    # Confirmed to the broker after its journal was copied, and then removed: that is no gap.
    write_acked_file(write_spool(settings.spool, 30, 33, gone), 30)
    result = back_up(settings, file)
    assert result.spool_events == 10 + 7
    with opened(copied_journal(file, file.parent / "copy")) as journal:
        assert [journal.next_seq(s) for s in (STREAM, other, gone)] == [20, 7, 0]
    with opened(settings) as journal:
        assert journal.next_seq(STREAM) == 10


def test_a_spool_whose_broker_is_elsewhere_is_not_in_the_journal(
    settings: Settings, file: Path
) -> None:
    write_spool(settings.spool, 0, 20)
    other = settings_of(settings.home, LINESIDE_BROKER="tcp://10.0.0.1:7430")
    assert back_up(other, file).spool_events == 0


def test_a_store_elsewhere_is_in_the_backup_and_may_be_left_out(tmp_path: Path, file: Path) -> None:
    settings = settings_of(tmp_path / "h", LINESIDE_STORE=f"sqlite:///{tmp_path}/other/s.db")
    make_home(settings)
    assert "store.db" in back_up(settings, file).members
    without = backup.Backup(settings, None, with_store=False, on_progress=lambda _: None)
    assert "store.db" not in without.write(file, force=True).members


def test_a_copy_is_of_one_moment_and_its_writer_does_not_wait(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a")) as db:
        db.execute("PRAGMA journal_mode = WAL")
        with db:
            db.execute("CREATE TABLE t (x)")
            db.executemany("INSERT INTO t VALUES (?)", [(b"x" * 4000,)] * 5000)

        def write(*_: int) -> None:
            with db:
                db.execute("INSERT INTO t VALUES (1)")

        sqlite_copy.copy(tmp_path / "a", tmp_path / "b", write)
        assert db.execute("SELECT count(*) FROM t").fetchone()[0] > 5000
    with closing(sqlite3.connect(tmp_path / "b")) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (5000,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_that_sqlite_cannot_read_is_named(settings: Settings, file: Path) -> None:
    settings.journal.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(Exception, match=rf"{settings.journal}"):
        back_up(settings, file)
    assert not file.exists()
    assert not list(file.parent.glob(".*"))


def test_where_a_backup_cannot_go(settings: Settings, file: Path, tmp_path: Path) -> None:
    for target, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "x.tar", "there is no folder"),
        (settings.home / "keys" / "x.tar", "is in the home"),
    ):
        with pytest.raises(UsageError, match=message):
            back_up(settings, target)
    file.write_text("mine")
    with pytest.raises(UsageError, match="--force to replace it"):
        back_up(settings, file)
    assert file.read_text() == "mine"
    with pytest.raises(UsageError, match="there is nothing to back up"):
        back_up(settings_of(tmp_path / "nothing"), tmp_path / "b.tar")


def test_a_disk_with_too_little_space_is_noticed_before_anything_is_written(
    settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(NoSpace, match=r"1.05 MB are free in .*choose a FILE on another disk"):
        back_up(settings, file)
    assert not list(file.parent.glob(".*"))


def test_a_backup_ends_before_its_wal_fills_the_disk_of_the_broker(
    settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(folder: Path) -> object:
        free = 1 << 20 if folder == settings.home else 1 << 40
        return type("Usage", (), {"free": free})

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(NoSpace, match=rf"only 1.05 MB are left in {settings.home}, so"):
        back_up(settings, file)
    assert not list(file.parent.glob("*.tar")) + list(file.parent.glob(".*"))


def test_the_manifest_names_versions(settings: Settings, file: Path) -> None:
    back_up(settings, file)
    manifest = json.loads(extracted(file, "manifest.json").read_text())
    assert manifest["lineside"]
    assert manifest["store"]["revision"]
    assert manifest["members"]["home/journal.db"]["sha256"]
