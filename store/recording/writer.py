"""Writes run history: batches from the bus, and changes by users."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from lineside.bus.client.reader import Batch
from lineside.bus.errors import RunNotFound, StoreDamaged, StoreRolledBack, StoreUnavailable
from lineside.bus.wording import plural
from lineside.store.database.engine import read_transaction, redact_url, write_transaction
from lineside.store.database.sqlite import BUSY_TIMEOUT_SECONDS
from lineside.store.database.tables import positions, runs
from lineside.store.database.values import sanitize_text, to_json
from lineside.store.recording.batch_intake import BatchIntake
from lineside.store.recording.deletion import mark_deleted, purge
from lineside.store.recording.run_cache import RunCache

log = logging.getLogger("lineside")


class Writer:
    """Writes into one store. ``apply`` belongs to one thread; other processes may write as well.

    ``clock`` returns seconds since the epoch.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock
        self._cache = RunCache()

    def position(self) -> tuple[str, int] | None:
        """The journal that was recorded last, and its offset; None for a new store."""
        with read_transaction(self._engine) as connection:
            row = connection.execute(
                select(positions).order_by(positions.c.time.desc(), positions.c.offset.desc())
            ).first()
        return None if row is None else (row.journal, row.offset)

    def offset(self, journal: str) -> int:
        """The offset up to which a journal is recorded; 0 if nothing of it is."""
        with read_transaction(self._engine) as connection:
            return _offset(connection, journal) or 0

    def apply(self, journal: str, batches: Sequence[Batch], *, after: int = 0) -> None:
        """Record batches of a journal in order, with the offset, in one transaction.

        The caller knows that the journal is recorded up to offset ``after``. Batches up to there
        are skipped, and so are events whose seq is recorded: neither a replay nor another journal
        doubles any event. To record an older copy of a journal, start again with ``after`` 0.

        Raises:
            StoreUnavailable: nothing was written; a retry may succeed.
            StoreRolledBack: nothing was written: the store is recorded only up to ``offset``, so
                read the journal again from there.
            StoreError: nothing was written; the batches are not the cause.
        """
        try:
            self._apply(journal, batches, after)
        except (StoreUnavailable, StoreRolledBack, StoreDamaged):
            raise
        except Exception:
            # One event must not block all others: find it and store it without handling it.
            log.exception("recording %s failed: retrying one by one", plural(len(batches), "batch"))
            for batch in batches:
                self._apply_single(journal, batch, after)

    def _apply_single(self, journal: str, batch: Batch, after: int) -> None:
        try:
            self._apply(journal, [batch], after)
        except (StoreUnavailable, StoreRolledBack, StoreDamaged):
            raise
        except Exception:
            log.exception(
                "recording offset %d of %s failed: storing its events without handling them",
                batch.offset,
                batch.stream,
            )
            self._apply(journal, [batch], after, raw=True)

    def _apply(
        self, journal: str, batches: Sequence[Batch], after: int, *, raw: bool = False
    ) -> None:
        try:
            with write_transaction(self._engine, timeout=BUSY_TIMEOUT_SECONDS) as (
                connection,
                revision,
            ):
                self._cache.begin(connection, revision, self._clock())
                stored_offset = self._check_position(connection, journal, after)
                offset, intake = after, BatchIntake(self._cache)
                for batch in batches:
                    if batch.offset > offset:
                        intake.record(batch, raw=raw)
                        offset = batch.offset
                self._cache.flush()
                _save_position(connection, journal, stored_offset, offset, self._clock())
        except BaseException:
            # The cache is ahead of the rows now, so it must be loaded again.
            self._cache = RunCache()
            raise

    def _check_position(self, connection: Connection, journal: str, after: int) -> int | None:
        stored_offset = _offset(connection, journal)
        if (stored_offset or 0) < after:
            raise StoreRolledBack(redact_url(self._engine.url), after, stored_offset or 0)
        return stored_offset

    def update_run(
        self,
        run_id: str,
        *,
        name: str | None = None,
        project: str | None = None,
        note: str | None = None,
        tags: Sequence[str] | None = None,
        group: str | None = None,
    ) -> None:
        """Change the fields that are given; an empty text or empty ``tags`` removes the value.

        Raises:
            RunNotFound: no such run.
            StoreUnavailable: retry later.
        """
        changes: dict[str, Any] = {
            column: sanitize_text(text) or None
            for column, text in (
                ("name", name),
                ("project", project),
                ("note", note),
                ("group", group),
            )
            if text is not None
        }
        if tags is not None:
            changes["tags"] = to_json([sanitize_text(tag) for tag in tags])
        with write_transaction(self._engine) as (connection, revision):
            changed = connection.execute(
                update(runs)
                .where(runs.c.id == run_id, runs.c.started_at.is_not(None))
                .values(revision=revision, **changes)
            )
            if not changed.rowcount:
                raise RunNotFound(run_id)

    def delete_run(self, run_id: str) -> None:
        """Delete a run and free its disk space.

        No list shows it from now on. Its rows are deleted in slices, between which other processes
        can write; if this process dies meanwhile, ``finish_deletions`` deletes the rest. Late
        events of the run are ignored, but an attempt that begins later makes the run again.

        Raises:
            RunNotFound: no such run.
            StoreUnavailable: retry later; if the run is gone, only disk space remains to be freed.
        """
        mark_deleted(self._engine, run_id, self._clock())
        purge(self._engine)

    def finish_deletions(self) -> None:
        """Finish deletions that were interrupted."""
        purge(self._engine)


def _offset(connection: Connection, journal: str) -> int | None:
    found: int | None = connection.execute(
        select(positions.c.offset).where(positions.c.journal == journal)
    ).scalar()
    return found


def _save_position(
    connection: Connection, journal: str, stored_offset: int | None, offset: int, now: float
) -> None:
    if stored_offset is None:
        connection.execute(insert(positions).values(journal=journal, offset=offset, time=now))
    else:
        connection.execute(
            update(positions).where(positions.c.journal == journal).values(offset=offset, time=now)
        )
