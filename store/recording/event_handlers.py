"""Applies rare kinds of events to states: status, metrics, checkpoints, counters."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping
from typing import Any

from lineside.bus.errors import StreamNameError
from lineside.bus.protocol import commands
from lineside.bus.protocol.event_kinds import KINDS, METRICS
from lineside.bus.protocol.events import RANK_0, Stream, is_rank
from lineside.bus.protocol.fields import is_int64, is_name, is_timestamp
from lineside.bus.protocol.metric_points import other_values
from lineside.store.database.tables import METRIC
from lineside.store.database.values import is_finite_number, sanitize_text, to_json
from lineside.store.recording.checkpoint_metrics import (
    metrics_at_save,
    metrics_json,
    metrics_of_evaluation,
)
from lineside.store.recording.event_context import (
    EventContext,
    Handlers,
    InvalidEventData,
    optional_text,
)
from lineside.store.recording.progress import mark_alive, mark_progress
from lineside.store.recording.run_cache import RunCache
from lineside.store.recording.run_state import AttemptState, StreamState
from lineside.store.status.verdict import DETECTION_SECONDS, RAISED, RankState

_COUNTERS = ("dropped", "hook_errors", "encode_failures", "hook_ns", "hooks", "rss")
_ERROR_LENGTH = 1000
_TRACEBACK_LENGTH = 10_000
_NOTE_LENGTH, _GROUP_LENGTH, _TAG_LENGTH = 10_000, 200, 100
_MAX_TAGS = 50
_HEARTBEAT_SECONDS = 2.0  # heartbeats come once a second, on a loaded machine a little later


class EventHandlers:
    """Applies events to the states in the cache; each handler parses first and then applies.

    Of a kind that is also in ``extra_handlers``, both handlers run.
    """

    def __init__(self, cache: RunCache, extra_handlers: Handlers) -> None:
        self._cache = cache
        self._extra_handlers = extra_handlers
        self._handlers: dict[str, Callable[[EventContext], bool | None]] = {
            "run_start": self._on_run_start,
            "run_end": self._on_run_end,
            "train_begin": self._on_train_begin,
            "train_end": self._on_train_end,
            "train_error": self._on_train_error,
            **dict.fromkeys(("log", "evaluate", "predict", METRICS), self._on_numbers),
            "save": self._on_save,
            "heartbeat": self._on_heartbeat,
            "process_lost": self._on_process_lost,
            "process_exit": self._on_process_exit,
            commands.APPLIED: self._on_applied,
        }

    def handle(self, context: EventContext) -> bool:
        """Apply one event; whether another table has all of it, so that it needs no row.

        Raises:
            InvalidEventData: its data does not match its kind.
        """
        is_folded = False
        for handlers in (self._handlers, self._extra_handlers):
            handler = handlers.get(context.event.kind)
            if handler is not None:
                is_folded = handler(context) is True
        if context.stream.producer == RANK_0 and "state" in context.data:
            self._apply_state(context)
            if "checkpoints" in context.data:
                self._apply_checkpoints(context)
        return is_folded

    def _on_run_start(self, context: EventContext) -> None:
        run, data = context.run, context.data
        # The first ones stay: a user may have changed them since.
        run.name = run.name or optional_text(data, "name")
        run.project = run.project or optional_text(data, "project")
        run.note = run.note or optional_text(data, "notes", _NOTE_LENGTH)
        run.group = run.group or optional_text(data, "group", _GROUP_LENGTH)
        run.tags = run.tags or _tags(data.get("tags"))
        if context.stream.producer == RANK_0:
            attempt = self._attempt(context)
            attempt.started_at = context.event.time
            resumed = data.get("resumed_from")
            if isinstance(resumed, Mapping):
                attempt.resumed_attempt = optional_text(resumed, "attempt")
                attempt.resumed_step = _optional_int64(resumed, "step")

    def _on_run_end(self, context: EventContext) -> None:
        how = optional_text(context.data, "how")
        if how is None:
            raise InvalidEventData("run_end has no text `how`")
        rank = context.stream.rank
        if rank.how != RAISED:  # train_error has recorded how training ended
            if how == "exception" or not rank.ended:
                rank.ended_at = context.event.time
            rank.how = how
            _apply_error(rank, context.data)
        context.stream.reset_step_timing()
        _apply_counters(context.stream, context.data.get("counters"))

    def _on_train_begin(self, context: EventContext) -> None:
        rank = context.stream.rank
        rank.began, rank.ended = True, False
        if not rank.lost:  # process_lost comes in another stream and may be recorded first
            rank.ended_at = None

    def _on_train_end(self, context: EventContext) -> None:
        context.stream.rank.ended, context.stream.rank.ended_at = True, context.event.time
        context.stream.reset_step_timing()

    def _on_train_error(self, context: EventContext) -> None:
        rank = context.stream.rank
        rank.how, rank.ended_at = RAISED, context.event.time
        _apply_error(rank, context.data)
        context.stream.reset_step_timing()

    def _on_applied(self, context: EventContext) -> None:
        """Record who stopped the training; rank 0 reports it in its attempt's control stream."""
        if (
            context.data.get("op") == "stop"
            and context.stream.producer == commands.CONTROL_PRODUCER
        ):
            context.stream.rank.stopped_by = _stop_reason(context.data)
            if context.stream.attempt in context.run.attempts:
                self._attempt(context)  # marks it for a new verdict

    def _on_numbers(self, context: EventContext) -> None:
        _required_mapping(context, KINDS[context.event.kind].summary)
        stream, event = context.stream, context.event
        for name, value in other_values(event).items():
            if is_name(name) and not self._cache.set_logged_value(stream, name, event, value):
                stream.left_out += 1
        self._add_points(context, self._cache.metric_points(context.run, stream).of(event))
        if event.kind == "evaluate" and stream.producer == RANK_0:
            self._cache.add_checkpoint_metrics(
                context.run, stream, event.step, metrics_of_evaluation(context)
            )
        if context.data.get("outside_training") is True and not stream.rank.began:
            # All that this process does is over: until another evaluation it sends nothing more.
            stream.rank.ended, stream.rank.ended_at = True, event.time

    def _on_save(self, context: EventContext) -> None:
        path = optional_text(context.data, "checkpoint")
        if path is not None:
            run, event = context.run, context.event
            self._cache.mark_deleted_checkpoints(run, event.time, path=path)  # overwritten
            self._cache.rows.checkpoints.append(
                (
                    run.key,
                    run.events + 1,
                    context.stream.id,
                    event.step,
                    event.epoch,
                    event.time,
                    path,
                    None,
                    metrics_json(metrics_at_save(context)),
                )
            )

    def _on_heartbeat(self, context: EventContext) -> bool:
        target = self._target(context)
        if not target.ignored:
            _apply_counters(target, context.data)
            target.phase = optional_text(context.data, "phase")
            target.rank.step = _optional_int64(context.data, "step")
            if is_rank(target.producer):
                attempt = self._cache.attempt(context.run, target.attempt, context.event.time)
                mark_alive(attempt, target, context.event.time)
            if target.producer == RANK_0:
                age, now = context.data.get("hook_age"), self._cache.now
                # A shipper on another machine does not know the age: then the newest event counts.
                moved_at = attempt.progress_at or now
                if is_finite_number(age) and 0 <= age <= now:
                    moved_at = now - age
                mark_progress(attempt, target, moved_at)
        return True

    def _on_process_lost(self, context: EventContext) -> None:
        target = self._target(context)
        if not target.ignored:
            _apply_counters(target, context.data)
            target.rank.lost, target.rank.step = True, _optional_int64(context.data, "step")
            if target.rank.ended_at is None:
                # A shipper may find a dead process a day later, but knows its last sign of life.
                # The process ended after that, and perhaps after another rank raised.
                ended, alive = context.event.time, context.data.get("alive_at")
                if (
                    is_finite_number(alive)
                    and is_timestamp(alive)
                    and alive < ended - DETECTION_SECONDS
                ):
                    ended = alive + _HEARTBEAT_SECONDS
                target.rank.ended_at = ended

    def _on_process_exit(self, context: EventContext) -> None:
        target_stream = _parse_stream(context, RANK_0)
        seconds, ended = context.data.get("seconds"), context.event.time
        began = ended - seconds if is_finite_number(seconds) and 0.0 <= seconds <= ended else ended
        target = self._cache.stream(
            context.run, target_stream.producer, target_stream.attempt, began
        )
        if not target.ignored:
            _apply_counters(target, context.data)
            if context.data.get("outlived") is True:
                return  # the command ended, the training did not
            attempt = self._cache.attempt(context.run, target_stream.attempt, began)
            attempt.exit_code = _optional_int64(context.data, "exit_code")
            attempt.exit_signal = optional_text(context.data, "signal")
            attempt.exited_at = ended
            attempt.out_of_memory = context.data.get("out_of_memory") is True

    def _target(self, context: EventContext) -> StreamState:
        """The stream that the event reports on."""
        target_stream = _parse_stream(context, context.data.get("producer"))
        return self._cache.stream(
            context.run, target_stream.producer, target_stream.attempt, context.event.time
        )

    def _attempt(self, context: EventContext) -> AttemptState:
        return self._cache.attempt(context.run, context.stream.attempt, context.event.time)

    def _add_points(self, context: EventContext, values: Mapping[str, float | int]) -> None:
        stream, event, cache = context.stream, context.event, self._cache
        for name, value in values.items():
            if not isinstance(value, float) and not is_finite_number(value):
                continue
            if (METRIC, name) not in stream.series and not is_name(name):
                continue
            if not cache.add_point(stream, METRIC, name, event.step, event, value):
                stream.left_out += 1

    def _apply_state(self, context: EventContext) -> None:
        state = context.data["state"]
        if isinstance(state, Mapping):
            max_steps = _optional_int64(state, "max_steps")
            if max_steps is not None and max_steps > 0:
                self._attempt(context).max_steps = max_steps
            run = context.run
            run.best_checkpoint = (
                optional_text(state, "best_model_checkpoint") or run.best_checkpoint
            )

    def _apply_checkpoints(self, context: EventContext) -> None:
        """Mark the checkpoints that are no longer in their folder."""
        found = _required_mapping(context, "checkpoints")
        folder, steps = optional_text(found, "folder"), found.get("steps")
        if folder is None or not isinstance(steps, (list, tuple)):
            raise InvalidEventData(f"checkpoints have no folder and steps: got {found!r:.200}")
        self._cache.mark_deleted_checkpoints(
            context.run, context.event.time, folder=folder, kept=frozenset(filter(is_int64, steps))
        )


def _tags(given: object) -> str | None:
    """The texts of a list, each once, as JSON; None if there are none."""
    if not isinstance(given, list):
        return None
    texts = [text.strip() for text in given if isinstance(text, str)]
    tags = list(dict.fromkeys(sanitize_text(text, _TAG_LENGTH) for text in texts if text))
    return to_json(tags[:_MAX_TAGS]) if tags else None


def _apply_counters(stream: StreamState, counters: object) -> None:
    if isinstance(counters, Mapping):
        for name in _COUNTERS:
            value = _optional_int64(counters, name)
            if value is not None:
                setattr(stream, name, value)
        stream.emitted = max(stream.emitted, _optional_int64(counters, "emitted") or 0)


def _parse_stream(context: EventContext, producer: object) -> Stream:
    attempt = context.data.get("attempt")
    if isinstance(producer, str) and isinstance(attempt, str):
        with contextlib.suppress(StreamNameError):
            return Stream.parse(f"{context.run.id}/{producer}/{attempt}")
    raise InvalidEventData(
        f"{producer!r:.80}/{attempt!r:.80} is no producer and attempt of a stream"
    )


def _required_mapping(context: EventContext, name: str) -> Mapping[Any, Any]:
    found = context.data.get(name)
    if not isinstance(found, Mapping):
        raise InvalidEventData(f"{context.event.kind} has no map {name!r}: got {found!r:.200}")
    return found


def _optional_int64(data: Mapping[str, Any], name: str) -> int | None:
    value = data.get(name)
    return int(value) if is_int64(value) else None


def _apply_error(rank: RankState, data: Mapping[str, Any]) -> None:
    error = data.get("error")
    if not isinstance(error, Mapping):
        return
    parts = [optional_text(error, "type"), optional_text(error, "message")]
    rank.error = sanitize_text(": ".join(part for part in parts if part), _ERROR_LENGTH) or None
    traceback = error.get("traceback")
    rank.traceback = (
        sanitize_text(traceback, _TRACEBACK_LENGTH) if isinstance(traceback, str) else None
    )


def _stop_reason(data: Mapping[str, Any]) -> str:
    """Who stopped a training, why, and with which command."""
    who = optional_text(data, "issued_by") or "a command"
    if who in signal.Signals.__members__:
        return f"by {who}"
    why = optional_text(data, "reason")
    text = f"by {who}: {why}" if why else f"by {who}"
    return sanitize_text(f"{text} (command {optional_text(data, 'id')})", _ERROR_LENGTH)
