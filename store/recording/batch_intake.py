"""Records batches of events: counts, timing, rows, and calls to the handlers.

Step-level kinds fold into two curves, compute and wait, and into exact counts. Heartbeats fold into
the row of the stream they report on. Every other event becomes a row with all its data, and the
handlers derive status, metrics and commands from it. An event whose data does not match its kind
becomes a row with a ``problem``; it never raises.
"""

from __future__ import annotations

from lineside.bus.client.reader import Batch
from lineside.bus.protocol.alerts import RESPONSE_KINDS
from lineside.bus.protocol.checkpoints import STATE_KINDS
from lineside.bus.protocol.event_kinds import ALERT, CHECKPOINT_REQUEST, METRICS, STEP_KINDS
from lineside.bus.protocol.events import (
    AUDIT,
    CONTROL_BITS,
    INTERNAL_RUN,
    RANK_0,
    UNREADABLE,
    Event,
    Stream,
    is_rank,
    is_run_process,
)
from lineside.bus.protocol.fields import (
    INT_MAX,
    field_problem,
    is_epoch,
    is_int64,
    is_name,
    is_timestamp,
)
from lineside.store.database.tables import TIMING
from lineside.store.database.values import sanitize_text, to_json
from lineside.store.recording.alert_handlers import AlertHandlers
from lineside.store.recording.audit import add_refusal
from lineside.store.recording.checkpoint_handlers import CheckpointHandlers
from lineside.store.recording.command_handlers import CommandHandlers
from lineside.store.recording.event_context import EventContext, Handlers, InvalidEventData
from lineside.store.recording.event_handlers import EventHandlers
from lineside.store.recording.progress import mark_alive, mark_progress, update_step_time
from lineside.store.recording.run_cache import RunCache
from lineside.store.recording.run_state import RunState, StreamState

INTERNAL_PREFIX = "_"
"""The prefix of names in the place of a run that are no run, such as the broker's."""
_ALERT_KINDS = frozenset({ALERT, *RESPONSE_KINDS})
_IGNORED_AFTER_DELETION = _ALERT_KINDS | {METRICS, CHECKPOINT_REQUEST, *STATE_KINDS}
_TRAINING_STOP = 1 << CONTROL_BITS.index("should_training_stop")


def is_recorded(stream: Stream) -> bool:
    """Whether events of the stream are recorded: those of runs, the audit and ``INTERNAL_RUN``."""
    if stream.run in (AUDIT, INTERNAL_RUN):
        return not is_rank(stream.producer)  # the names are reserved: no training may use them
    return not stream.run.startswith(INTERNAL_PREFIX)


class BatchIntake:
    """Records batches into a run cache during one transaction.

    ``extra_handlers`` replace those that write commands, alerts and states of checkpoints.
    """

    def __init__(self, cache: RunCache, extra_handlers: Handlers | None = None) -> None:
        if extra_handlers is None:
            extra_handlers = {
                **CommandHandlers(cache).handlers,
                **AlertHandlers(cache).handlers,
                **CheckpointHandlers(cache).handlers,
            }
        self._cache = cache
        self._extra_handlers = extra_handlers
        self._event_handlers = EventHandlers(cache, extra_handlers)

    def record(self, batch: Batch, *, raw: bool = False) -> None:
        """Record one batch. With ``raw``, store the events without calling any handler."""
        if batch.stream is None or not is_recorded(batch.stream):
            return
        cache = self._cache
        run = cache.run(batch.stream.run)
        first_time = next((e.time for e in batch.events if is_timestamp(e.time)), cache.now)
        stream = cache.stream(run, batch.stream.producer, batch.stream.attempt, first_time)
        if stream.ignored:
            ends = [event.seq + 1 for event in batch.events] + [gap.end for gap in batch.gaps]
            stream.next_seq = min(max([stream.next_seq, *ends]), INT_MAX)
            return
        if is_run_process(stream.producer):
            run.heard_at = cache.now
        cache.load_stream(stream)
        self._record_events(run, stream, batch.events, raw)
        for gap in batch.gaps:
            self._record_gap(stream, gap.end, is_reported=gap.is_reported)
        stream.emitted = max(stream.emitted, stream.next_seq)

    def _record_events(
        self, run: RunState, stream: StreamState, events: tuple[Event, ...], raw: bool
    ) -> None:
        new_counts = stream.new_counts
        max_step, epoch = -1, None
        for event in events:
            seq = event.seq
            if seq != stream.next_seq:
                if seq < stream.next_seq:
                    continue
                self._record_gap(stream, seq)
            if seq >= INT_MAX:
                break  # the next seq would exceed 64 bits
            stream.next_seq = seq + 1
            stream.recorded += 1
            kind = event.kind
            if max_step < event.step <= INT_MAX:
                max_step = event.step
            if event.epoch is not None and is_epoch(event.epoch):
                epoch = event.epoch
            if kind not in STEP_KINDS:
                kind = self._record_rare_event(run, stream, event, raw)
            elif kind == "step_begin" and not raw:
                self._on_step_begin(stream, event)
            elif kind == "step_end" and not raw:
                self._on_step_end(stream, event)
            new_counts[kind] = new_counts.get(kind, 0) + 1
        if stream.producer == RANK_0:
            attempt = self._cache.attempt(run, stream.attempt, self._cache.now)
            if max_step > -1:
                attempt.step = max(attempt.step or 0, max_step)
            if epoch is not None:
                attempt.epoch = epoch
            if events:
                stream.is_stopping = bool(events[-1].control & _TRAINING_STOP)
                mark_progress(attempt, stream, self._cache.now)
                # Events counted in ``emitted`` were emitted before the report of its end.
                is_new = events[-1].seq >= stream.emitted
                if is_new and is_timestamp(events[-1].time):
                    mark_alive(attempt, stream, events[-1].time)

    def _record_rare_event(
        self, run: RunState, stream: StreamState, event: Event, raw: bool
    ) -> str:
        """Record an event that is not step-level; returns the kind it counts as."""
        if run.is_deleted and event.kind in _IGNORED_AFTER_DELETION:
            return event.kind
        problem, is_folded = field_problem(event), False
        if raw:
            problem = "stored as it came: handling it failed"
        if problem is None:
            try:
                is_folded = self._handle(EventContext(run, stream, event, event.data or {}))
            except InvalidEventData as error:
                problem = str(error)
        kind = event.kind if is_name(event.kind) else UNREADABLE
        if problem is None and is_folded:
            return kind  # its data is in a row of another table
        if problem is not None:
            stream.unreadable += 1
        run.events += 1
        self._cache.rows.events.append(
            (
                run.key,
                run.events,
                stream.id,
                event.seq,
                kind,
                event.step if is_int64(event.step) else 0,
                event.epoch if is_epoch(event.epoch) else None,
                event.time if is_timestamp(event.time) else self._cache.now,
                event.control if is_int64(event.control) else 0,
                None if event.data is None else to_json(event.data),
                None if problem is None else sanitize_text(problem),
            )
        )
        return kind

    def _handle(self, context: EventContext) -> bool:
        """Handle an event; whether it gets no row."""
        if context.run.id == AUDIT:
            add_refusal(self._cache.connection, context)
            return True
        if context.run.id == INTERNAL_RUN:
            handler = self._extra_handlers.get(context.event.kind)
            if handler is not None and context.event.kind in _ALERT_KINDS:
                handler(context)
            return True
        return self._event_handlers.handle(context)

    def _on_step_begin(self, stream: StreamState, event: Event) -> None:
        now = event.monotonic_ns
        if field_problem(event) is not None:
            stream.reset_step_timing()
            return
        stream.waited_ns = 0
        if stream.step_ended_ns is not None and stream.step_ended is not None:
            stream.waited_ns = now - stream.step_ended_ns
            self._add_timing(stream, "wait", stream.step_ended, event, stream.waited_ns)
        stream.step_began_ns, stream.step_ended_ns = now, None

    def _on_step_end(self, stream: StreamState, event: Event) -> None:
        now = event.monotonic_ns
        if field_problem(event) is not None:
            stream.reset_step_timing()
            return
        if stream.step_began_ns is not None:
            self._add_timing(stream, "compute", event.step, event, now - stream.step_began_ns)
            update_step_time(stream, (now - stream.step_began_ns + stream.waited_ns) / 1e9)
        stream.step_began_ns, stream.step_ended_ns, stream.step_ended = None, now, event.step

    def _add_timing(
        self, stream: StreamState, name: str, step: int, event: Event, nanoseconds: int
    ) -> None:
        if nanoseconds >= 0:
            self._cache.add_point(stream, TIMING, name, step, event, nanoseconds / 1e9)

    def _record_gap(self, stream: StreamState, end: int, *, is_reported: bool = False) -> None:
        """Record that the events from ``next_seq`` to before ``end`` are missing."""
        end = min(end, INT_MAX)
        if end > stream.next_seq:
            self._cache.rows.gaps.append((stream.id, stream.next_seq, end, self._cache.now))
            stream.missing += end - stream.next_seq
            if is_reported:
                stream.reported += end - stream.next_seq
            stream.next_seq = end
            stream.reset_step_timing()
