"""Waiting at an evaluation until the stopper has spoken on it, so that it acts at that very step.

The stopper answers each evaluation of a run whose ``run_start`` says that it waits: by the commands
that its rules ask for, if any, and a last one, ``proceed``, that names the evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from lineside.emitter.spool.page import PHASES
from lineside.emitter.training.notice import say
from lineside.emitter.training.publisher import Publisher

VERDICTS = frozenset({"stop", "set_lr", "proceed"})
"""What is applied at an evaluation; everything else waits for the end of a step."""

_EVALUATING = PHASES.index("evaluating")
_NAP_SECONDS = 0.005
_LONGEST_SECONDS = 3600.0


class Rendezvous:
    """The waiting of one attempt, ``seconds`` (an hour at most) at each evaluation. For the
    training thread.

    Once no word has come in time it does not wait any more, until one comes, late as it may be: so
    a stopper that is not there costs ``seconds`` once.
    """

    def __init__(self, publisher: Publisher, seconds: float) -> None:
        self._publisher = publisher
        self._seconds = min(seconds, _LONGEST_SECONDS)
        self._is_answered = True
        self._asked = 0  # the evaluation's event has this seq or a later one
        self._heard = -1

    def announce(self) -> None:
        """An evaluation is published next."""
        self._asked = self._publisher.next_seq

    def hear(self, seq: int) -> None:
        """The stopper has nothing more to say of the evaluation that is this event of ours."""
        self._heard = max(self._heard, seq)
        self._is_answered = True

    def wait(self, listen: Callable[[], bool]) -> None:
        """Return once the word on the evaluation was heard by ``listen``, or no more is awaited.

        ``listen`` takes what came, and answers whether training is to end anyway.
        """
        if listen() or self._heard >= self._asked or not self._is_answered:
            return
        until = time.monotonic() + self._seconds
        with self._publisher.in_phase(_EVALUATING):
            while not listen() and self._heard < self._asked:
                if time.monotonic() > until:
                    self._is_answered = False
                    say(
                        f"no stopper has spoken on an evaluation within {self._seconds:g} s; "
                        "training goes on, and waits for none until one does: is `lineside stopper`"
                        " running?"
                    )
                    return
                self._publisher.tend_if_due()
                time.sleep(_NAP_SECONDS)
