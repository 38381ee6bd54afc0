"""What the live stream carries: the changed runs of a store, as the REST API says them."""

from __future__ import annotations

import json
import time
from typing import Any

from lineside.bus.errors import RunNotFound
from lineside.dashboard.api.api import MAX_NUMBER
from lineside.dashboard.api.models import Run
from lineside.dashboard.backend.door import Door
from lineside.dashboard.live.live import Change
from lineside.store.history.records import GOING_ON

TOO_MANY = 200
"""Runs changed at once beyond which a listener is told to start over."""


class StoreFeed:
    """Reads changes through ``door``; looks every ``silence`` seconds for who has fallen silent."""

    def __init__(self, door: Door, silence: float = 2.0) -> None:
        self._door = door
        self._silence = silence
        self._going_on: dict[str, str] = {}
        self._looked = -silence

    def revision(self) -> int:
        """The store's present revision: no store reaches the one that is asked for."""
        return self._door.history.changes(MAX_NUMBER).revision

    def since(self, revision: int) -> Change | None:
        """What changed after ``revision``; None if that is too much, or not this store's."""
        changes = self._door.history.changes(min(revision, MAX_NUMBER))
        if revision > changes.revision or len(changes.run_ids) > TOO_MANY:
            return None
        return self._change(changes.revision, changes.run_ids)

    def silent(self, revision: int) -> Change:
        """Runs that were running and are not, though nothing came: time makes them stalled, and
        disconnected."""
        if time.monotonic() - self._looked < self._silence:
            return Change(revision)
        self._looked = time.monotonic()
        before, self._going_on = self._going_on, {}
        for status in GOING_ON:
            page = self._door.history.runs(status=status, sort="-updated_at", limit=TOO_MANY)
            self._going_on.update({run.id: run.status for run in page.items})
        changed = [run for run, status in before.items() if self._going_on.get(run) != status]
        return self._change(revision, tuple(changed))

    def _change(self, revision: int, run_ids: tuple[str, ...]) -> Change:
        runs: dict[str, dict[str, Any]] = {}
        deleted = set()
        for run_id in run_ids:
            try:
                run = Run.model_validate(self._door.history.run(run_id))
                runs[run_id] = json.loads(run.model_dump_json())
            except RunNotFound:
                deleted.add(run_id)
        return Change(revision, runs, frozenset(deleted))
