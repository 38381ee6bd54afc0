"""Copies a home into an archive while its processes run.

The order makes the copies fit together, though each is of another moment:

1. the places of the durable readers, as they were before everything else;
2. files, and the states of subscribers: at least as new as these places, so no subscriber skips an
   event; what it has handled already it recognises by its number;
3. the store: it has its own place in the journal;
4. the journal: at least as new as all of these, so replaying it adds what the store lacks, and
   a publication that a state still holds is recognised;
5. what the spool holds beyond the journal goes into the copy of the journal.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lineside.bus.broker.storage import journal_copy
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal
from lineside.bus.errors import LinesideError, MissingExtra, UsageError
from lineside.bus.settings import Settings
from lineside.cli.backup import sqlite_copy
from lineside.cli.backup.archive import ArchiveWriter
from lineside.cli.backup.home_files import home_files
from lineside.cli.backup.spool_events import append_spool_events
from lineside.dashboard.formatting import size

HOME, JOURNAL, STORE, STORE_DUMP, CONFIG = (
    "home/",
    "home/journal.db",
    "store.db",
    "store.pgdump",
    "config.yaml",
)
"""Names in the archive."""
SQLITE, POSTGRESQL = "sqlite", "postgresql"
_SPARE_BYTES = 64 << 20


class NoSpace(LinesideError):
    """There is too little space on a disk; nothing of what was written stays."""


@dataclass
class BackupResult:
    """What the archive ``file`` holds. ``journal`` and ``store`` are None where there is none."""

    file: str
    bytes: int
    created_at: str
    lineside: str
    journal: dict[str, Any] | None = None
    store: dict[str, Any] | None = None
    spool_events: int = 0
    members: dict[str, dict[str, Any]] = field(default_factory=dict)


class Backup:
    """Backs up the home of ``settings`` and the configuration file ``config``.

    ``on_progress`` gets the name of what is copied, and how far.
    """

    def __init__(
        self,
        settings: Settings,
        config: Path | None,
        *,
        with_store: bool = True,
        on_progress: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._config = config
        self._with_store = with_store
        self._on_progress = on_progress
        self._store = self._store_file()
        self._result = BackupResult(
            "", 0, datetime.now(timezone.utc).isoformat(timespec="seconds"), version("lineside")
        )

    def write(self, file: Path, *, force: bool = False) -> BackupResult:
        """Write the archive ``file``; with ``force`` it may exist.

        Raises:
            UsageError: ``file`` exists or cannot be one, or there is nothing to back up.
            NoSpace: the disk of ``file`` may have too little space.
            LinesideError: something cannot be copied.
            OSError: a file cannot be read, or the archive not be written.
        """
        settings = self._settings
        _check_target(file, settings, force=force)
        if not settings.journal.exists() and self._store_kind() is None:
            raise UsageError(
                f"there is nothing to back up in {settings.home}, neither a journal nor a store: "
                "set LINESIDE_HOME to the home of the broker"
            )
        total = self._check_space(file)
        with ArchiveWriter(file) as archive:
            result = self._result
            facts = {"lineside": result.lineside, "created_at": result.created_at}
            archive.begin(facts | {"bytes": total})
            has_journal = settings.journal.exists()
            cursors = journal_copy.read_cursors(settings.journal) if has_journal else None
            for name, path in self._files():
                with suppress(FileNotFoundError):  # a draft, which has another name by now
                    if sqlite_copy.is_sqlite(path):
                        self._add_database(archive, name, path)
                    else:
                        archive.add(name, path)
            if self._with_store:
                self._add_store(archive)
            if cursors is not None:
                self._add_journal(archive, cursors)
            result.members = {name: vars(member) for name, member in archive.members.items()}
            facts = {key: value for key, value in vars(result).items() if key not in _NOT_KEPT}
            result.bytes = archive.commit(facts, replace=force)
        result.file = str(file)
        return result

    def _files(self) -> Iterator[tuple[str, Path]]:
        """The name in the archive and the path of each file but for the store and the journal."""
        if not self._settings.home.is_dir():
            return
        for name, path in home_files(self._settings):
            if path != self._store:
                yield HOME + name, path
        if self._config is not None:
            yield CONFIG, self._config

    def _store_file(self) -> Path | None:
        """The file of the store; None if the store is in PostgreSQL."""
        try:
            from lineside.store.database.engine import sqlite_path
        except ModuleNotFoundError as missing:
            raise MissingExtra("a backup", missing.name or "sqlalchemy", "server") from missing
        return sqlite_path(self._settings.store)

    def _store_kind(self) -> str | None:
        if not self._with_store:
            return None
        if self._store is None:
            return POSTGRESQL
        return SQLITE if self._store.exists() else None

    def _add_store(self, archive: ArchiveWriter) -> None:
        kind = self._store_kind()
        if kind == SQLITE and self._store is not None:
            self._add_database(archive, STORE, self._store, self._read_store_facts)
        elif kind == POSTGRESQL:
            from lineside.cli.backup.postgres import dump

            self._on_progress("the store, by pg_dump")
            copy = archive.folder / "copy"
            dump(self._settings.store, copy)
            archive.add(STORE_DUMP, copy)
            copy.unlink()
            self._result.store = {"kind": POSTGRESQL}

    def _read_store_facts(self, copy: Path) -> None:
        from lineside.store.database.migrate import VERSION_TABLE

        with closing(sqlite3.connect(copy)) as db:
            has_version = db.execute(
                "SELECT count(*) FROM sqlite_master WHERE name = ?", (VERSION_TABLE,)
            ).fetchone()[0]
            sentence = f"SELECT version_num FROM {VERSION_TABLE}"  # noqa: S608 - our own name
            revision = db.execute(sentence).fetchone()[0] if has_version else None
        self._result.store = {"kind": SQLITE, "revision": revision}

    def _add_journal(self, archive: ArchiveWriter, cursors: journal_copy.CursorRows) -> None:
        settings = self._settings

        def complete(copy: Path) -> None:
            journal = SqliteJournal(copy)  # brings an older one up to date
            try:
                # Where the broker is another machine's, its journal gets what the spool holds.
                if settings.broker.startswith("ipc://"):
                    self._on_progress("the spool")
                    self._result.spool_events = append_spool_events(journal, settings.spool)
                self._result.journal = {
                    "id": journal.id,
                    "first": journal.first,
                    "head": journal.head,
                }
            finally:
                journal.close()
            journal_copy.set_cursors(copy, cursors)

        self._add_database(archive, JOURNAL, settings.journal, complete)

    def _add_database(
        self,
        archive: ArchiveWriter,
        name: str,
        path: Path,
        complete: Callable[[Path], None] = lambda _: None,
    ) -> None:
        copy = archive.folder / "copy"

        def on_progress(done: int, pages: int) -> None:
            # Beside the file its write-ahead log grows meanwhile, and fast on a busy machine.
            for folder in (path.parent, copy.parent):
                _check_free(folder)
            self._on_progress(f"{path.name}: {100 * done // max(pages, 1)} %")

        sqlite_copy.copy(path, copy, on_progress)
        complete(copy)
        archive.add(name, copy)
        for left in archive.folder.glob("copy*"):
            left.unlink()

    def _check_space(self, file: Path) -> int:
        """The bytes of what is backed up, which FILE has room for.

        The archive needs as much as what is in it, and the largest copy lies beside it.
        """
        settings = self._settings
        paths = [path for _, path in self._files()]
        if self._with_store and self._store is not None:
            paths.append(self._store)
        sizes = [sqlite_copy.size(path) for path in (*paths, settings.journal) if path.exists()]
        needed = sum(sizes) + max(sizes, default=0) + _SPARE_BYTES
        free = shutil.disk_usage(file.parent).free
        if free < needed:
            raise NoSpace(
                f"{size(free)} are free in {file.parent}, and a backup of {settings.home} may take "
                f"{size(needed)} while it is made: choose a FILE on another disk"
            )
        return sum(sizes)


_NOT_KEPT = ("file", "bytes", "members")  # of a result: the archive itself knows them


def _check_free(folder: Path) -> None:
    """End a backup before it fills a disk: a broker could take no more events."""
    free = shutil.disk_usage(folder).free
    if free < _SPARE_BYTES:
        raise NoSpace(
            f"only {size(free)} are left in {folder}, so the backup was ended: free some space, or "
            "choose a FILE on another disk, and a fast one"
        )


def _check_target(file: Path, settings: Settings, *, force: bool) -> None:
    if not file.parent.is_dir():
        raise UsageError(f"there is no folder {file.parent}: expected a FILE in an existing one")
    if file.is_dir():
        raise UsageError(f"{file} is a folder: expected the name of a FILE, as {file / 'home.tar'}")
    if file.exists() and not force:
        raise UsageError(f"{file} exists: choose another name, or --force to replace it")
    home = settings.home.resolve()
    if home in file.resolve().parents:
        raise UsageError(
            f"{file} is in the home, which is to be backed up: choose a FILE elsewhere, best on "
            "another disk"
        )
