"""Makes a home from an archive: everything is checked before anything takes its place."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineside.bus.broker.address_lock import AddressLock
from lineside.bus.broker.storage import journal_copy
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal, lock_path
from lineside.bus.errors import AddressInUse, LinesideError, UsageError
from lineside.bus.file_lock import FileLock
from lineside.bus.local_stack import UNFINISHED_RESTORE, UP_FILE
from lineside.bus.protocol.addresses import ipc_path
from lineside.bus.settings import Settings, make_private_folder
from lineside.cli.backup import home_files
from lineside.cli.backup.archive import ArchiveError, ArchiveReader, Content, naming, sync_folder
from lineside.cli.backup.backup import CONFIG, HOME, JOURNAL, STORE, STORE_DUMP, NoSpace
from lineside.cli.backup.home_files import is_in_backup
from lineside.cli.backup.sqlite_copy import SIDE_FILES, is_sqlite
from lineside.cli.stack.home_lock import HomeLock
from lineside.dashboard.formatting import size

_CHUNK_BYTES = 1 << 20
_SPARE_BYTES = 64 << 20
_LOCKS = "*.lock"
_CONFIG_FILE = "lineside.yaml"


class HomeInUse(LinesideError):
    """A process uses the home."""


@dataclass
class RestoreResult:
    """What was restored: ``facts`` of the archive, where it is now, and what was there before."""

    facts: dict[str, Any]
    home: str
    store: str | None = None
    store_dump: str | None = None
    config: str | None = None
    kept: str | None = None


def check(file: Path, on_progress: Callable[[str], None]) -> dict[str, Any]:
    """Read a whole archive and check it; its facts.

    Raises:
        LinesideError: it is no whole archive of a backup.
        OSError: it cannot be read.
    """
    reader = ArchiveReader(file)
    with reader.open() as files:
        for name, _ in files:
            on_progress(name)
    _check_facts(file, reader.manifest)
    return reader.manifest


def _check_facts(file: Path, manifest: dict[str, Any]) -> None:
    """Refuse an archive with facts that no backup has: they are printed, and decide."""
    journal, store = manifest.get("journal"), manifest.get("store")
    texts = [manifest.get("lineside"), manifest.get("created_at")]
    numbers = [manifest.get("spool_events", 0)]
    if store is not None:
        texts += (
            [store.get("kind"), store.get("revision") or ""] if isinstance(store, dict) else [0]
        )
    if journal is not None:
        numbers.append(journal.get("head") if isinstance(journal, dict) else None)
    are_texts = all(isinstance(text, str) and f"{text}x".isprintable() for text in texts)
    if not are_texts or not all(isinstance(number, int) for number in numbers):
        raise ArchiveError(
            f"{file} is damaged, or no archive of `lineside backup`: what it reports of itself "
            "makes no sense"
        )


class Restore:
    """Restores into the home of ``settings``, which no process may use.

    The spool of the home stays: its trainings may be running.
    """

    def __init__(self, settings: Settings, on_progress: Callable[[str], None]) -> None:
        self._settings = settings
        self._home = settings.home
        self._on_progress = on_progress
        self._staging = self._home / home_files.STAGING
        self._store = self._store_file()

    def restore(self, file: Path, *, force: bool = False) -> RestoreResult:
        """Restore the archive ``file``; with ``force`` what the home has is kept aside.

        Raises:
            HomeInUse: a process uses the home.
            UsageError: the home is not empty or is another user's, or the archive is newer than
                this Lineside.
            NoSpace: the disk has too little space.
            LinesideError: the archive is not whole. Nothing of the home has changed.
            OSError: a file cannot be read or written.
        """
        with ExitStack() as used:
            self._lock_home(used)
            now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            kept = self._home / f"{home_files.ASIDE_PREFIX}{now}"
            in_the_way = self._existing()
            if in_the_way and not force:
                names = ", ".join(path.name for path in in_the_way[:5])
                raise UsageError(
                    f"{self._home} is not empty ({names}): set LINESIDE_HOME to a new folder, or "
                    f"use --force, which keeps what is there in {kept}"
                )
            used.callback(shutil.rmtree, self._staging, ignore_errors=True)
            manifest = self._extract(file)
            self._check_contents(manifest)
            self._begin_anew()
            store = self._bring_store_near(used)
            unfinished = self._home / UNFINISHED_RESTORE  # no broker starts while it is there
            unfinished.touch(mode=0o600)
            sync_folder(self._home)
            for path in in_the_way:
                _keep_aside(path, kept)
            result = RestoreResult(
                {key: value for key, value in manifest.items() if key != "members"},
                str(self._home),
                kept=str(kept) if in_the_way else None,
            )
            self._move_in(result, store)
            unfinished.unlink()
            sync_folder(self._home)
            return result

    def _store_file(self) -> Path | None:
        from lineside.store.database.engine import sqlite_path

        return sqlite_path(self._settings.store)

    def _lock_home(self, used: ExitStack) -> None:
        """Lock out every process that would open what is restored."""
        if self._home.exists() and (owner := self._home.stat().st_uid) != os.geteuid():
            raise UsageError(
                f"{self._home} belongs to the user with id {owner}, who could not read what this "
                "one restores: run it as that user"
            )
        is_local = self._settings.broker.startswith("ipc://")
        try:
            used.callback(HomeLock(self._home).release)
            if is_local:
                used.callback(AddressLock(self._settings.broker).release)
        except AddressInUse as error:
            raise HomeInUse(f"{error}; to restore there, stop it first") from error
        own = {self._home / UP_FILE}
        if is_local:
            path = ipc_path(self._settings.broker)
            own.add(path.with_name(f"{path.name}.lock"))
        tops = (path for path in self._home.iterdir() if is_in_backup(self._settings, path))
        locks = (*self._home.glob(_LOCKS), *(path for top in tops for path in top.rglob(_LOCKS)))
        for path in locks:
            if path not in own:
                self._lock(used, path)

    def _lock(self, used: ExitStack, path: Path) -> None:
        try:
            used.callback(FileLock(path, wait=False).release)
        except BlockingIOError:
            raise HomeInUse(
                f"a process has locked {path}, so it uses {self._home}: stop it first, then restore"
            ) from None

    def _existing(self) -> list[Path]:
        """What a restore would replace: what a backup would hold, and the store."""
        found = [path for path in sorted(self._home.iterdir()) if self._is_replaced(path)]
        if self._store is not None and self._home not in self._store.parents:
            found += [path for path in _with_side_files(self._store) if path.exists()]
        return found

    def _is_replaced(self, path: Path) -> bool:
        is_side_file = path.name.endswith(SIDE_FILES) and not path.is_dir()
        return is_side_file or is_in_backup(self._settings, path)

    def _extract(self, file: Path) -> dict[str, Any]:
        shutil.rmtree(self._staging, ignore_errors=True)
        make_private_folder(self._staging)
        reader = ArchiveReader(file)
        with reader.open() as files:
            self._check_space(reader.facts.get("bytes"))
            for name, content in files:
                self._on_progress(name)
                if not self._is_expected(name):
                    raise ArchiveError(f"{file} has {name!r:.100}, which no backup has")
                _write(content, self._staging / name)
        _check_facts(file, reader.manifest)
        return reader.manifest

    def _check_space(self, content: object) -> None:
        needed = (content if isinstance(content, int) else 0) + _SPARE_BYTES
        free = shutil.disk_usage(self._home).free
        if free < needed:
            raise NoSpace(
                f"{size(free)} are free in {self._home}, and the backup takes {size(needed)}: "
                "free some space, or set LINESIDE_HOME to another disk"
            )

    def _is_expected(self, name: str) -> bool:
        top = name.removeprefix(HOME).partition("/")[0]
        is_of_home = name != top and is_in_backup(self._settings, self._home / top)
        return name in (STORE, STORE_DUMP, CONFIG) or (name.startswith(HOME) and is_of_home)

    def _check_contents(self, manifest: dict[str, Any]) -> None:
        from lineside.store.database.migrate import REVISIONS

        revision = (manifest.get("store") or {}).get("revision")
        if revision is not None and revision not in REVISIONS:
            raise UsageError(
                f"the store of the backup has schema revision {revision}, newer than this Lineside "
                f"knows ({REVISIONS[-1]}): restore it with Lineside {manifest.get('lineside')}"
            )
        if (self._staging / STORE).exists() and self._store is None:
            raise UsageError(
                "the store of the backup is SQLite, and LINESIDE_STORE is of PostgreSQL: restore "
                "without LINESIDE_STORE, or with a URL of SQLite"
            )
        journal = self._staging / JOURNAL
        if journal.exists():
            SqliteJournal(journal).close()  # refuses one of a newer version
            lock_path(journal).unlink()

    def _begin_anew(self) -> None:
        """Give the journal a new id, also in the places that its readers keep of it."""
        journal = self._staging / JOURNAL
        if not journal.exists():
            return
        old, new = journal_copy.begin_anew(journal)
        for path in self._staging.rglob("*"):
            if path != journal and path.is_file() and is_sqlite(path):
                _rename_journal(path, old, new)

    def _bring_store_near(self, used: ExitStack) -> Path | None:
        """The staged store on the disk where it is to be, so that moving it there cannot fail."""
        staged = self._staging / STORE
        if self._store is None or not staged.exists():
            return None
        make_private_folder(self._store.parent)
        if _is_on_one_disk(staged, self._store.parent):
            return staged
        near = self._store.with_name(f".{self._store.name}{home_files.STAGING}")
        used.callback(near.unlink, missing_ok=True)
        near.unlink(missing_ok=True)
        with staged.open("rb") as content:
            _write(content, near)
        return near

    def _move_in(self, result: RestoreResult, store: Path | None) -> None:
        """Move what is checked to its places, the journal last."""
        if store is not None and self._store is not None:
            store.rename(self._store)
            sync_folder(self._store.parent)
            result.store = str(self._store)
        dump, config = self._home / STORE_DUMP, self._free_config()
        with suppress(FileNotFoundError):
            (self._staging / STORE_DUMP).rename(dump)
            result.store_dump = str(dump)
        with suppress(FileNotFoundError):
            (self._staging / CONFIG).rename(config)
            result.config = str(config)
        staged = self._staging / HOME
        if staged.is_dir():
            for path in sorted(staged.iterdir(), key=lambda path: path.name == "journal.db"):
                path.rename(self._home / path.name)
        sync_folder(self._home)  # before the broker may start

    def _free_config(self) -> Path:
        """Where the configuration goes: it may have been a file of the home too."""
        is_taken = (self._staging / HOME / _CONFIG_FILE).exists()
        return self._home / (f"restored-{_CONFIG_FILE}" if is_taken else _CONFIG_FILE)


def _is_on_one_disk(*paths: Path) -> bool:
    return len({path.stat().st_dev for path in paths}) == 1


def _rename_journal(path: Path, old: str, new: str) -> None:
    """Replace the journal's id in every column called ``journal``."""
    with closing(sqlite3.connect(path)) as db, db:
        tables = [
            name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        for table in tables:
            quoted = '"' + table.replace('"', '""') + '"'
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({quoted})")]
            if "journal" in columns:
                db.execute(
                    f"UPDATE {quoted} SET journal = ? WHERE journal = ?",  # noqa: S608 - quoted
                    (new, old),
                )


def _write(content: Content, path: Path) -> None:
    make_private_folder(path.parent)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with naming(path), os.fdopen(fd, "wb") as out:
        while chunk := content.read(_CHUNK_BYTES):
            # Whatever size the archive claims to have: the spool of trainings may be on this disk.
            if shutil.disk_usage(path.parent).free < _SPARE_BYTES:
                raise NoSpace(
                    f"the disk of {path.parent} is nearly full, so the restore was ended and "
                    "nothing changed: free some space, or set LINESIDE_HOME to another disk"
                )
            out.write(chunk)
        out.flush()
        os.fsync(fd)


def _keep_aside(path: Path, kept: Path) -> None:
    """Move ``path`` into the folder ``kept``; what is on another disk is renamed where it is."""
    make_private_folder(kept)
    try:
        path.rename(kept / path.name)
    except OSError:
        path.rename(path.with_name(f"{path.name}.{kept.name}"))


def _with_side_files(path: Path) -> Iterator[Path]:
    yield path
    for suffix in SIDE_FILES:
        yield Path(f"{path}{suffix}")
