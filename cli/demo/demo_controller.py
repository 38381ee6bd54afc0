"""Somebody who steers the demo's training from outside: over the bus, as any user would."""

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
"""The share of its steps at which training is stopped: what is left is time for the command."""
DEMO_PAUSE_SECONDS = 2.0
"""How long training is held up."""
TIMEOUT_SECONDS = 20.0
"""How long a command may take until nothing more becomes of it."""
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ScheduledCommand:
    """A command to be given once ``fraction`` of the training's steps are done."""

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
    """Runs ``SCHEDULE`` on the run ``run`` in a thread of its own.

    ``done`` tells the share of its steps that training has done, None while that is not known.
    """

    def __init__(self, address: str, run: str, fraction_done: Callable[[], float | None]) -> None:
        self._address = address
        self._run_id = run
        self._fraction_done = fraction_done
        self._stopped = threading.Event()
        self._sent: list[tuple[str, list[CommandStatus]]] = []
        self._error = ""
        self._thread = threading.Thread(target=self._run, name="steersman", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Training is over: give no more commands, and come to an end."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT_SECONDS)

    def summary(self) -> list[tuple[str, str]]:
        """Each command given, and how it went; why there are no more, if so."""
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
        """Whether it is time for it; False if training ended before."""
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
