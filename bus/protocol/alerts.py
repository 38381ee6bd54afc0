"""Alerts on the bus: the fields of their events, and what a person does about them.

The watchdog publishes ``alert`` in a stream of the alert's run; an alert of no run is published in
``_lineside``. Acknowledgements and mutes come in control streams: those of a run reach its
alerts, a mute in ``_lineside`` reaches every run's.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lineside.bus.errors import UsageError
from lineside.bus.protocol.commands import current_user
from lineside.bus.protocol.event_kinds import ALERT_ACKNOWLEDGED, ALERT_MUTED, ALERT_UNMUTED
from lineside.bus.protocol.fields import is_timestamp

OPEN, CLOSED = "open", "closed"
"""The states of an alert."""
CRITICAL, WARNING, INFO = "critical", "warning", "info"
SEVERITIES = (CRITICAL, WARNING, INFO)
"""Highest first."""
WATCHDOG = "watchdog"
"""The producer of alerts that open and close."""
RESPONSE_KINDS = (ALERT_ACKNOWLEDGED, ALERT_MUTED, ALERT_UNMUTED)
"""What a person does about alerts."""
ID_LENGTH = 64
RULE_LENGTH = 255
"""The most characters of a rule's name, and of a subject."""
TEXT_LENGTH = 1000
"""The most characters of a note, a name and a summary."""


@dataclass(frozen=True)
class Acknowledgement:
    """A person has seen the alert ``alert``: it gets no more reminders.

    Raises:
        UsageError: a field is no text, or too long.
    """

    alert: str
    by: str = field(default_factory=current_user)
    note: str = ""

    kind = ALERT_ACKNOWLEDGED

    def __post_init__(self) -> None:
        _check_text("alert", self.alert, ID_LENGTH, is_required=True)
        _check_text("by", self.by, TEXT_LENGTH)
        _check_text("note", self.note, TEXT_LENGTH)

    def to_data(self) -> Mapping[str, Any]:
        """The data of its event."""
        return {"alert": self.alert, "by": self.by, "note": self.note}


@dataclass(frozen=True)
class Mute:
    """Send no notifications of ``rule`` (None: of any rule) until ``until``.

    ``until`` is in seconds since the epoch; None is until it is lifted.

    Raises:
        UsageError: a field is no text or time, or too long.
    """

    rule: str | None = None
    until: float | None = None
    by: str = field(default_factory=current_user)
    note: str = ""
    id: str = field(default_factory=lambda: secrets.token_hex(6))

    kind = ALERT_MUTED

    def __post_init__(self) -> None:
        _check_text("id", self.id, ID_LENGTH, is_required=True)
        if self.rule is not None:
            _check_text("rule", self.rule, RULE_LENGTH, is_required=True)
        _check_text("by", self.by, TEXT_LENGTH)
        _check_text("note", self.note, TEXT_LENGTH)
        if self.until is not None and not is_timestamp(self.until):
            raise UsageError(
                f"until {self.until!r:.100} cannot be used: expected seconds since 1970"
            )

    def to_data(self) -> Mapping[str, Any]:
        """The data of its event."""
        return {
            "id": self.id,
            "rule": self.rule,
            "until": self.until,
            "by": self.by,
            "note": self.note,
        }


@dataclass(frozen=True)
class Unmute:
    """Lift the mute ``mute`` before its time.

    Raises:
        UsageError: a field is no text, or too long.
    """

    mute: str
    by: str = field(default_factory=current_user)

    kind = ALERT_UNMUTED

    def __post_init__(self) -> None:
        _check_text("mute", self.mute, ID_LENGTH, is_required=True)
        _check_text("by", self.by, TEXT_LENGTH)

    def to_data(self) -> Mapping[str, Any]:
        """The data of its event."""
        return {"id": self.mute, "by": self.by}


Response = Acknowledgement | Mute | Unmute


def _check_text(name: str, value: object, longest: int, *, is_required: bool = False) -> None:
    shortest = 1 if is_required else 0
    if not isinstance(value, str) or not shortest <= len(value) <= longest:
        raise UsageError(
            f"{name} {value!r:.100} cannot be used: expected a text of {shortest} to {longest} "
            "characters"
        )
