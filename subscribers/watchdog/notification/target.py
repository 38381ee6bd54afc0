"""A target of notifications: its sender, and the alerts that it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lineside.bus.protocol.patterns import matches
from lineside.subscribers.watchdog.alert import SEVERITIES, Alert
from lineside.subscribers.watchdog.notification.message import Message


class DeliveryFailed(Exception):
    """A target did not take a message; ``str`` is the reason, without any secret.

    ``retry_after`` is the number of seconds that the target asks to wait; ``is_final`` is whether
    it wants no more messages.
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, is_final: bool = False
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.is_final = is_final


class Sender(Protocol):
    """Hands messages to one target."""

    @property
    def name(self) -> str:
        """The kind of target, for people."""

    @property
    def max_messages(self) -> int:
        """How many messages the target may get as one."""

    def send(self, messages: Sequence[Message]) -> None:
        """Return once the target has taken ``messages`` as one, within a minute or so.

        Raises:
            DeliveryFailed: it has not, or has not confirmed them.
        """


@dataclass(frozen=True)
class AlertFilter:
    """Alerts of at least ``severity``, of these ``rules``, ``runs`` and ``projects``.

    ``*`` stands for any characters; an empty list fits everything.
    """

    severity: str = "info"
    rules: Sequence[str] = ()
    runs: Sequence[str] = ()
    projects: Sequence[str] = ()

    def matches(self, alert: Alert) -> bool:
        """Whether the target gets notifications of ``alert``."""
        levels: Sequence[str] = SEVERITIES
        return (
            levels.index(alert.severity) <= levels.index(self.severity)
            and _fits(self.rules, alert.rule)
            and _fits(self.runs, alert.run, alert.run_name)
            and _fits(self.projects, alert.project)
        )


@dataclass(frozen=True)
class Target:
    """``id`` names its queue in the outbox, ``name`` is for people; neither holds a secret."""

    id: str
    name: str
    sender: Sender
    filter: AlertFilter = AlertFilter()


def _fits(patterns: Sequence[str], *names: str) -> bool:
    return not patterns or any(matches(name, one) for name in names for one in patterns)
