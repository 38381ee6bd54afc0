"""From events to rows: what a batch does to a run's history.

Step-level kinds fold into two curves, compute and wait, and into exact counts. Heartbeats fold into
the row of the stream they speak of. Every other event is a row with all its data; ``store.meaning``
reads out of it what else it says. An event that is not what its kind promises is a row that says
so, never an error.
"""

from __future__ import annotations

from lineside.bus.client.reader import Batch
from lineside.bus.protocol.event_kinds import STEP_KINDS
from lineside.bus.protocol.events import AUDIT, CONTROL_BITS, Event
from lineside.store.database.tables import TIMING
from lineside.store.database.values import (
    INT_MAX,
    is_epoch,
    is_int64,
    is_name,
    is_timestamp,
    sanitize_text,
    to_json,
)
from lineside.store.recording.audit import add_refusal
from lineside.store.recording.command_handlers import CommandHandlers
from lineside.store.recording.event_handlers import EventContext, EventHandlers, InvalidEventData
from lineside.store.recording.run_cache import RunCache
from lineside.store.recording.run_state import RunState, StreamState, is_rank, is_run_process
from lineside.store.status.liveness import mark_alive, mark_progress, update_step_time
from lineside.store.status.verdict import RANK_0

UNREADABLE = "unreadable"
"""The kind under which an event is kept and counted whose own kind cannot be a name."""
INTERNAL_PREFIX = "_"
"""What the run part of a stream begins with that is no run, such as the broker's own."""
_TRAINING_STOP = 1 << CONTROL_BITS.index("should_training_stop")


class BatchIntake:
    """Takes batches into a ledger, during one transaction after the other."""

    def __init__(self, ledger: RunCache) -> None:
        self._cache = ledger
        self._event_handlers = EventHandlers(ledger, CommandHandlers(ledger).handlers)

    def record(self, batch: Batch, *, raw: bool = False) -> None:
        """Fold one batch. With ``raw`` nothing is read out of the events: they are only kept."""
        if batch.stream is None or batch.stream.run.startswith(INTERNAL_PREFIX):
            return
        if batch.stream.run == AUDIT and is_rank(batch.stream.producer):
            return  # a training that may not be called so
        ledger = self._cache
        run = ledger.run(batch.stream.run)
        first_time = next((e.time for e in batch.events if is_timestamp(e.time)), ledger.now)
        stream = ledger.stream(run, batch.stream.producer, batch.stream.attempt, first_time)
        if stream.ignored:
            ends = [event.seq + 1 for event in batch.events] + [gap.end for gap in batch.gaps]
            stream.next_seq = min(max([stream.next_seq, *ends]), INT_MAX)
            return
        if is_run_process(stream.producer):
            run.heard_at = ledger.now
        ledger.load_stream(stream)
        self._record_events(run, stream, batch.events, raw)
        for gap in batch.gaps:
            self._record_gap(stream, gap.end)
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
                break  # no column could count on from here
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
                # What others knew of as they told of its end, it said before that.
                is_new = events[-1].seq >= stream.emitted
                if is_new and is_timestamp(events[-1].time):
                    mark_alive(attempt, stream, events[-1].time)

    def _record_rare_event(
        self, run: RunState, stream: StreamState, event: Event, raw: bool
    ) -> str:
        """Keep an event that is not step-level; returns the kind it counts as."""
        problem = (
            "kept as it came: its meaning could not be stored" if raw else field_problem(event)
        )
        if problem is None:
            try:
                self._handle(EventContext(run, stream, event, event.data or {}))
            except InvalidEventData as unreadable:
                problem = str(unreadable)
        kind = event.kind if is_name(event.kind) else UNREADABLE
        if problem is None and (kind == "heartbeat" or run.id == AUDIT):
            return kind  # all of it is in a row elsewhere
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

    def _handle(self, context: EventContext) -> None:
        if context.run.id == AUDIT:
            add_refusal(self._cache.connection, context)
        else:
            self._event_handlers.handle(context)

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
        curve = self._cache.series(stream, TIMING, name)
        if nanoseconds >= 0 and curve is not None:
            curve.add(step, event.time, event.epoch, nanoseconds / 1e9, self._cache.rows)

    def _record_gap(self, stream: StreamState, end: int) -> None:
        """The stream's events up to ``end`` never came."""
        end = min(end, INT_MAX)
        if end > stream.next_seq:
            self._cache.rows.gaps.append((stream.id, stream.next_seq, end, self._cache.now))
            stream.missing += end - stream.next_seq
            stream.next_seq = end
            stream.reset_step_timing()
            stream.logged, stream.logged_known = None, True


def field_problem(event: Event) -> str | None:
    """What about the event's own fields no column can hold; None if all is well."""
    if not is_timestamp(event.time):
        return f"time {event.time!r} is not a date"
    if not (is_int64(event.step) and is_int64(event.monotonic_ns) and is_int64(event.control)):
        return "step, monotonic_ns or control is beyond 64 bits"
    if not is_epoch(event.epoch):
        return "epoch is not a number a column holds"
    if not is_name(event.kind):
        return f"kind {event.kind!r:.80} is not a name"
    return None
