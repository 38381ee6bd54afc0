"""Somebody who steers the demo's training from outside: over the bus, as any user would."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lineside.bus.client.controller import Controller, Progress
from lineside.bus.errors import LinesideError
from lineside.bus.protocol.commands import Command

STOPS_AT = 0.5
"""The share of its steps at which training is stopped: what is left is time for the command."""
PAUSE_SECONDS = 2.0
"""How long training is held up."""
PATIENCE_SECONDS = 20.0
"""How long a command may take until nothing more becomes of it."""
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Errand:
    """A command to be given once ``share`` of the training's steps are done."""

    share: float
    op: str
    args: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


ERRANDS = (
    Errand(0.15, "pause", reason="to look at something"),
    Errand(0.15, "resume"),
    Errand(0.3, "set_lr", {"lr": 5e-4}, "the demo has seen enough of the old one"),
    Errand(STOPS_AT, "stop", {"save": True}, "the loss will not fall much further"),
)


class Steersman:
    """Runs ``ERRANDS`` on the run ``run`` in a thread of its own.

    ``done`` tells the share of its steps that training has done, None while that is not known.
    """

    def __init__(self, address: str, run: str, done: Callable[[], float | None]) -> None:
        self._address = address
        self._run_id = run
        self._done = done
        self._over = threading.Event()
        self._told: list[tuple[str, list[Progress]]] = []
        self._error = ""
        self._thread = threading.Thread(target=self._run, name="steersman", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Training is over: give no more commands, and come to an end."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE_SECONDS)

    def account(self) -> list[tuple[str, str]]:
        """Each command given, and how it went; why there are no more, if so."""
        told = [(op, _story(states)) for op, states in list(self._told)]
        return [*told, ("then", self._error)] if self._error else told

    def _run(self) -> None:
        try:
            with Controller(self._address, self._run_id) as controller:
                for errand in ERRANDS:
                    if not self._wait_for(errand):
                        return
                    self._give(controller, errand)
        except LinesideError as error:
            self._error = str(error)

    def _wait_for(self, errand: Errand) -> bool:
        """Whether it is time for it; False if training ended before."""
        if errand.op == "resume":
            return not self._over.wait(PAUSE_SECONDS)
        while not self._over.wait(_LOOK_SECONDS):
            if (self._done() or 0.0) >= errand.share:
                return True
        return False

    def _give(self, controller: Controller, errand: Errand) -> None:
        states: list[Progress] = []
        self._told.append((errand.op, states))
        expires_at = time.time() + PATIENCE_SECONDS
        command = Command(errand.op, errand.args, errand.reason, expires_at=expires_at)
        controller.send(command)
        states.extend(controller.follow(command.id, PATIENCE_SECONDS))


def _story(states: list[Progress]) -> str:
    """``requested, delivered after 0.02 s, applied after 0.02 s at step 96: from 1e-3 to 5e-4``."""
    if not states:
        return "not answered"
    asked, last = states[0], states[-1]
    later = [f"{state.state} after {state.time - asked.time:.2f} s" for state in states[1:]]
    where = f" at step {last.step:,}" if later else ""
    detail = f": {last.detail}" if last.detail else ""
    return f"{', '.join([asked.state, *later])}{where}{detail}"
