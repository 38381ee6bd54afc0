"""The changes of a store for the live stream, as documents of the REST API."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

from lineside.bus.errors import RunNotFound
from lineside.dashboard.api.models import Run
from lineside.dashboard.api.parameters import MAX_INT64
from lineside.dashboard.backend.store_access import StoreAccess
from lineside.dashboard.live.hub import Change
from lineside.store.history.records import RUNNING_STATUSES

MAX_CHANGES = 200
"""With more runs changed at once, listeners receive a reset."""


class StoreFeed:
    """Reads changes; every ``status_interval`` seconds it looks for runs that timed out."""

    def __init__(self, store: StoreAccess, status_interval: float = 2.0) -> None:
        self._store = store
        self._status_interval = status_interval
        self._running: dict[str, str] = {}
        self._checked_at = -status_interval

    def revision(self) -> int:
        """The current revision of the store."""
        return self._store.history.revision()

    def changes_since(self, revision: int) -> Change | None:
        """Changes after ``revision``; None if too many, or of another store."""
        changes = self._store.history.changes(min(revision, MAX_INT64))
        if revision > changes.revision or len(changes.run_ids) > MAX_CHANGES:
            return None
        return replace(self._change(changes.revision, changes.run_ids), alerts=changes.alerts)

    def status_timeouts(self, revision: int) -> Change:
        """Runs that became stalled or disconnected because no event came."""
        if time.monotonic() - self._checked_at < self._status_interval:
            return Change(revision)
        self._checked_at = time.monotonic()
        before, self._running = self._running, {}
        page = self._store.history.runs(
            statuses=RUNNING_STATUSES, sort="-updated_at", limit=MAX_CHANGES
        )
        self._running.update({run.id: run.status for run in page.items})
        changed = [run for run, status in before.items() if self._running.get(run) != status]
        return self._change(revision, tuple(changed))

    def _change(self, revision: int, run_ids: tuple[str, ...]) -> Change:
        runs: dict[str, dict[str, Any]] = {}
        deleted = set()
        for run_id in run_ids:
            try:
                run = Run.model_validate(self._store.history.run(run_id))
                runs[run_id] = json.loads(run.model_dump_json())
            except RunNotFound:
                deleted.add(run_id)
        return Change(revision, runs, frozenset(deleted))
