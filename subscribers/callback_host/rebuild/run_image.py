"""What the Trainer of a run had at the event seen last, made of its events."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from transformers import TrainerControl

from lineside.bus.protocol.events import CONTROL_BITS, RANK_0, Event, Stream
from lineside.subscribers.callback_host.rebuild.arguments import rebuild_arguments
from lineside.subscribers.callback_host.rebuild.model import model_stand_in
from lineside.subscribers.callback_host.rebuild.stand_ins import (
    OptimizerStandIn,
    SchedulerStandIn,
    loader_stand_in,
    optimizer_stand_ins,
    processing_stand_in,
)
from lineside.subscribers.callback_host.rebuild.trainer_state import StateImage

_BEFORE_TRAINING = ("run_start", "model", "init_end")
_METRICS_KINDS = ("evaluate", "predict")


class RunImage:
    """The arguments of each hook of one attempt, from the events of its rank 0.

    ``args``, ``state``, the control and all that ``keywords`` has are the same objects at each
    event, as in training.
    """

    def __init__(self) -> None:
        self.facts: Mapping[str, Any] = {}
        """The data of ``run_start``."""
        self._structure: Mapping[str, Any] = {}  # the data of ``model``
        self._state = StateImage()
        self._control = TrainerControl()
        self._optimizer: OptimizerStandIn | None = None
        self._scheduler: SchedulerStandIn | None = None
        self._train_loader: Any = None
        self._eval_loader: Any = None

    @cached_property
    def args(self) -> Any:
        """The training's arguments."""
        return rebuild_arguments(self.facts)

    @cached_property
    def model(self) -> Any:
        """In place of the model; None of a run without one."""
        return model_stand_in(self.facts, self._structure)

    @cached_property
    def processing_class(self) -> Any:
        """In place of the processing class; None of a run without one."""
        return processing_stand_in(self.facts)

    @property
    def state(self) -> Any:
        """The ``TrainerState``."""
        return self._state.state

    def observe(self, stream: Stream, event: Event) -> None:
        """Take what ``event`` has; events of other producers than rank 0 have nothing."""
        if stream.producer != RANK_0:
            return
        data = event.data or {}
        if event.kind == "run_start":
            self.facts = data
        elif event.kind == "model":
            self._structure = {**self._structure, **data}
            if "model" in vars(self) and self.model is not None:
                self.model.set_config(data)  # it comes again when that has changed
        self._state.observe(event)
        if event.kind == "train_begin":
            self._begin_training()
        if event.kind not in _BEFORE_TRAINING and self._eval_loader is None:
            self._eval_loader = loader_stand_in(self._loaders().get("eval"))
        if "eval_loader" in data:
            self._eval_loader = loader_stand_in(data["eval_loader"])
        if self._optimizer is not None:
            self._set_rates(self._optimizer, data)

    def control(self, event: Event) -> Any:
        """The ``TrainerControl`` with the flags that the hook of ``event`` found."""
        for bit, name in enumerate(CONTROL_BITS):
            setattr(self._control, name, bool(event.control >> bit & 1))
        return self._control

    def keywords(self, event: Event) -> dict[str, Any]:
        """The keywords that the Trainer calls the hook of ``event`` with; logs are a copy."""
        keywords = {
            "model": self.model,
            "processing_class": self.processing_class,
            "optimizer": self._optimizer,
            "lr_scheduler": self._scheduler,
            "train_dataloader": self._train_loader,
            "eval_dataloader": self._eval_loader,
        }
        data = event.data or {}
        if event.kind == "log":
            keywords["logs"] = _as_dict(data.get("logs"))
        elif event.kind in _METRICS_KINDS:
            keywords["metrics"] = _as_dict(data.get("metrics"))
        return keywords

    def _set_rates(self, optimizer: OptimizerStandIn, data: Mapping[str, Any]) -> None:
        rates, logs = data.get("learning_rates"), data.get("logs")
        if rates is None and isinstance(logs, Mapping):
            rates = [logs["learning_rate"]] if "learning_rate" in logs else None
        if isinstance(rates, list) and rates:
            optimizer.set_rates(rates)

    def _begin_training(self) -> None:
        self._optimizer, self._scheduler = optimizer_stand_ins(self.facts.get("optimizer"))
        self._train_loader = loader_stand_in(self._loaders().get("train"))

    def _loaders(self) -> Mapping[str, Any]:
        loaders = self.facts.get("loaders")
        return loaders if isinstance(loaders, Mapping) else {}


def _as_dict(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
