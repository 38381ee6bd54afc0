"""Collects the points of one run and sends them: each once, in order, however long it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

from lineside.bus.protocol.events import RANK_0
from lineside.bus.protocol.patterns import matches
from lineside.bus.wording import plural
from lineside.subscribers import (
    EvaluateEvent,
    LogEvent,
    MetricsEvent,
    ProcessEvent,
    RetryLater,
    RunContext,
    RunEndEvent,
    RunEvent,
    RunStartEvent,
    Subscriber,
)
from lineside.subscribers.backoff import Backoff
from lineside.subscribers.uploader.batch import Batch
from lineside.subscribers.uploader.dead_letters import DeadLetters
from lineside.subscribers.uploader.options import CollectOptions
from lineside.subscribers.uploader.schedule import Schedule
from lineside.subscribers.uploader.sinks.sink import Refused, Sink, TooLarge, Unavailable
from lineside.subscribers.uploader.waiting import Waiting

RETRY_SECONDS = (1.0, 120.0)
"""The first and the longest delay before a batch is sent again."""
REPORT_SECONDS = 600.0
"""Between two reports on a run's page that batches were refused: each of them may be."""


class Uploader(Subscriber):
    """Sends the points of a run to ``sink``.

    They wait in the run's state until ``tick`` sends them. While the receiver takes none, events
    are handled until the state is full; then the next one waits, and with it the run's cursor.
    """

    name: ClassVar[str] = "uploader"

    def __init__(self, sink: Sink, options: CollectOptions, dead_letters: DeadLetters) -> None:
        self._sink = sink
        self._options = options
        self._dead_letters = dead_letters
        self._schedule = Schedule(options)
        self._most = options.batch
        self._backoff = Backoff(*RETRY_SECONDS)
        self._problem, self._retry_at = "", 0.0  # monotonic

    def on_run_start(self, run: RunContext, event: RunStartEvent) -> None:
        self._note_over(run, event.producer, event.attempt, is_over=False)

    def on_run_end(self, run: RunContext, event: RunEndEvent) -> None:
        self._note_over(run, event.producer, event.attempt, is_over=True)

    def on_process_lost(self, run: RunContext, event: ProcessEvent) -> None:
        lost = event.data
        self._note_over(run, lost.get("producer"), lost.get("attempt"), is_over=True)

    def on_log(self, run: RunContext, event: LogEvent) -> None:
        self._collect(run, event)

    def on_evaluate(self, run: RunContext, event: EvaluateEvent) -> None:
        self._collect(run, event)

    def on_predict(self, run: RunContext, event: EvaluateEvent) -> None:
        self._collect(run, event)

    def on_metrics(self, run: RunContext, event: MetricsEvent) -> None:
        self._collect(run, event)

    def tick(self, run: RunContext, now: float) -> None:
        waiting = Waiting(run, self._options.batch)
        if waiting.rows and (
            waiting.is_fixed or waiting.is_full or self._schedule.is_due(run, now)
        ):
            self._send_all(run, waiting, now)

    def _collect(self, run: RunContext, event: RunEvent) -> None:
        if not _fits(event.producer, self._options.producers):
            return
        waiting = Waiting(run, self._options.batch)
        if waiting.is_full:
            self._send_all(run, waiting, time.time())
        prefix, options = self._options.log_key_prefix, self._options
        values = {
            f"{prefix}{name}": value + 0  # a bool becomes 0 or 1
            for name, value in waiting.points(event).items()
            if _fits(name, options.metrics)
            and not any(matches(name, pattern) for pattern in options.exclude)
        }
        if not values:
            return
        try:
            waiting.add(event, values, time.time())
        except ValueError as error:
            run.report(error)

    def _send_all(self, run: RunContext, waiting: Waiting, now: float) -> None:
        """Send what waits, batch by batch.

        Raises:
            RetryLater: the receiver does not take it now.
        """
        remaining = self._retry_at - time.monotonic()
        if remaining > 0:
            raise RetryLater(self._problem, remaining)
        while waiting.rows:
            batch = waiting.fix(self._most)
            run.save()  # a crash from here on must not change the batch
            try:
                self._sink.send(batch)
            except TooLarge as error:
                self._shrink(run, waiting, batch, error)
                continue
            except Refused as error:
                self._give_up(run, batch, error)
            except Unavailable as error:
                raise self._later(str(error), error.retry_after) from None
            self._backoff.succeed()
            waiting.remove()
        self._schedule.note(run, now)

    def _shrink(self, run: RunContext, waiting: Waiting, batch: Batch, error: TooLarge) -> None:
        if len(batch.points) == 1:
            self._give_up(run, batch, error)
            waiting.remove()
        else:
            self._most = len(batch.points) // 2
            waiting.unfix()

    def _give_up(self, run: RunContext, batch: Batch, error: Refused) -> None:
        try:
            is_kept, place = self._dead_letters.keep(batch, str(error))
        except OSError as problem:
            why = f"{error}; it cannot be put aside either: {problem.strerror}"
            raise self._later(why, None) from None
        state = run.open_state()
        reports: dict[str, Any] = state.setdefault("reports", {})
        kind = "kept" if is_kept else "lost"
        reported_at, others = reports.get(kind, (0.0, 0))
        if 0 <= time.time() - reported_at < REPORT_SECONDS:
            reports[kind] = [reported_at, others + 1]
            return
        reports[kind] = [time.time(), 0]
        points = f"points {batch.points[0].seq} to {batch.points[-1].seq} of {batch.stream}"
        more = f", after {plural(others, 'batch')} before" if others else ""
        run.report(f"{points} were refused{more}: {error}. {place}")

    def _later(self, reason: str, retry_after: float | None) -> RetryLater:
        seconds = max(self._backoff.fail(), retry_after or 0.0)
        self._problem, self._retry_at = reason, time.monotonic() + seconds
        return RetryLater(reason, seconds)

    def _note_over(
        self, run: RunContext, producer: object, attempt: object, *, is_over: bool
    ) -> None:
        if producer == RANK_0 and attempt == run.attempt:  # not the end of one before
            run.open_state()["is_over"] = is_over


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(matches(name, pattern) for pattern in patterns)
