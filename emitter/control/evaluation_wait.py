"""Waits at each evaluation until the stopper has reviewed it, so that it acts at that step.

If a run's ``run_start`` has a ``wait_for_stopper``, the stopper publishes for each evaluation the
commands of its rules, if any, and then ``evaluation_reviewed`` with the evaluation's seq.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from lineside.emitter.spool.status_page import PHASES
from lineside.emitter.training.console import print_once
from lineside.emitter.training.publisher import Publisher

EVALUATION_OPS = frozenset({"stop", "set_lr"})
"""Commands that are applied at an evaluation; all others wait for the end of a step."""

_EVALUATING = PHASES.index("evaluating")
_POLL_SECONDS = 0.005
_MAX_SECONDS = 3600.0


class EvaluationWait:
    """Waits at most ``seconds`` (an hour at most) at each evaluation of one attempt.

    After a wait without a review it waits no more until a review arrives: a stopper that does not
    run costs ``seconds`` once. For the training thread.
    """

    def __init__(self, publisher: Publisher, seconds: float) -> None:
        self._publisher = publisher
        self._timeout = min(seconds, _MAX_SECONDS)
        self._is_stopper_answering = True
        self._evaluation_seq = 0  # the evaluation's event has this seq or a later one
        self._reviewed_seq = -1

    def before_evaluation(self) -> None:
        """Note that an evaluation is published next."""
        self._evaluation_seq = self._publisher.next_seq

    def on_reviewed(self, seq: int) -> None:
        """Record that the stopper has reviewed the evaluation whose event has this ``seq``."""
        if seq > self._reviewed_seq:
            self._reviewed_seq, self._is_stopper_answering = seq, True

    def wait(self, poll: Callable[[], bool]) -> None:
        """Return once the evaluation was reviewed, or the stopper did not answer in time.

        ``poll`` receives and applies commands, and returns whether to stop waiting.
        """
        if poll() or self._reviewed_seq >= self._evaluation_seq or not self._is_stopper_answering:
            return
        deadline = time.monotonic() + self._timeout
        with self._publisher.in_phase(_EVALUATING):
            while not poll() and self._reviewed_seq < self._evaluation_seq:
                if time.monotonic() > deadline:
                    self._is_stopper_answering = False
                    print_once(
                        f"no stopper has reviewed an evaluation within {self._timeout:g} s; "
                        "training goes on and waits again once a stopper answers: is "
                        "`lineside stopper` running?"
                    )
                    return
                self._publisher.maintain_if_due()
                time.sleep(_POLL_SECONDS)
