"""Callbacks of a company's own: monitoring, an evaluation trigger and early stopping.

They know nothing of Lineside and run in three places without a change: in a Trainer's list of
callbacks, in a process of their own from ``custom_callbacks`` in ``lineside.yaml``, and in
LLaMA-Factory. docs/how-to/custom-callbacks.md shows each.
"""

from __future__ import annotations

import json
import logging
import urllib.request
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

log = logging.getLogger(__name__)
TIMEOUT_SECONDS = 10.0


class CompanyMonitoringCallback(TrainerCallback):
    """Posts logs as JSON to ``endpoint``: every evaluation, and one log in ``interval`` steps.

    A log that cannot be posted is dropped with a warning. With ``raise_errors`` it is an error: a
    training that runs the callback itself would end by it; hosted with ``on_error: retry``, the log
    is posted again until the endpoint accepts it.
    """

    def __init__(
        self, endpoint: str, api_key: str, interval: int = 100, raise_errors: bool = False
    ) -> None:
        if not endpoint.startswith(("http://", "https://")):
            raise ValueError(f"endpoint={endpoint!r}: expected an http:// or https:// address")
        if not api_key:
            raise ValueError("api_key is empty: expected the key of the monitoring service")
        if interval < 1:
            raise ValueError(f"interval={interval}: expected 1 step or more")
        self.endpoint = endpoint
        self.api_key = api_key
        self.interval = interval
        self.raise_errors = raise_errors
        self._next_step = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs:
            return
        is_evaluation = any(name.startswith("eval_") for name in logs)
        if not is_evaluation and state.global_step < self._next_step:
            return
        try:
            self._post({"step": state.global_step, "epoch": state.epoch, "metrics": logs})
        except OSError as error:
            if self.raise_errors:
                raise
            log.warning("The log of step %d was not posted: %s", state.global_step, error)
        if not is_evaluation:
            self._next_step = state.global_step + self.interval

    def _post(self, message: dict[str, Any]) -> None:
        # The constructor has checked the address: ruff S310 asks for that.
        request = urllib.request.Request(  # noqa: S310
            self.endpoint,
            data=json.dumps(message).encode(),
            headers={
                "Authorization": f"Bearer {self.api_key}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            answer.read()


class LossDropEvaluationCallback(TrainerCallback):
    """Evaluates each time the loss has fallen by the fraction ``drop``."""

    def __init__(self, drop: float = 0.1) -> None:
        if not 0 < drop < 1:
            raise ValueError(f"drop={drop}: expected a fraction between 0 and 1, such as 0.1")
        self.drop = drop
        self._reference: float | None = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if self._reference is None:
            self._reference = loss
        elif loss <= self._reference * (1 - self.drop):
            self._reference = loss
            control.should_evaluate = True


class SmartEarlyStoppingCallback(TrainerCallback, ExportableState):
    """Stops when ``metric`` has not fallen by ``min_delta`` for ``patience`` evaluations.

    With ``ExportableState`` its count is part of each checkpoint and survives a restart.
    """

    def __init__(
        self, patience: int = 3, min_delta: float = 0.001, metric: str = "eval_loss"
    ) -> None:
        if patience < 1:
            raise ValueError(f"patience={patience}: expected 1 evaluation or more")
        if min_delta < 0:
            raise ValueError(f"min_delta={min_delta}: expected 0 or more")
        self.patience = patience
        self.min_delta = min_delta
        self.metric = metric
        self.best: float | None = None
        self.without_improvement = 0

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        value = metrics.get(self.metric)
        if value is None:
            return
        if self.best is None or value < self.best - self.min_delta:
            self.best = value
            self.without_improvement = 0
            return
        self.without_improvement += 1
        if self.without_improvement >= self.patience:
            log.info("%s has not improved since %g", self.metric, self.best)
            control.should_training_stop = True

    def state(self) -> dict[str, Any]:
        return {
            "args": {
                "patience": self.patience,
                "min_delta": self.min_delta,
                "metric": self.metric,
            },
            "attributes": {"best": self.best, "without_improvement": self.without_improvement},
        }
