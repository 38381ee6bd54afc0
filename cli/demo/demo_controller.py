"""Sends commands to the demo's training over the bus, as a user does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lineside.bus.client.command_client import CommandClient, CommandStatus
from lineside.bus.errors import LinesideError
from lineside.bus.protocol.commands import Command

STOP_FRACTION = 0.5
"""The fraction of its steps at which training is stopped."""
DEMO_PAUSE_SECONDS = 2.0
"""How long training is paused."""
TIMEOUT_SECONDS = 20.0
"""After this time a command expires."""
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ScheduledCommand:
    """A command to send once ``fraction`` of the training's steps are done."""

    fraction: float
    op: str
    args: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


SCHEDULE = (
    ScheduledCommand(0.15, "pause", reason="to look at something"),
    ScheduledCommand(0.15, "resume"),
    ScheduledCommand(0.3, "set_lr", {"lr": 5e-4}, "the demo has seen enough of the old one"),
    ScheduledCommand(STOP_FRACTION, "stop", {"save": True}, "the loss will not fall much further"),
)


class DemoController:
    """Sends the commands of ``SCHEDULE`` to the run ``run`` from its own thread.

    ``fraction_done`` returns the fraction of its steps that training has done, None if unknown.
    """

    def __init__(self, address: str, run: str, fraction_done: Callable[[], float | None]) -> None:
        self._address = address
        self._run_id = run
        self._fraction_done = fraction_done
        self._stopped = threading.Event()
        self._sent: list[tuple[str, list[CommandStatus]]] = []
        self._error = ""
        self._thread = threading.Thread(target=self._run, name="demo-controller", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more commands and end the thread."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT_SECONDS)

    def summary(self) -> list[tuple[str, str]]:
        """Each command with its outcome, then the error that ended the schedule, if any."""
        outcomes = [(op, _outcome_text(states)) for op, states in list(self._sent)]
        return [*outcomes, ("then", self._error)] if self._error else outcomes

    def _run(self) -> None:
        try:
            with CommandClient(self._address) as client:
                for scheduled in SCHEDULE:
                    if not self._wait_until_due(scheduled):
                        return
                    self._send(client, scheduled)
        except LinesideError as error:
            self._error = str(error)

    def _wait_until_due(self, scheduled: ScheduledCommand) -> bool:
        """True when the command is due, False if training ended first."""
        if scheduled.op == "resume":
            return not self._stopped.wait(DEMO_PAUSE_SECONDS)
        while not self._stopped.wait(_POLL_SECONDS):
            if (self._fraction_done() or 0.0) >= scheduled.fraction:
                return True
        return False

    def _send(self, client: CommandClient, scheduled: ScheduledCommand) -> None:
        states: list[CommandStatus] = []
        self._sent.append((scheduled.op, states))
        expires_at = time.time() + TIMEOUT_SECONDS
        command = Command(scheduled.op, scheduled.args, scheduled.reason, expires_at=expires_at)
        client.send(self._run_id, command)
        states.extend(client.follow(self._run_id, command.id, TIMEOUT_SECONDS))


def _outcome_text(states: list[CommandStatus]) -> str:
    """``requested, delivered after 0.02 s, applied after 0.02 s at step 96: from 1e-3 to 5e-4``."""
    if not states:
        return "not answered"
    first, last = states[0], states[-1]
    later = [f"{state.state} after {state.time - first.time:.2f} s" for state in states[1:]]
    where = f" at step {last.step:,}" if later else ""
    detail = f": {last.detail}" if last.detail else ""
    return f"{', '.join([first.state, *later])}{where}{detail}"
