"""Writing into the run history: what the bus delivers, and what a person changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from lineside.bus.client.reader import Batch
from lineside.bus.errors import RunNotFound, StoreRolledBack, StoreUnavailable
from lineside.store.database.engine import read_transaction, redact_url, write_transaction
from lineside.store.database.sqlite import BUSY_TIMEOUT_SECONDS
from lineside.store.database.tables import positions, runs
from lineside.store.database.values import sanitize_text, to_json
from lineside.store.recording.batch_intake import BatchIntake
from lineside.store.recording.deletion import mark_deleted, purge
from lineside.store.recording.run_cache import RunCache

log = logging.getLogger("lineside")


class Writer:
    """Writes into one store. ``apply`` belongs to one thread; other processes may write besides.

    ``clock`` gives seconds since the epoch.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock
        self._cache = RunCache()

    def position(self) -> tuple[str, int] | None:
        """The journal written from last, and how far; None for a new store."""
        with read_transaction(self._engine) as connection:
            row = connection.execute(
                select(positions).order_by(positions.c.time.desc(), positions.c.offset.desc())
            ).first()
        return None if row is None else (row.journal, row.offset)

    def offset(self, journal: str) -> int:
        """How far the journal of this id is recorded; 0 if nothing is."""
        with read_transaction(self._engine) as connection:
            return _offset(connection, journal) or 0

    def apply(self, journal: str, batches: Sequence[Batch], *, after: int = 0) -> None:
        """Record batches of a journal, in order, and how far it is recorded now: all or nothing.

        What was recorded before is left out: a batch that is not behind offset ``after``, up to
        which the caller knows the journal to be recorded, and an event by its place in its stream.
        So neither a replay nor another journal doubles anything, and an older copy of a journal is
        recorded by beginning with ``after`` 0 again.

        Raises:
            StoreUnavailable: nothing was written; trying again may help.
            StoreSetBack: nothing was written, for the store is not that far: what was recorded in
                between is to be read again, from ``offset`` on.
            StoreError: nothing was written, and these batches are not to blame.
        """
        try:
            self._apply(journal, batches, after)
        except (StoreUnavailable, StoreRolledBack):
            raise
        except Exception:
            # One event must not stand in the way of all others: find it and keep it as it is.
            log.exception("the store refused %d batches together, so one by one", len(batches))
            for batch in batches:
                self._apply_single(journal, batch, after)

    def _apply_single(self, journal: str, batch: Batch, after: int) -> None:
        try:
            self._apply(journal, [batch], after)
        except (StoreUnavailable, StoreRolledBack):
            raise
        except Exception:
            log.exception("offset %d of %s is kept unread", batch.offset, batch.stream)
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
            # Memory is ahead of the rows now; it is loaded again when needed.
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
    ) -> None:
        """Change what is given; an empty text, or no ``tags``, takes away what was there.

        Raises:
            RunNotFound: no such run.
            StoreUnavailable: try again later.
        """
        changes: dict[str, Any] = {
            column: sanitize_text(text) or None
            for column, text in (("name", name), ("project", project), ("note", note))
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
        """Take a run out of the history, and its rows off the disk.

        It is gone from every list at once; its rows go in slices that let others write in between,
        and if this process dies meanwhile ``finish_deletions`` goes on. Events of it that are still
        to come are left out, but an attempt begun after this moment makes the run anew.

        Raises:
            RunNotFound: no such run.
            StoreUnavailable: try again later; if the run is gone, only disk is still to be freed.
        """
        mark_deleted(self._engine, run_id, self._clock())
        purge(self._engine)

    def finish_deletions(self) -> None:
        """Go on with deletions that were cut short."""
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
