"""The class of each kind of event."""

from __future__ import annotations

from collections.abc import Mapping

from lineside.bus.protocol.alerts import RESPONSE_KINDS
from lineside.bus.protocol.checkpoints import STATE_KINDS
from lineside.bus.protocol.commands import COMMAND
from lineside.bus.protocol.event_kinds import (
    ALERT,
    ANSWER_PREFIX,
    CHECKPOINT_HELD,
    CHECKPOINT_REQUEST,
    EVENT_KINDS,
    METRICS,
    SUBSCRIBER_ERROR,
    TRAINER,
    EventKind,
)
from lineside.bus.protocol.events import Event, Stream
from lineside.subscribers.events import (
    AlertEvent,
    AlertResponseEvent,
    CheckpointHeldEvent,
    CheckpointRequestEvent,
    CheckpointStateEvent,
    CommandEvent,
    EvaluateEvent,
    GapEvent,
    HeartbeatEvent,
    LogEvent,
    MetricsEvent,
    ProcessEvent,
    RunEndEvent,
    RunEvent,
    RunStartEvent,
    SaveEvent,
    SubscriberErrorEvent,
    TrainerEvent,
    TrainErrorEvent,
)

_TYPES: Mapping[str, type[RunEvent]] = {
    "log": LogEvent,
    "evaluate": EvaluateEvent,
    "predict": EvaluateEvent,
    "save": SaveEvent,
    "run_start": RunStartEvent,
    "run_end": RunEndEvent,
    "train_error": TrainErrorEvent,
    "gap": GapEvent,
    "heartbeat": HeartbeatEvent,
    "process_lost": ProcessEvent,
    "process_exit": ProcessEvent,
    ALERT: AlertEvent,
    **dict.fromkeys(RESPONSE_KINDS, AlertResponseEvent),
    CHECKPOINT_HELD: CheckpointHeldEvent,
    **dict.fromkeys(STATE_KINDS, CheckpointStateEvent),
    CHECKPOINT_REQUEST: CheckpointRequestEvent,
    METRICS: MetricsEvent,
    SUBSCRIBER_ERROR: SubscriberErrorEvent,
    COMMAND: CommandEvent,
}


def _type(kind: EventKind) -> type[RunEvent]:
    if kind.name.startswith(ANSWER_PREFIX):
        return CommandEvent
    return _TYPES.get(kind.name, TrainerEvent if kind.source == TRAINER else RunEvent)


EVENT_TYPES: Mapping[str, type[RunEvent]] = {kind.name: _type(kind) for kind in EVENT_KINDS}
"""The class of each kind of event in the registry of kinds."""


def typed_event(stream: Stream, event: Event) -> RunEvent:
    """``event`` as the class of its kind; a kind that is not listed is a plain ``RunEvent``."""
    return EVENT_TYPES.get(event.kind, RunEvent)(stream, event)
