"""A home made from a backup: checked first, and nothing of the old home is lost."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import tarfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.broker.address_lock import AddressLock
from lineside.bus.broker.service import Broker
from lineside.bus.broker.storage.retention import Retention
from lineside.bus.errors import LinesideError, SettingsError, UsageError
from lineside.bus.settings import Settings
from lineside.cli.backup import restore as restoring
from lineside.cli.backup.archive import ArchiveError, ArchiveWriter
from lineside.cli.backup.backup import NoSpace
from lineside.cli.backup.restore import HomeInUse, Restore
from lineside.cli.stack.home_lock import HomeLock
from lineside.store.database.engine import open_store
from lineside.store.recording.writer import Writer
from lineside.subscribers.state.subscriber_state import SubscriberState
from tests.cli.backup.homes import (
    READER,
    STREAM,
    append,
    back_up,
    make_home,
    opened,
    restore,
    settings_of,
    write_spool,
)

OLD_ID = {"journal": ""}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = settings_of(tmp_path / "home")
    OLD_ID["journal"] = make_home(found)
    return found


@pytest.fixture
def file(settings: Settings, tmp_path: Path) -> Path:
    back_up(settings, tmp_path / "backup.tar")
    return tmp_path / "backup.tar"


@pytest.fixture
def other(tmp_path: Path) -> Settings:
    return settings_of(tmp_path / "other")


def position(settings: Settings) -> tuple[str, int] | None:
    store = open_store(settings.store)
    try:
        return Writer(store).position()
    finally:
        store.dispose()


def test_a_new_home_has_all_of_the_old_one_and_a_journal_of_its_own(
    settings: Settings, file: Path, other: Settings
) -> None:
    restore(other, file)
    with opened(other) as journal:
        assert journal.id != OLD_ID["journal"]
        assert (journal.head, journal.next_seq(STREAM)) == (2, 10)
        assert journal.cursors()[READER].offset == 1
        # The recorder goes on where the store of the backup was, and need not begin again.
        assert position(other) == (journal.id, 0)
    for name in ("rules.yaml", "keys/list.json", "keys/broker.key"):
        restored = other.home / name
        assert restored.read_bytes() == (settings.home / name).read_bytes()
        assert restored.stat().st_mode & 0o777 == 0o600
    with closing(SubscriberState.of(other.home, READER)) as state:
        assert state.load("run").next_seqs == {STREAM: 4}
    assert not (other.home / "logs").exists()
    assert not (other.home / ".restore").exists()


def test_entries_of_an_old_backup_that_a_reader_lacks_do_not_expire_at_once(
    settings: Settings, tmp_path: Path, other: Settings
) -> None:
    with closing(sqlite3.connect(settings.journal)) as db, db:
        db.execute("UPDATE entries SET time = 1")
        db.execute("UPDATE cursors SET time = 1")
    back_up(settings, tmp_path / "old.tar")
    restore(other, tmp_path / "old.tar")
    with opened(other) as journal:
        retention = Retention(journal, 7, 10 << 30)
        assert retention.forget_idle_readers(time.time(), ()) == []
        expiry = retention.next_expiry(time.time())
        assert expiry is not None
        assert (expiry.end, expiry.readers) == (2, ())


def test_a_home_that_is_not_empty_is_refused_and_by_force_kept_aside(
    settings: Settings, file: Path
) -> None:
    write_spool(settings.spool, 0, 3)
    with opened(settings) as journal:
        append(journal, 30)
    (settings.home / "journal.db-wal").write_bytes(b"of the old one")
    with pytest.raises(UsageError, match=r"is not empty \(journal.db, .*use --force"):
        restore(settings, file)
    result = restore(settings, file, force=True)
    kept = Path(result.kept or "")
    assert kept.parent == settings.home
    (kept / "journal.db-wal").unlink()
    with opened(settings_of(kept)) as journal:
        assert (journal.id, journal.next_seq(STREAM)) == (OLD_ID["journal"], 30)
    assert (kept / "keys" / "list.json").exists()
    with opened(settings) as journal:
        assert journal.next_seq(STREAM) == 10
    assert list(settings.spool.rglob("*.seg"))
    assert (settings.home / "logs" / "broker.log").exists()


def test_a_home_in_use_is_refused(settings: Settings, file: Path) -> None:
    lock = HomeLock(settings.home)
    with pytest.raises(HomeInUse, match=r"runs the stack there.*stop it first"):
        restore(settings, file, force=True)
    lock.release()
    address = AddressLock(settings.broker)
    with pytest.raises(HomeInUse, match=r"listens there.*stop it first"):
        restore(settings, file, force=True)
    address.release()
    with (
        closing(SubscriberState.of(settings.home, READER)),
        pytest.raises(HomeInUse, match=rf"locked .*{READER}.*stop it first"),
    ):
        restore(settings, file, force=True)
    restore(settings, file, force=True)


def test_a_home_of_another_user_is_refused(
    settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(UsageError, match="run it as that user"):
        restore(settings, file, force=True)


def test_a_disk_with_too_little_space_is_noticed_before_anything_is_written(
    file: Path, other: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 20}))
    with pytest.raises(NoSpace, match=r"1.05 MB are free in .*set LINESIDE_HOME to another disk"):
        restore(other, file)


def test_an_archive_that_has_more_than_it_claims_does_not_fill_the_disk(
    file: Path, other: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Restore, "_check_space", lambda *_: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 20}))
    with pytest.raises(NoSpace, match="nearly full, so the restore was ended and nothing changed"):
        restore(other, file)
    assert not [path for path in other.home.rglob("*") if path.suffix != ".lock"]


def test_a_damaged_archive_changes_nothing(settings: Settings, file: Path, other: Settings) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    before = {path: path.read_bytes() for path in settings.home.rglob("*") if path.is_file()}
    with pytest.raises(LinesideError, match="truncated"):
        restore(settings, file, force=True)
    after = {path: path.read_bytes() for path in settings.home.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    with pytest.raises(LinesideError, match="truncated"):
        restore(other, file)
    assert not (other.home / "journal.db").exists()
    assert not (other.home / ".restore").exists()


@pytest.mark.parametrize("name", ["home/spool/run/x", "home/bus.sock", "home/.restore/x", "etc/x"])
def test_an_archive_with_a_file_that_no_backup_has_is_refused(
    tmp_path: Path, other: Settings, name: str
) -> None:
    path = tmp_path / "made.tar"
    with tarfile.open(path, "w") as tar:
        for member, content in (("format.json", json.dumps({"format": 1}).encode()), (name, b"x")):
            info = tarfile.TarInfo(f"lineside-backup/{member}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(LinesideError, match="which no backup has"):
        restore(other, path)


@pytest.mark.parametrize(
    "odd",
    [
        {"journal": 5},
        {"journal": {"head": "far"}},
        {"store": {"kind": "sqlite", "revision": ["0001"]}},
        {"spool_events": "many"},
        {"created_at": "\x1b[2J"},
        {"lineside": None},
    ],
    ids=str,
)
def test_an_archive_that_reports_nonsense_of_itself_is_refused(
    tmp_path: Path, other: Settings, odd: dict[str, Any]
) -> None:
    path = tmp_path / "made.tar"
    facts: dict[str, Any] = {"created_at": "today", "lineside": "0.1.0"}
    with ArchiveWriter(path) as writer:
        writer.begin(facts)
        writer.commit(facts | odd, replace=False)
    for refuse in (lambda: restoring.check(path, lambda _: None), lambda: restore(other, path)):
        with pytest.raises(ArchiveError, match="makes no sense"):
            refuse()
    assert not (other.home / ".restore").exists()


def test_a_store_of_a_newer_version_is_refused_before_anything_changes(
    settings: Settings, tmp_path: Path, other: Settings
) -> None:
    with closing(sqlite3.connect(settings.home / "store.db")) as db, db:
        db.execute("UPDATE lineside_version SET version_num = '9999'")
    back_up(settings, tmp_path / "new.tar")
    with pytest.raises(UsageError, match=r"schema revision 9999, newer than this Lineside"):
        restore(other, tmp_path / "new.tar")
    assert not (other.home / "journal.db").exists()


def test_the_store_goes_where_the_settings_have_it(
    settings: Settings, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "elsewhere" / "history.db"
    other = settings_of(tmp_path / "other", LINESIDE_STORE=f"sqlite:///{place}")
    restore(other, file)
    assert (position(other) or ("", 1))[1] == 0
    # Also from another disk, with what was there kept.
    monkeypatch.setattr(restoring, "_is_on_one_disk", lambda *_: False)
    result = restore(other, file, force=True)
    assert position(other)
    assert (Path(result.kept or "") / "history.db").exists()
    assert list(place.parent.iterdir()) == [place]
    postgres = settings_of(tmp_path / "third", LINESIDE_STORE="postgresql://host/db")
    with pytest.raises(UsageError, match="LINESIDE_STORE is of PostgreSQL"):
        restore(postgres, file)


def test_the_configuration_comes_into_the_home(
    settings: Settings, tmp_path: Path, other: Settings
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("broker: {}\n")
    back_up(settings, tmp_path / "a.tar", config)
    result = restore(other, tmp_path / "a.tar")
    assert Path(result.config or "") == other.home / "lineside.yaml"
    assert (other.home / "lineside.yaml").read_text() == "broker: {}\n"


def test_no_broker_starts_where_a_restore_was_killed_half_way(
    file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Restore, "_move_in", killed)
    with pytest.raises(KeyboardInterrupt):
        restore(settings, file, force=True)
    with pytest.raises(SettingsError, match=r"run `lineside restore FILE --force` again"):
        Broker(settings).startup()
    assert not settings.journal.exists()
    monkeypatch.undo()
    restore(settings, file, force=True)
    with opened(settings) as journal:
        assert journal.next_seq(STREAM) == 10
    broker = Broker(settings)
    broker.startup()
    broker.shutdown()


def test_a_restore_that_was_killed_is_begun_again(file: Path, other: Settings) -> None:
    left = other.home / ".restore" / "home"
    left.mkdir(parents=True)
    (left / "journal.db").write_bytes(b"half")
    restore(other, file)
    with opened(other) as journal:
        assert journal.next_seq(STREAM) == 10
