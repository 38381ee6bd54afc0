"""What a handler knows of its run and can do to it, and the choice of runs."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lineside.bus.errors import LinesideError
from lineside.bus.protocol import commands
from lineside.bus.protocol.checkpoints import STATE_KINDS
from lineside.bus.protocol.commands import EXPIRES_SECONDS, Command
from lineside.bus.protocol.event_kinds import ALERT, METRICS, OWN_KINDS, SUBSCRIBER_ERROR
from lineside.bus.protocol.events import RANK_0, Event, Stream, is_rank
from lineside.bus.protocol.limits import LimitExceeded, check_container_count, check_depth
from lineside.bus.protocol.patterns import matches
from lineside.bus.protocol.wire import HEADER, Encoder
from lineside.subscribers.state.subscriber_state import Publication, SavedRun

MAX_STATE_BYTES = 1 << 20
"""Bytes of JSON that the state of a run may have (1 MiB)."""
MAX_EVENT_BYTES = 512 << 10
"""Bytes of JSON that an event to publish may have (512 KiB)."""
RESERVED_KINDS = frozenset(OWN_KINDS) - {METRICS, ALERT, *STATE_KINDS}
"""Kinds that only Lineside publishes: they set the status of a run or answer commands."""
_MAX_KIND_LENGTH = 128
_MESSAGE_LENGTH = 1000


class TooLarge(LinesideError):
    """A run's state, or an event to publish, is larger than can be kept."""


class RunContext:
    """One run, as it stands at the event being handled. Valid until the handler returns.

    What ``publish``, ``command`` and the state were given is kept when the handler has returned,
    and dropped if it raises.
    """

    def __init__(self, run: str, name: str, control_attempt: str, saved: SavedRun) -> None:
        self.id = run
        """The run's id."""
        self._name = name
        self._control_attempt = control_attempt
        self._state = saved.state
        self._state_text = json.dumps(saved.state)
        self._is_state_open = False
        known = saved.context
        self.attempt: str = known.get("attempt", "")
        """The newest attempt of the run."""
        self.facts: Mapping[str, Any] = known.get("facts", {})
        """The data of rank 0's ``run_start``: arguments, model, versions; empty before it."""
        self.trainer_state: Mapping[str, Any] = known.get("trainer_state", {})
        """The newest scalars of ``TrainerState``, such as ``max_steps`` and ``best_metric``."""
        self.logs: Mapping[str, Any] = known.get("logs", {})
        """The newest logs."""
        self.step: int = known.get("step", 0)
        """The newest step of rank 0."""
        self.epoch: float | None = known.get("epoch")
        """The newest fractional epoch."""
        self.is_caught_up = False
        """Whether the journal was read to its end; until then events may be old."""
        self.stays: bool = known.get("stays", False)
        """Set it to keep the run in memory, and so ``tick``, also after a restart and though no
        event comes: for what is still to be done. It is kept like the state."""
        self._called: dict[str, int] = known.get("called", {})
        self._stream: Stream = Stream(run, RANK_0, self.attempt or "unknown")
        self._event: Event | None = None
        self._last: tuple[str, str, int] = tuple(known.get("last", (RANK_0, "", 0)))
        self._method = ""  # that is being called
        self._tries = 0  # of the event
        self._save_now: Callable[[], None] = lambda: None
        self._redact: Callable[[str], str] = str
        self._publications: list[Publication] = []  # of the event being handled
        self._collected: list[Publication] = []  # of the events since the last commit

    @property
    def name(self) -> str:
        """What people call the run; the id without a name."""
        return str(self.facts.get("name") or self.id)

    @property
    def project(self) -> str:
        """The project; empty without one."""
        return str(self.facts.get("project") or "")

    @property
    def progress(self) -> float | None:
        """The part of ``max_steps`` that is done, 0 to 1; None if ``max_steps`` is not known."""
        max_steps = self.trainer_state.get("max_steps")
        if not isinstance(max_steps, (int, float)) or max_steps <= 0:
            return None
        return min(1.0, self.step / max_steps)

    def publish(self, kind: str, data: Mapping[str, Any] | None = None) -> None:
        """Publish an event of the run, as the producer with the subscriber's name.

        It carries the step, epoch and time of the event being handled, or in ``tick`` and ``close``
        the run's newest and the time of the call. ``data`` holds JSON values.

        Raises:
            ValueError: a subscriber cannot publish ``kind``, or ``data`` cannot be encoded.
            TypeError: ``data`` is no mapping, or holds other values.
            TooLarge: ``data`` is larger than 512 KiB of JSON, has more than 32,768 dicts and lists,
                or is nested more than 100 deep.
        """
        if not isinstance(kind, str) or not 0 < len(kind) <= _MAX_KIND_LENGTH:
            raise ValueError(f"kind {kind!r}: expected 1 to {_MAX_KIND_LENGTH} characters")
        if kind in RESERVED_KINDS:
            raise ValueError(f"{kind!r} is not a kind of event that a subscriber can publish")
        if data is not None and not isinstance(data, Mapping):
            raise TypeError(f"data of {kind} is {type(data).__name__}: expected a dict or None")
        event = self._handled
        self._append(
            Stream(self.id, self._name, self._event_attempt),
            kind,
            data,
            time.time() if event is None else event.time,
        )

    def command(
        self, op: str, reason: str = "", *, expires_seconds: float = EXPIRES_SECONDS, **args: Any
    ) -> str:
        """Send a command to the attempt that the event is of: ``run.command("stop", save=True)``.

        Its id, which is returned, is the same when the event is delivered again. A training drops
        a command that it finds later than ``expires_seconds`` after the event's time.

        Raises:
            CommandError: no such ``op``, or not its arguments.
        """
        at = time.time() if self._event is None else self._event.time
        seq = "" if self._event is None else self._event.seq
        identity = f"{self._name} {self._stream} {seq} {len(self._publications)} {op}"
        command = Command(
            op,
            args,
            reason or f"subscriber {self._name}",
            f"{self._name}@{platform.node()}",
            at + expires_seconds,
            hashlib.sha256(identity.encode()).hexdigest()[:16],
            self._event_attempt,
        )
        stream = Stream(self.id, commands.CONTROL_PRODUCER, self._control_attempt)
        self._append(stream, commands.COMMAND, command.to_data(), at)
        return command.id

    def open_state(self) -> dict[str, Any]:
        """The durable state of this run: a dictionary of JSON values with texts as keys.

        Changes are kept once for each event, whatever is killed: after a crash an event whose
        changes were kept is not handled again.
        """
        self._is_state_open = True
        return self._state

    def save(self) -> None:
        """Keep the state at once, and that the events so far are processed.

        For what must be known after a crash in the midst of what follows, such as the number of a
        request that is sent next. Not in a handler that has changed anything yet: ``flush`` and
        ``tick`` are the places for it.
        """
        self._save_now()

    def report(self, error: Exception | str) -> None:
        """Show on the run's page that something was given up, as ``subscriber_error``.

        It is kept with the state: for a handler that goes on. One that cannot go on raises.
        """
        data = self._error_data("skipped", error)
        self._append(
            Stream(self.id, self._name, self._event_attempt), SUBSCRIBER_ERROR, data, time.time()
        )

    def _error_data(self, action: str, error: Exception | str | None) -> dict[str, Any]:
        """The data of a ``subscriber_error`` on the event being handled, or on the last one."""
        producer, kind, seq = self._event_id
        kind_of_error = "Error" if isinstance(error, str) else type(error).__name__
        return {
            "subscriber": self._name,
            "action": action,
            "method": self._method,
            "kind": kind,
            "producer": producer,
            "seq": seq,
            "tries": self._tries,
            "error": None
            if error is None
            else {"type": kind_of_error, "message": self._redact(str(error))[:_MESSAGE_LENGTH]},
        }

    @property
    def _handled(self) -> Event | None:
        """The event being handled; None in a method that is called without one."""
        return None if self._method in ("tick", "close") else self._event

    @property
    def _event_id(self) -> tuple[str, str, int]:
        """Producer, kind and number of the event being handled, or of the last one."""
        event = self._event
        return self._last if event is None else (self._stream.producer, event.kind, event.seq)

    @property
    def _event_attempt(self) -> str:
        """The attempt of the event; streams of other producers than ranks have names of theirs."""
        stream = self._stream
        return stream.attempt if is_rank(stream.producer) else self.attempt or stream.attempt

    def _append(self, stream: Stream, kind: str, data: Mapping[str, Any] | None, at: float) -> None:
        text = json.dumps(data)
        size = len(text)
        if size > MAX_EVENT_BYTES:
            raise TooLarge(
                f"{kind} of {size} bytes of JSON: at most {MAX_EVENT_BYTES} can be published; "
                "publish a path or address of larger data"
            )
        # An error of encoding is the handler's, not the sender's: the data is what it will read.
        value = json.loads(text)
        body = Encoder().encode(0, at, 0, kind, 0, None, 0, value)[HEADER.size :]
        try:
            check_container_count(body)
            check_depth(body, value)
        except LimitExceeded as error:
            raise TooLarge(f"{kind} has {error}: publish less, or a path of larger data") from error
        event = self._handled
        step, epoch = (self.step, self.epoch) if event is None else (event.step, event.epoch)
        self._publications.append(Publication(stream, kind, step, epoch, at, data))


class TrackedRun(RunContext):
    """The kit's side of a ``RunContext``: follows the run, keeps or drops what handlers did."""

    def __init__(self, run: str, name: str, control_attempt: str, saved: SavedRun) -> None:
        super().__init__(run, name, control_attempt, saved)
        self.is_failing: bool = saved.context.get("is_failing", False)
        """Whether the run's page shows that an event is being retried; kept over a restart."""
        self.is_tick_failing: bool = saved.context.get("is_tick_failing", False)
        """The same of ``tick``."""
        self._had_stayed = self.stays
        self._skipped: dict[str, int] = saved.context.get("skipped", {})

    def observe(self, stream: Stream, event: Event) -> None:
        """Take the run's facts and state from an event of rank 0."""
        self._stream, self._event = stream, event
        if stream.producer != RANK_0:
            return
        if stream.attempt > self.attempt:
            self.attempt = stream.attempt
            self._called = {}
        data = event.data or {}
        self.step, self.epoch = event.step, event.epoch
        if event.kind == "run_start":
            self.facts = data
        if isinstance(data.get("state"), Mapping):
            self.trainer_state = {**self.trainer_state, **data["state"]}  # `log` has a part of it
        if event.kind == "log" and isinstance(data.get("logs"), Mapping):
            self.logs = data["logs"]

    def begin_call(self, method: str) -> None:
        """A handler or hook is called next."""
        self._method = method

    def on_save(self, save: Callable[[], None]) -> None:
        """What ``save`` does."""
        self._save_now = save

    def redact_errors(self, redact: Callable[[str], str]) -> None:
        """Have ``redact`` take secrets out of the texts of errors that are published."""
        self._redact = redact

    def error_data(
        self, action: str, method: str, tries: int, error: Exception | None
    ) -> dict[str, Any]:
        """The data of a ``subscriber_error`` on the event that was observed last."""
        self._method, self._tries = method, tries
        return self._error_data(action, error)

    @property
    def own_stream(self) -> Stream:
        """The stream of what the subscriber publishes about the event being handled."""
        return Stream(self.id, self._name, self._event_attempt)

    @property
    def state_text(self) -> str:
        """The state as kept, in JSON."""
        return self._state_text

    def is_due(self, kind: str, part: float | None) -> bool:
        """Whether a handler that is called once in each ``part`` of the run is due now."""
        progress = self.progress
        if part is None or progress is None:
            return True
        slot = int(progress / part + 1e-9)
        return self._called.get(kind) != slot

    def note_call(self, kind: str, part: float | None) -> None:
        """Count a call of a handler that is called once in each ``part`` of the run."""
        if part is not None and (progress := self.progress) is not None:
            self._called[kind] = int(progress / part + 1e-9)

    def keep(self) -> bool:
        """Accept what the handler did; whether it did anything that is to be saved."""
        changed = bool(self._publications) or self.stays != self._had_stayed
        self._had_stayed = self.stays
        if self._is_state_open:
            text = json.dumps(self._state)
            if len(text) > MAX_STATE_BYTES:
                raise TooLarge(
                    f"the state of run {self.id} has {len(text)} bytes of JSON: at most "
                    f"{MAX_STATE_BYTES} are kept; write larger data to a file or database"
                )
            changed = changed or text != self._state_text
            self._state_text = text
        self._collected += self._publications
        self._publications = []
        return changed

    def discard(self) -> None:
        """Drop what a failed handler did."""
        self._publications = []
        self.stays = self._had_stayed
        if self._is_state_open:
            self._state.clear()
            self._state.update(json.loads(self._state_text))

    def count_skipped(self, method: str, error: str) -> int:
        """Count an event that was skipped because ``method`` raised ``error``; how many it is."""
        key = f"{method} {error}"
        self._skipped[key] = self._skipped.get(key, 0) + 1
        return self._skipped[key]

    @property
    def collected(self) -> list[Publication]:
        """What handlers published since ``forget_collected``."""
        return self._collected

    def forget_collected(self) -> None:
        """What is collected was kept."""
        self._collected = []

    def to_dict(self) -> dict[str, Any]:
        """What a later process needs to know of the run."""
        return {
            "attempt": self.attempt,
            "facts": self.facts,
            "trainer_state": self.trainer_state,
            "logs": self.logs,
            "step": self.step,
            "epoch": self.epoch,
            "called": self._called,
            "is_failing": self.is_failing,
            "is_tick_failing": self.is_tick_failing,
            "stays": self.stays,
            "last": self._event_id,
            "skipped": self._skipped,
        }


class RunFilter:
    """Runs whose id or name fits one of ``runs``, and whose project fits one of ``projects``.

    ``*`` stands for any characters; an empty list fits everything. Events before a ``run_start``
    belong to no project and have no name.
    """

    def __init__(self, runs: Sequence[str] = (), projects: Sequence[str] = ()) -> None:
        self._runs = tuple(runs)
        self._projects = tuple(projects)

    def matches(self, run: RunContext) -> bool:
        """Whether the subscriber handles ``run``."""
        return self.fits(run.id, run.name, run.project)

    def fits(self, run: str, name: str, project: str) -> bool:
        """Whether a run of this id, name and project is handled."""
        return (
            not self._runs or any(matches(text, one) for text in (run, name) for one in self._runs)
        ) and (not self._projects or any(matches(project, one) for one in self._projects))
