"""The control panel of a run's page: available commands, and those sent before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from lineside.bus.protocol.commands import CONTROL_ON, CONTROL_PRODUCER, GRACE_SECONDS
from lineside.dashboard import formatting
from lineside.dashboard.api.parameters import MAX_INT64
from lineside.store.history.history import History
from lineside.store.history.records import Command, Run
from lineside.store.status.liveness import PAUSED

COMMANDS_SHOWN = 20
"""Commands shown on a run's page."""
_EVENTS_SEARCHED = 100  # newest control_on events, one for each attempt


@dataclass(frozen=True)
class Controls:
    """The ``ops`` that a person can send now, and a sentence on those it cannot."""

    ops: frozenset[str]
    message: str
    is_paused: bool


@dataclass(frozen=True)
class CommandRow:
    """A command as shown. From ``expired_at`` on, a command without an answer shows as expired.

    ``expired_at`` is None once that time has passed or the command has its final state.
    """

    id: str
    action: str
    state: str
    result: str
    issuer: str
    reason: str
    time: datetime | None
    progress: str
    expired_at: datetime | None


def controls(history: History, run: Run, refused: str = "") -> Controls:
    """What the newest attempt takes; ``refused`` is why the client may not send commands."""
    if message := history.commands_unavailable_reason(run):
        return Controls(frozenset(), message, False)
    attempt = run.attempts[-1].attempt
    page = history.events(run.id, kinds=[CONTROL_ON], before=MAX_INT64, limit=_EVENTS_SEARCHED)
    facts = next(
        (
            row.data
            for row in page.items
            if (row.producer, row.attempt) == (CONTROL_PRODUCER, attempt)
        ),
        None,
    )
    if facts is None:
        message = (
            "This run has not announced that it takes commands; a Trainer does at train begin."
        )
        return Controls(frozenset(), message, False)
    offered = facts.get("ops")
    ops = frozenset(str(op) for op in offered) if isinstance(offered, list) else frozenset[str]()
    reason = facts.get("why")
    message = ""
    if isinstance(reason, str) and reason:
        message = f"{formatting.capitalize_first(reason).rstrip('.')}."
    if ops and run.status == "disconnected":
        message = "No messages from this run now: a command waits until it expires."
    if refused:
        ops, message = frozenset(), f"{refused}."
    return Controls(ops, message, run.phase == PAUSED)


def command_row(command: Command, now: datetime) -> CommandRow:
    """The row of a command that was read at ``now``."""
    where = f"step {command.step:,}" if command.step is not None and command.attempt else ""
    time = command.requested_at or command.delivered_at or command.settled_at
    return CommandRow(
        id=command.id,
        action=formatting.command_label(command.op, command.args),
        state=command.state,
        result=" · ".join(part for part in (where, command.detail) if part),
        issuer=command.issued_by or formatting.UNKNOWN_ISSUER,
        reason=command.reason,
        time=time,
        progress=_progress_text(command),
        expired_at=_expired_at(command, now),
    )


def _expired_at(command: Command, now: datetime) -> datetime | None:
    if command.state not in ("requested", "delivered") or command.expires_at is None:
        return None
    at = command.expires_at + timedelta(seconds=GRACE_SECONDS)
    return at if at >= now else None


def _progress_text(command: Command) -> str:
    """When it reached each state: ``requested 08:26:53 UTC, delivered +0.2 s``."""
    requested_at, parts = command.requested_at, []
    for word, at in (
        ("requested", command.requested_at),
        ("delivered", command.delivered_at),
        (command.state, command.settled_at),
    ):
        if at is not None:
            if requested_at is None or at == requested_at:
                parts.append(f"{word} {at:%H:%M:%S} UTC")
            else:
                parts.append(f"{word} {(at - requested_at).total_seconds():+.1f} s")
    return ", ".join(parts)
