"""An alert, and what happens to it: the types that rules, outbox and notifications share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The most severe first."""
State = Literal["open", "closed"]
NOTIFICATION_FAILING = "notification_failing"
"""The rule about a target that takes no notifications: the subject is the target's name."""
OPEN: State = "open"
CLOSED: State = "closed"

AlertChange = Literal["opened", "updated", "closed", "reminder"]
"""What happened to an alert. All but ``updated`` are sent to the targets of notifications.

An alert that opens or closes without a notification, as it is muted or closed a moment ago, is
``updated``: see ``Alert.state``.
"""


class AlertKey(NamedTuple):
    """What an alert is about: at most one alert of a key is open.

    ``run`` is a run's id, empty for an alert of no run. ``subject`` is one of several
    things that a rule watches, such as a metric, a GPU, a mount point or a subscriber; else empty.
    """

    run: str
    rule: str
    subject: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert, from its first opening to its last closing.

    ``run_name`` and ``project`` are those of the run, empty without one. ``summary`` is a line,
    ``action`` the one command to run next. ``details`` holds JSON values by name: what was measured
    and the run's last step, newest metrics, exit, host and last output. ``openings`` counts how
    often it opened: within the cool-down it is the same alert. Times are seconds since the epoch.
    """

    id: str
    run: str
    run_name: str
    project: str
    rule: str
    subject: str
    state: State
    severity: Severity
    summary: str
    action: str
    opened_at: float
    updated_at: float
    closed_at: float | None = None
    openings: int = 1
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> AlertKey:
        """What it is about."""
        return AlertKey(self.run, self.rule, self.subject)

    @property
    def is_open(self) -> bool:
        """Whether what it reports still holds."""
        return self.state == OPEN

    def to_event_data(self) -> dict[str, Any]:
        """The data of the event that publishes it. The run is that of the event's stream."""
        return {
            "id": self.id,
            "rule": self.rule,
            "subject": self.subject,
            "state": self.state,
            "severity": self.severity,
            "summary": self.summary,
            "details": dict(self.details),
            "action": self.action,
            "opened_at": self.opened_at,
            "updated_at": self.updated_at,
            "closed_at": self.closed_at,
            "openings": self.openings,
        }
