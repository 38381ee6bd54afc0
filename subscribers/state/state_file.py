"""One SQLite file that one process keeps its state in: the base of every subscriber's own.

A subclass names its tables and what to do about a file that cannot be used, and has a method for
each thing it reads and writes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from lineside.bus.errors import AddressInUse, LinesideError
from lineside.bus.file_lock import FileLock
from lineside.bus.settings import make_private_folder


class StateFileError(LinesideError):
    """The file of a subscriber's state cannot be used."""


class StateFile:
    """The file ``path``, locked, or a state in memory without one. Any thread may use it.

    ``tables`` are made where they are missing: a file of another format needs another name. What
    was committed survives the end of the process, and after ``sync`` a power cut too.

    Raises:
        AddressInUse: another process uses the file.
        SettingsError: its folder cannot be made or written.
        StateFileError: the file cannot be used.
    """

    tables: ClassVar[str]
    """The statements that make the tables, with ``IF NOT EXISTS``."""
    owner: ClassVar[str]
    """What has the file, if another process does: ``a watchdog runs on this home``."""
    remedy: ClassVar[str]
    """What to do if the file cannot be used."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._mutex, self._sync_lock = threading.RLock(), threading.Lock()
        self._is_open, self._is_synced = False, True
        self._lock = None if path is None else self._acquire_lock(path)
        try:
            with self._translate_errors():
                self._connection = sqlite3.connect(path or ":memory:", check_same_thread=False)
                weakref.finalize(self, self._connection.close)
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=NORMAL")  # ``sync`` does the rest
                self._connection.executescript(self.tables)
        except BaseException:
            self.release_lock()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All statements of the block are kept, or none if it raises; no other thread is in one.

        A transaction within another is a part of it.
        """
        with self._mutex, self._translate_errors():
            if self._is_open:
                yield self._connection
                return
            self._is_open = True
            try:
                with self._connection:
                    yield self._connection
                self._is_synced = False  # after the commit, or ``sync`` could come between
            finally:
                self._is_open = False

    def fetch(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self._mutex, self._translate_errors():
            return self._connection.execute(query, parameters).fetchall()

    def sync(self) -> None:
        """Make every transaction so far survive a power cut."""
        with self._sync_lock:
            if self._is_synced or self._path is None:
                return
            self._is_synced = True
            try:
                with self._path.with_name(f"{self._path.name}-wal").open("rb") as log_file:
                    os.fdatasync(log_file.fileno())
            except FileNotFoundError:
                pass  # everything is in the main file then
            except OSError as error:
                self._is_synced = False
                raise self._error(error) from error

    def close(self) -> None:
        """Close the file, without what was not committed; a second time is nothing."""
        # A statement of another thread would crash the process.
        with self._mutex, contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self.release_lock()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> StateFileError:
        why = error.strerror if isinstance(error, OSError) else error
        return StateFileError(
            f"the state file {self._path or 'in memory'} cannot be used ({why}): {self.remedy}"
        )

    def _acquire_lock(self, path: Path) -> FileLock:
        make_private_folder(path.parent)
        try:
            return FileLock(path.with_suffix(".lock"), wait=False)
        except BlockingIOError:
            raise AddressInUse("the state file", str(path), self.owner) from None
        except OSError as error:
            raise self._error(error) from error

    def release_lock(self) -> None:
        """Let another process take the file; in a forked child, give up the child's part of it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
