"""What the rare kinds say besides being events: standing, metrics, checkpoints, accounts."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lineside.bus.errors import StreamNameError
from lineside.bus.protocol import commands
from lineside.bus.protocol.events import Event, Stream
from lineside.store.database.schema import METRIC
from lineside.store.database.values import clean, is_count, is_name, is_number, is_time
from lineside.store.recording.ledger import MAX_SERIES, Ledger
from lineside.store.recording.states import AttemptState, NewestLog, RunState, StreamState, is_rank
from lineside.store.status.pulse import note_life, note_progress
from lineside.store.status.status import NOTICED_SECONDS, RAISED, RANK_0, Rank

_COUNTERS = ("dropped", "hook_errors", "encode_failures", "hook_ns", "hooks", "rss")
_ERROR_LENGTH = 1000
_TRACEBACK_LENGTH = 10_000
_SIGN_SECONDS = 2.0  # signs of life come once a second, on a loaded machine a little later


class Unreadable(ValueError):
    """An event's data is not what its kind promises; nothing of it was applied."""


class Seen(NamedTuple):
    """An event, its stream and its run; ``data`` is the event's, or empty."""

    run: RunState
    stream: StreamState
    event: Event
    data: Mapping[str, Any]


Handlers = Mapping[str, Callable[[Seen], None]]
"""What reads an event, by its kind."""


class Meaning:
    """Applies one event to the ledger's states. Each reading parses first and then applies.

    ``more`` reads further kinds.
    """

    def __init__(self, ledger: Ledger, more: Handlers) -> None:
        self._ledger = ledger
        self._more = more
        self._handlers: dict[str, Callable[[Seen], None]] = {
            "run_start": self._on_run_start,
            "run_end": self._on_run_end,
            "train_begin": self._on_train_begin,
            "train_end": self._on_train_end,
            "train_error": self._on_train_error,
            "log": self._on_log,
            "evaluate": self._on_metrics,
            "predict": self._on_metrics,
            "save": self._on_save,
            "heartbeat": self._on_heartbeat,
            "process_lost": self._on_process_lost,
            "process_exit": self._on_process_exit,
            commands.APPLIED: self._on_applied,
        }

    def read(self, seen: Seen) -> None:
        """Apply what the event says.

        Raises:
            Unreadable: it does not say what its kind promises.
        """
        for handlers in (self._handlers, self._more):
            handler = handlers.get(seen.event.kind)
            if handler is not None:
                handler(seen)
        if seen.stream.producer == RANK_0 and "state" in seen.data:
            self._read_state(seen)

    def _on_run_start(self, seen: Seen) -> None:
        run, data = seen.run, seen.data
        # The first word stands: a person may have renamed the run since.
        run.name = run.name or _text(data, "name")
        run.project = run.project or _text(data, "project")
        if seen.stream.producer == RANK_0:
            attempt = self._attempt(seen)
            attempt.started_at = seen.event.time
            resumed = data.get("resumed_from")
            if isinstance(resumed, Mapping):
                attempt.resumed_attempt = _text(resumed, "attempt")
                attempt.resumed_step = _count(resumed, "step")

    def _on_run_end(self, seen: Seen) -> None:
        how = _text(seen.data, "how")
        if how is None:
            raise Unreadable("run_end does not say how")
        rank = seen.stream.rank
        if rank.how != RAISED:  # what ended training is known already
            if how == "exception" or not rank.ended:
                rank.ended_at = seen.event.time
            rank.how = how
            _read_error(rank, seen.data)
        seen.stream.forget_step()
        _read_counters(seen.stream, seen.data.get("counters"))

    def _on_train_begin(self, seen: Seen) -> None:
        rank = seen.stream.rank
        rank.began, rank.ended = True, False
        if not rank.lost:  # that is told in another stream, which may have come before
            rank.ended_at = None

    def _on_train_end(self, seen: Seen) -> None:
        seen.stream.rank.ended, seen.stream.rank.ended_at = True, seen.event.time
        seen.stream.forget_step()

    def _on_train_error(self, seen: Seen) -> None:
        rank = seen.stream.rank
        rank.how, rank.ended_at = RAISED, seen.event.time
        _read_error(rank, seen.data)
        seen.stream.forget_step()

    def _on_applied(self, seen: Seen) -> None:
        """A stop: the training says so in the control stream of its own attempt."""
        if seen.data.get("op") == "stop" and seen.stream.producer == commands.PRODUCER:
            seen.stream.rank.stopped_by = _issuer(seen.data)
            if seen.stream.attempt in seen.run.attempts:
                self._attempt(seen)  # it is to be judged again

    def _on_log(self, seen: Seen) -> None:
        logs = _mapping(seen, "logs")
        seen.stream.logged, seen.stream.logged_known = NewestLog(seen.event.step, logs), True
        self._add_points(seen, logs)

    def _on_metrics(self, seen: Seen) -> None:
        """Points of those metrics that did not come by a log.

        A Trainer logs what it evaluates right before it says ``evaluate``, and does not log what it
        predicts. So a metric is a point already if the stream's newest log, with no evaluate or
        predict since, had it with this value at this step.
        """
        metrics = _mapping(seen, "metrics")
        stream = seen.stream
        newest = self._ledger.newest_log(seen.run, stream)
        stream.logged = None
        logged = newest.logs if newest and newest.step == seen.event.step else {}
        new = {
            name: value
            for name, value in metrics.items()
            if name not in logged or not _same(logged[name], value)
        }
        self._add_points(seen, new)

    def _on_save(self, seen: Seen) -> None:
        path = _text(seen.data, "checkpoint")
        if path is not None:
            run, event = seen.run, seen.event
            self._ledger.rows.checkpoints.append(
                (run.key, run.events + 1, seen.stream.id, event.step, event.epoch, event.time, path)
            )

    def _on_heartbeat(self, seen: Seen) -> None:
        target = self._target(seen)
        if not target.ignored:
            _read_counters(target, seen.data)
            target.phase = _text(seen.data, "phase")
            target.rank.step = _count(seen.data, "step")
            if is_rank(target.producer):
                attempt = self._ledger.attempt(seen.run, target.attempt, seen.event.time)
                note_life(attempt, target, seen.event.time)
            if target.producer == RANK_0:
                age, now = seen.data.get("hook_age"), self._ledger.now
                # A shipper on another machine does not know it: then the last event counts.
                moved_at = attempt.progress_at or now
                if is_number(age) and 0 <= age <= now:
                    moved_at = now - age
                note_progress(attempt, target, moved_at)

    def _on_process_lost(self, seen: Seen) -> None:
        target = self._target(seen)
        if not target.ignored:
            _read_counters(target, seen.data)
            target.rank.lost, target.rank.step = True, _count(seen.data, "step")
            if target.rank.ended_at is None:
                # A shipper that only found it, perhaps the next day, knows when it lived last. It
                # ended after that, and perhaps after what another rank raised.
                ended, alive = seen.event.time, seen.data.get("alive_at")
                if is_number(alive) and is_time(alive) and alive < ended - NOTICED_SECONDS:
                    ended = alive + _SIGN_SECONDS
                target.rank.ended_at = ended

    def _on_process_exit(self, seen: Seen) -> None:
        named = _stream(seen, RANK_0)
        seconds, ended = seen.data.get("seconds"), seen.event.time
        began = ended - seconds if is_number(seconds) and 0.0 <= seconds <= ended else ended
        target = self._ledger.stream(seen.run, named.producer, named.attempt, began)
        if not target.ignored:
            _read_counters(target, seen.data)
            if seen.data.get("outlived") is True:
                return  # what ended was not the training
            attempt = self._ledger.attempt(seen.run, named.attempt, began)
            attempt.exit_code = _count(seen.data, "exit_code")
            attempt.exit_signal = _text(seen.data, "signal")
            attempt.exited_at = ended
            attempt.out_of_memory = seen.data.get("out_of_memory") is True

    def _target(self, seen: Seen) -> StreamState:
        """The stream that an event of another stream speaks of."""
        named = _stream(seen, seen.data.get("producer"))
        return self._ledger.stream(seen.run, named.producer, named.attempt, seen.event.time)

    def _attempt(self, seen: Seen) -> AttemptState:
        return self._ledger.attempt(seen.run, seen.stream.attempt, seen.event.time)

    def _add_points(self, seen: Seen, values: Mapping[Any, Any]) -> None:
        stream, event, rows = seen.stream, seen.event, self._ledger.rows
        refused = 0
        for name, value in values.items():
            if not isinstance(value, float) and not is_count(value):
                continue
            if (METRIC, name) not in stream.series and not (
                isinstance(name, str) and is_name(name)
            ):
                continue
            curve = self._ledger.series(stream, METRIC, name)
            if curve is None:
                refused += 1
            else:
                curve.add(event.step, event.time, event.epoch, value, rows)
        if refused:
            raise Unreadable(
                f"{refused} metrics have no curve: the stream has {MAX_SERIES} of them already"
            )

    def _read_state(self, seen: Seen) -> None:
        state = seen.data["state"]
        if isinstance(state, Mapping):
            max_steps = _count(state, "max_steps")
            if max_steps is not None and max_steps > 0:
                self._attempt(seen).max_steps = max_steps
            run = seen.run
            run.best_checkpoint = _text(state, "best_model_checkpoint") or run.best_checkpoint


def _read_counters(stream: StreamState, counters: object) -> None:
    if isinstance(counters, Mapping):
        for name in _COUNTERS:
            value = _count(counters, name)
            if value is not None:
                setattr(stream, name, value)
        stream.emitted = max(stream.emitted, _count(counters, "emitted") or 0)


def _stream(seen: Seen, producer: object) -> Stream:
    attempt = seen.data.get("attempt")
    if isinstance(producer, str) and isinstance(attempt, str):
        with contextlib.suppress(StreamNameError):
            return Stream.parse(f"{seen.run.id}/{producer}/{attempt}")
    raise Unreadable(f"{producer!r:.80}/{attempt!r:.80} is no producer and attempt")


def _mapping(seen: Seen, name: str) -> Mapping[Any, Any]:
    found = seen.data.get(name)
    if not isinstance(found, Mapping):
        raise Unreadable(f"{seen.event.kind} has no map of {name}, but {found!r:.200}")
    return found


def _text(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    return clean(value) if isinstance(value, str) and value else None


def _count(data: Mapping[str, Any], name: str) -> int | None:
    value = data.get(name)
    return int(value) if is_count(value) else None


def _read_error(rank: Rank, data: Mapping[str, Any]) -> None:
    error = data.get("error")
    if not isinstance(error, Mapping):
        return
    parts = [_text(error, "type"), _text(error, "message")]
    rank.error = clean(": ".join(part for part in parts if part), _ERROR_LENGTH) or None
    traceback = error.get("traceback")
    rank.traceback = clean(traceback, _TRACEBACK_LENGTH) if isinstance(traceback, str) else None


def _issuer(data: Mapping[str, Any]) -> str:
    """Who stopped a training, why, and by which command."""
    who = _text(data, "issued_by") or "a command"
    if who in signal.Signals.__members__:
        return f"by {who}"
    why = _text(data, "reason")
    said = f"by {who}: {why}" if why else f"by {who}"
    return clean(f"{said} (command {_text(data, 'id')})", _ERROR_LENGTH)


def _same(one: object, other: object) -> bool:
    return one == other or (one != one and other != other)
