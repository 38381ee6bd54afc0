"""Waiting at an evaluation until the stopper has spoken on it, so that it acts at that very step.

The stopper answers each evaluation of a run whose ``run_start`` says that it waits: by the commands
that its rules ask for, if any, and a last one, ``proceed``, that names the evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from lineside.emitter.spool.status_page import PHASES
from lineside.emitter.training.console import print_once
from lineside.emitter.training.publisher import Publisher

EVALUATION_OPS = frozenset({"stop", "set_lr", "proceed"})
"""What is applied at an evaluation; everything else waits for the end of a step."""

_EVALUATING = PHASES.index("evaluating")
_POLL_SECONDS = 0.005
_MAX_SECONDS = 3600.0


class EvaluationWait:
    """The waiting of one attempt, ``seconds`` (an hour at most) at each evaluation. For the
    training thread.

    Once no word has come in time it does not wait any more, until one comes, late as it may be: so
    a stopper that is not there costs ``seconds`` once.
    """

    def __init__(self, publisher: Publisher, seconds: float) -> None:
        self._publisher = publisher
        self._timeout = min(seconds, _MAX_SECONDS)
        self._is_stopper_answering = True
        self._evaluation_seq = 0  # the evaluation's event has this seq or a later one
        self._answered_seq = -1

    def before_evaluation(self) -> None:
        """An evaluation is published next."""
        self._evaluation_seq = self._publisher.next_seq

    def on_proceed(self, seq: int) -> None:
        """The stopper has nothing more to say of the evaluation that is this event of ours."""
        self._answered_seq = max(self._answered_seq, seq)
        self._is_stopper_answering = True

    def wait(self, poll: Callable[[], bool]) -> None:
        """Return once the word on the evaluation was heard by ``poll``, or no more is awaited.

        ``poll`` takes what came, and answers whether training is to end anyway.
        """
        if poll() or self._answered_seq >= self._evaluation_seq or not self._is_stopper_answering:
            return
        deadline = time.monotonic() + self._timeout
        with self._publisher.in_phase(_EVALUATING):
            while not poll() and self._answered_seq < self._evaluation_seq:
                if time.monotonic() > deadline:
                    self._is_stopper_answering = False
                    print_once(
                        f"no stopper has spoken on an evaluation within {self._timeout:g} s; "
                        "training goes on, and waits for none until one does: is `lineside stopper`"
                        " running?"
                    )
                    return
                self._publisher.maintain_if_due()
                time.sleep(_POLL_SECONDS)
