"""A home with a journal, a store, a subscriber's state, keys and a spool, made in this process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.bus.broker.storage.journal import Cursor, Write
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal
from lineside.bus.protocol.events import Stream
from lineside.bus.protocol.wire import Encoder
from lineside.bus.settings import Settings
from lineside.cli.backup.backup import Backup, BackupResult
from lineside.cli.backup.restore import Restore, RestoreResult
from lineside.store.database.engine import open_store
from lineside.store.recording.writer import Writer
from lineside.subscribers.state.subscriber_state import SubscriberState

STREAM = Stream("run", "rank0", "20261121T000000-0000")
READER = "counter"


def settings_of(home: Path, **more: str) -> Settings:
    return Settings.from_env({"LINESIDE_HOME": str(home), **more})


def records(first: int, end: int) -> bytes:
    encoder = Encoder()
    return b"".join(
        encoder.encode(seq, time.time(), 1, "log", seq, None, 0, {"logs": {"loss": 1.0}})
        for seq in range(first, end)
    )


def append(journal: SqliteJournal, end: int, cursor: int = 0, stream: Stream = STREAM) -> None:
    first = journal.next_seq(stream)
    write = Write(stream, first, end - first, records(first, end))
    journal.append([write], {READER: Cursor(cursor, cursor)} if cursor else {})


def write_spool(spool: Path, first: int, end: int, stream: Stream = STREAM) -> Path:
    """A segment with these events of the stream."""
    folder = spool.joinpath(*stream)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{first:016}.seg").write_bytes(records(first, end))
    return folder


def make_home(settings: Settings) -> str:
    """Fill the home: 10 events in the journal, a store recorded up to there; the journal's id."""
    settings.home.mkdir(mode=0o700, parents=True)
    with closing(SqliteJournal(settings.journal)) as journal:
        append(journal, 4)
        append(journal, 10, cursor=1)
        id_ = journal.id
    store = open_store(settings.store, create=True)
    Writer(store).apply(id_, [], after=0)
    store.dispose()
    with contextlib.closing(SubscriberState.of(settings.home, READER)) as state:
        state.mark_used()
        state.save("run", '{"count": 4}', {}, {STREAM: 4}, [])
    Keyring(keys_folder(settings.home)).new_key("ci", ("emit",))
    (settings.home / "rules.yaml").write_text("rules: []\n")
    (settings.home / "logs").mkdir()
    (settings.home / "logs" / "broker.log").write_text("line\n")
    return id_


@contextmanager
def opened(settings: Settings) -> Iterator[SqliteJournal]:
    with closing(SqliteJournal(settings.journal)) as journal:
        yield journal


def back_up(settings: Settings, file: Path, config: Path | None = None) -> BackupResult:
    return Backup(settings, config, on_progress=lambda _: None).write(file)


def restore(settings: Settings, file: Path, *, force: bool = False) -> RestoreResult:
    return Restore(settings, lambda _: None).restore(file, force=force)
