"""The process that shows every run to Prometheus."""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from lineside.bus.client.reader import Batch
from lineside.bus.settings import Settings
from lineside.store.database.engine import sqlite_path
from lineside.subscribers.batch_subscriber import BatchSubscriber
from lineside.subscribers.exporter.families import OWN_FAMILIES
from lineside.subscribers.exporter.firing import FiringAlerts
from lineside.subscribers.exporter.page import OwnMetrics, Page, sample_lines
from lineside.subscribers.exporter.record import RunRecord
from lineside.subscribers.exporter.samples import STATUSES, add_run, new_lines, run_status
from lineside.subscribers.exporter.server import Health, PageServer
from lineside.subscribers.exporter.state_file import ExporterState
from lineside.subscribers.exporter.tracker import MAX_METRICS, RunTracker
from lineside.subscribers.state.state_file import StateFileError

log = logging.getLogger("lineside")

RENDER_SECONDS = 5.0
"""Time between two renderings of the page, by default."""
SAVE_SECONDS = 60.0
"""How often the state is saved; what a crash loses is read again before a page is served."""
LINGER_SECONDS = 600.0
"""How long the series of a run stay after its end."""
SILENT_SECONDS = 86_400.0
"""How long a run without an end keeps its series after the last sign of life."""
ARCHIVE_SECONDS = 30 * 86_400.0
"""How long a run keeps them without an event of a checkpoint that waits for the archive."""
_FORGET_SECONDS = 60 * 86_400.0
_PRUNE_SECONDS = 3600.0


class Exporter(BatchSubscriber):
    """Reads every stream, and gives a page to ``server`` every ``render_seconds``.

    Counters and offset are saved in one transaction, and each run knows the next seq of its
    streams: an event that is read again is not counted again. No page is served until the journal
    is read up to where it ended when this process connected. So no counter falls over a restart.
    ``clock`` returns seconds since the epoch.
    """

    name = "exporter"
    is_durable = False
    credit: ClassVar[int] = 256
    collect_seconds: ClassVar[float] = 0.2
    collect_events: ClassVar[int] = 10_000

    def __init__(
        self,
        settings: Settings,
        server: PageServer,
        *,
        max_metrics: int = MAX_METRICS,
        render_seconds: float = RENDER_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(settings)
        self._server = server
        self._max_metrics = max_metrics
        self._render_seconds = render_seconds
        self._has_page = False
        self._clock = clock
        self._state_file: ExporterState | None = None
        self._own = OwnMetrics()
        self._level_at = clock()  # when the journal was last read to its end
        self._render_at = self._save_at = self._prune_at = 0.0
        self._store_path = sqlite_path(settings.store)

    def startup(self) -> None:
        self._state_file = self._open_state()
        self._tracker = RunTracker(self._state_file.load, self._max_metrics)
        self._tracker.subscriber_errors = self._state_file.subscriber_errors()
        self._tracker.firing = FiringAlerts(self._state_file.alerts())
        for run_id in self._state_file.open_runs():
            self._tracker.load_or_make_run(run_id)
        self._save_at = time.monotonic() + SAVE_SECONDS
        self._server.start()
        super().startup()

    def position(self) -> tuple[str | None, int]:
        return self._state_file.position() if self._state_file else (None, 0)

    def handle(self, batches: Sequence[Batch]) -> bool:
        now = self._clock()
        self._tracker.is_live = self.is_caught_up
        for batch in batches:
            if batch.stream is None:
                for gap in batch.gaps:
                    self.handle_gap(gap)
            self._tracker.read(batch, now)
        return True

    def tick(self, now: float) -> None:
        if self.is_connected and self.offset >= self.reader.head:
            self._level_at = self._clock()
        is_first = self.is_caught_up and not self._has_page
        if now >= self._render_at or is_first:
            self._render_at = now + self._render_seconds
            self.render()
        if now >= self._save_at:
            self._save_at = now + SAVE_SECONDS
            self.flush()
        if now >= self._prune_at and self._state_file is not None:
            self._prune_at = now + _PRUNE_SECONDS
            with self._log_failures():
                self._state_file.prune(self._clock() - _FORGET_SECONDS)

    def render(self) -> None:
        """Give the server a new page, and forget runs whose time is over."""
        lag = max(0, self.reader.head - self.offset)
        health = Health(
            self.is_connected,
            self.is_caught_up,
            lag,
            self._clock() - self._level_at if lag else 0.0,
        )
        self._has_page = self.is_caught_up
        if not self._has_page:
            self._server.publish(None, health)
            return
        # Without the broker nothing is known of now: statuses stay as of when it was last read.
        as_of = self._level_at
        lines, statuses = new_lines(), Counter[str]()
        for run_id, record in list(self._tracker.records.items()):
            if self._is_shown(record):
                status = run_status(record, as_of)
                statuses[status] += 1
                add_run(lines, record, status, as_of)
            elif run_id not in self._tracker.changed:
                self._tracker.forget(run_id)
        own = self._own_samples(statuses, health)
        self._server.publish(Page(own | lines, self._own), health)

    def flush(self) -> None:
        if self._state_file is None:
            return
        changed = self._tracker.changed
        records = {run_id: (record, self._is_shown(record)) for run_id, record in changed.items()}
        with self._log_failures():
            self._state_file.save(
                self.reader.journal,
                self.offset,
                records,
                self._tracker.subscriber_errors,
                self._tracker.firing.to_dict(),
            )
            changed.clear()

    def shutdown(self) -> None:
        super().shutdown()
        self._server.stop()
        if self._state_file is not None:
            self._state_file.close()

    def _open_state(self) -> ExporterState:
        """The saved state, or an empty one in memory: a full disk is no reason to be blind."""
        try:
            return ExporterState.of(self.settings.home)
        except StateFileError as error:
            log.error(  # noqa: TRY400 - the sentence is complete
                "exporter: %s; until then counters begin with the journal at each start", error
            )
            return ExporterState()

    @contextlib.contextmanager
    def _log_failures(self) -> Iterator[None]:
        """Go on without the file, which is a cache; it is written again when that works."""
        try:
            yield
        except StateFileError as error:
            log.warning("exporter: %s", error)

    def _is_shown(self, record: RunRecord) -> bool:
        if not record.state.attempts:
            return False
        archive = record.archive
        if archive.is_pending and self._level_at < archive.heard_at + ARCHIVE_SECONDS:
            return True
        if record.ended_seen_at is not None:
            return self._clock() < record.ended_seen_at + LINGER_SECONDS
        return self._level_at < record.state.heard_at + SILENT_SECONDS

    def _own_samples(self, statuses: Counter[str], health: Health) -> dict[str, list[str]]:
        samples: dict[str, list[tuple[tuple[str, ...], float]]] = {
            "lineside_build_info": [((version("lineside"), platform.python_version()), 1)],
            "lineside_runs": [((status,), statuses[status]) for status in STATUSES],
            "lineside_exporter_connected": [((), int(health.is_connected))],
            "lineside_subscriber_lag_entries": [((self.name,), health.lag_entries)],
            "lineside_subscriber_lag_seconds": [((self.name,), health.lag_seconds)],
            "lineside_subscriber_errors_total": [
                ((name,), count) for name, count in self._tracker.subscriber_errors.items()
            ],
            "lineside_alerts_firing": list(self._tracker.firing.counts().items()),
            "lineside_journal_bytes": _file_size(self.settings.journal),
            "lineside_store_bytes": _file_size(self._store_path),
        }
        return {f.name: sample_lines(f, samples[f.name]) for f in OWN_FAMILIES}


def _file_size(path: Path | None) -> list[tuple[tuple[str, ...], float]]:
    """The size of a SQLite file with its log; nothing if it is not on this machine."""
    if path is None or not path.exists():
        return []
    log_file = path.with_name(path.name + "-wal")
    return [((), path.stat().st_size + (log_file.stat().st_size if log_file.exists() else 0))]
