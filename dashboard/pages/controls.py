"""What the page of a run offers to steer it by, and the commands to it in words."""

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
_EVENTS_SEARCHED = 100  # attempts whose first word on commands is looked through


@dataclass(frozen=True)
class Controls:
    """Which ``ops`` can be asked for now, and a sentence on why not all, or what to know."""

    ops: frozenset[str]
    message: str
    is_paused: bool


@dataclass(frozen=True)
class CommandRow:
    """A command for a person: what was asked for, what came of it, who asked and why.

    One that nobody answers is told as expired, or as never answered, from ``expired_at`` on; it is
    None where that is told, or cannot come any more.
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
    """What the newest attempt of a run can be asked for; nothing by whom it is ``refused`` to."""
    if said := history.commands_unavailable_reason(run):
        return Controls(frozenset(), said, False)
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
        said = "It has not said that it takes commands. A Trainer does when training begins."
        return Controls(frozenset(), said, False)
    offered = facts.get("ops")
    ops = frozenset(str(op) for op in offered) if isinstance(offered, list) else frozenset[str]()
    reason = facts.get("why")
    said = (
        f"{formatting.sentence(reason).rstrip('.')}." if isinstance(reason, str) and reason else ""
    )
    if ops and run.status == "disconnected":
        said = "Nothing is heard from it now: a command waits for it until it expires."
    if refused:
        ops, said = frozenset(), f"{refused}."
    return Controls(ops, said, run.phase == PAUSED)


def command_row(command: Command, now: datetime) -> CommandRow:
    """A command in words, looked at no later than it was read."""
    where = f"step {command.step:,}" if command.step is not None and command.attempt else ""
    asked = command.requested_at or command.delivered_at or command.settled_at
    return CommandRow(
        id=command.id,
        action=formatting.command(command.op, command.args),
        state=command.state,
        result=" · ".join(part for part in (where, command.detail) if part),
        issuer=command.issued_by or "somebody",
        reason=command.reason,
        time=asked,
        progress=_progress_text(command),
        expired_at=_expired_at(command, now),
    )


def _expired_at(command: Command, now: datetime) -> datetime | None:
    if command.state not in ("requested", "delivered") or command.expires_at is None:
        return None
    at = command.expires_at + timedelta(seconds=GRACE_SECONDS)
    return at if at >= now else None


def _progress_text(command: Command) -> str:
    """When it came how far: ``requested 08:26:53, delivered +0.2 s, applied +0.3 s``."""
    began, said = command.requested_at, []
    for word, at in (
        ("requested", command.requested_at),
        ("delivered", command.delivered_at),
        (command.state, command.settled_at),
    ):
        if at is not None:
            first = at == began or began is None
            when = (
                f"{at:%H:%M:%S} UTC" if first else f"{(at - (began or at)).total_seconds():+.1f} s"
            )
            said.append(f"{word} {when}")
    return ", ".join(said)
