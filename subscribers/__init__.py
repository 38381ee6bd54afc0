"""Processes that read the bus and react: the kit to write one with, and those of Lineside.

``Subscriber`` is the public base class. Subscribers import the bus and the store, never each other.
"""

from lineside.subscribers.backoff import RetryLater
from lineside.subscribers.context import RunContext
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
from lineside.subscribers.subscriber import Subscriber

__all__ = [
    "AlertEvent",
    "AlertResponseEvent",
    "CheckpointHeldEvent",
    "CheckpointRequestEvent",
    "CheckpointStateEvent",
    "CommandEvent",
    "EvaluateEvent",
    "GapEvent",
    "HeartbeatEvent",
    "LogEvent",
    "MetricsEvent",
    "ProcessEvent",
    "RetryLater",
    "RunContext",
    "RunEndEvent",
    "RunEvent",
    "RunStartEvent",
    "SaveEvent",
    "Subscriber",
    "SubscriberErrorEvent",
    "TrainErrorEvent",
    "TrainerEvent",
]
