"""The events that handlers receive: one class for each kind, with names for what its data holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lineside.bus.protocol.events import CONTROL_BITS, Event, Stream


class RunEvent:
    """One event of a run. ``(stream, seq)`` identifies it: a delivery after a crash repeats both.

    An absent or malformed field of ``data`` reads as empty, so a handler needs no checks for it.
    """

    __slots__ = ("event", "stream")

    def __init__(self, stream: Stream, event: Event) -> None:
        self.stream = stream
        self.event = event

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind} of {self.stream}, seq {self.seq}>"

    @property
    def kind(self) -> str:
        """The kind, such as ``log``."""
        return self.event.kind

    @property
    def run(self) -> str:
        """The run's id."""
        return self.stream.run

    @property
    def producer(self) -> str:
        """The process that published it: ``rank0``, ``shipper``, ..."""
        return self.stream.producer

    @property
    def attempt(self) -> str:
        """The attempt of the run; attempts sort by their start."""
        return self.stream.attempt

    @property
    def seq(self) -> int:
        """The number of the event in its stream, from 0."""
        return self.event.seq

    @property
    def time(self) -> float:
        """When it happened, in seconds since the epoch."""
        return self.event.time

    @property
    def step(self) -> int:
        """The Trainer's ``global_step``."""
        return self.event.step

    @property
    def epoch(self) -> float | None:
        """The Trainer's fractional epoch."""
        return self.event.epoch

    @property
    def control(self) -> frozenset[str]:
        """The ``TrainerControl`` flags that were set, by name."""
        return frozenset(
            name for bit, name in enumerate(CONTROL_BITS) if self.event.control >> bit & 1
        )

    @property
    def data(self) -> Mapping[str, Any]:
        """The event's data as published; docs/reference/events.md lists it by kind."""
        return self.event.data or {}

    def _mapping(self, name: str) -> Mapping[str, Any]:
        value = self.data.get(name)
        return value if isinstance(value, Mapping) else {}

    def _text(self, name: str) -> str:
        value = self.data.get(name)
        return value if isinstance(value, str) else ""


class TrainerEvent(RunEvent):
    """An event that carries the scalars of ``TrainerState``."""

    __slots__ = ()

    @property
    def state(self) -> Mapping[str, Any]:
        """The scalars of ``TrainerState``; a few of them for logs, none for step-level events."""
        return self._mapping("state")


class LogEvent(TrainerEvent):
    """The Trainer logged."""

    __slots__ = ()

    @property
    def logs(self) -> Mapping[str, Any]:
        """Names and values, as logged."""
        return self._mapping("logs")


class EvaluateEvent(TrainerEvent):
    """An evaluation ended, or (``predict``) a prediction."""

    __slots__ = ()

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Names and values."""
        return self._mapping("metrics")


class SaveEvent(TrainerEvent):
    """A checkpoint was written."""

    __slots__ = ()

    @property
    def checkpoint(self) -> str:
        """The folder of the checkpoint on the training's machine, as an absolute path."""
        return self._text("checkpoint")

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Names and values that a loop gave with it; empty for a Trainer's."""
        return self._mapping("metrics")


class CheckpointEvent(RunEvent):
    """A checkpoint was held, changed its state, is copied, or a person asks something of it."""

    __slots__ = ()

    @property
    def checkpoint(self) -> str:
        """The folder of the checkpoint on the training's machine, as an absolute path."""
        return self._text("checkpoint")

    @property
    def saved_attempt(self) -> str:
        """The attempt that saved it."""
        return self._text("attempt") or self.attempt

    @property
    def saved_step(self) -> int:
        """The step at which it was saved."""
        value = self.data.get("step")
        return value if isinstance(value, int) else self.step

    @property
    def why(self) -> str:
        """The reason, as a sentence; may be empty."""
        return self._text("why")


class CheckpointHeldEvent(CheckpointEvent):
    """Training linked a checkpoint for the archiver, or could not."""

    __slots__ = ()

    @property
    def hold(self) -> str:
        """The folder of the links; empty if there is none, for the reason ``why``."""
        return self._text("hold")

    @property
    def evicted(self) -> tuple[Mapping[str, Any], ...]:
        """The older holds that made room for it: ``checkpoint``, ``step`` and ``why`` of each."""
        value = self.data.get("evicted")
        listed = value if isinstance(value, (list, tuple)) else ()
        return tuple(item for item in listed if isinstance(item, Mapping))


class CheckpointStateEvent(CheckpointEvent):
    """The archiver brought a checkpoint into a state, or (``checkpoint_progress``) copies it."""

    __slots__ = ()

    @property
    def state(self) -> str:
        """``waiting``, ``copying``, ``archived``, ``verified``, ``failed``, ..."""
        return self._text("state")

    @property
    def archive(self) -> str:
        """The address of its manifest; empty if the archive does not have it."""
        return self._text("archive")

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Names and values at its step."""
        return self._mapping("metrics")


class CheckpointRequestEvent(CheckpointEvent):
    """A person asks the archiver to pin, unpin, delete or verify a checkpoint."""

    __slots__ = ()

    @property
    def request_id(self) -> str:
        """The request's own id, which the answer has as ``request``."""
        return self._text("id")

    @property
    def op(self) -> str:
        """``pin``, ``unpin``, ``delete`` or ``verify``."""
        return self._text("op")

    @property
    def issuer(self) -> str:
        """Who asks."""
        return self._text("issuer")


class RunStartEvent(TrainerEvent):
    """A process of the run began to publish."""

    __slots__ = ()

    @property
    def facts(self) -> Mapping[str, Any]:
        """Arguments, model, versions, process: all that ``run_start`` holds."""
        return self.data


class RunEndEvent(RunEvent):
    """A process of the run ended in an orderly way."""

    __slots__ = ()

    @property
    def how(self) -> str:
        """``exit``, ``restarted`` or ``exception``."""
        return self._text("how")

    @property
    def error(self) -> Mapping[str, Any]:
        """``type``, ``message`` and ``traceback`` of the exception; empty without one."""
        return self._mapping("error")


class TrainErrorEvent(RunEvent):
    """``train()`` raised."""

    __slots__ = ()

    @property
    def error(self) -> Mapping[str, Any]:
        """``type``, ``message`` and ``traceback`` of the exception."""
        return self._mapping("error")


class GapEvent(RunEvent):
    """The training dropped events, because its spool was full, a write failed, or the broker could
    not read one."""

    __slots__ = ()

    @property
    def kinds(self) -> Mapping[str, Any]:
        """How many events of each kind were dropped."""
        return self._mapping("kinds")

    @property
    def why(self) -> str:
        """``cap``, ``disk``, ``removed`` or ``invalid``."""
        return self._text("why")


class HeartbeatEvent(RunEvent):
    """The shipper's account of one rank, once a second."""

    __slots__ = ()

    @property
    def phase(self) -> str:
        """``training``, ``evaluating``, ``saving``, ..."""
        return self._text("phase")


class ProcessEvent(RunEvent):
    """A training process is gone (``process_lost``), or a command ended (``process_exit``)."""

    __slots__ = ()

    @property
    def exit_code(self) -> int | None:
        """The exit code, where it is known."""
        value = self.data.get("exit_code")
        return value if isinstance(value, int) else None


class CommandEvent(RunEvent):
    """A command to the training, or an answer to one."""

    __slots__ = ()

    @property
    def command_id(self) -> str:
        """The id that a command and the answers to it share."""
        return self._text("id")

    @property
    def op(self) -> str:
        """``stop``, ``save``, ...; empty where an answer leaves it out."""
        return self._text("op")


class AlertEvent(RunEvent):
    """An alert of the watchdog changed, or a stopping rule held and only alerts or cannot hold."""

    __slots__ = ()

    @property
    def alert_id(self) -> str:
        """The id, which the events of one alert share."""
        return self._text("id")

    @property
    def rule(self) -> str:
        """The rule's name."""
        return self._text("rule")

    @property
    def subject(self) -> str:
        """What of the run it is about, such as a GPU or a metric; may be empty."""
        return self._text("subject")

    @property
    def state(self) -> str:
        """``open`` or ``closed``; empty for an alert without an end, as the stopper's."""
        return self._text("state")

    @property
    def severity(self) -> str:
        """``critical``, ``warning`` or ``info``; empty for the stopper's."""
        return self._text("severity")

    @property
    def why(self) -> str:
        """The reason, as a sentence: ``summary`` of the watchdog, ``why`` of the stopper."""
        return self._text("summary") or self._text("why")

    @property
    def action(self) -> str:
        """The command to run next, of the watchdog; what the rule does, of the stopper."""
        return self._text("action")


class AlertResponseEvent(RunEvent):
    """A person acknowledged an alert, muted alerts or lifted a mute."""

    __slots__ = ()

    @property
    def by(self) -> str:
        """Who."""
        return self._text("by")

    @property
    def note(self) -> str:
        """Why; may be empty."""
        return self._text("note")


class MetricsEvent(RunEvent):
    """Metrics of another producer than the training: an evaluator, a sampler, a subscriber."""

    __slots__ = ()

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Names and values."""
        return self._mapping("metrics")


class SubscriberErrorEvent(RunEvent):
    """A subscriber failed on an event of the run."""

    __slots__ = ()

    @property
    def action(self) -> str:
        """``retrying``, ``skipped``, ``stopped`` or ``recovered``."""
        return self._text("action")

    @property
    def error(self) -> Mapping[str, Any]:
        """``type`` and ``message`` of the exception."""
        return self._mapping("error")
