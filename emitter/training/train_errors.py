"""What ``train()`` raised: heard of where it comes out, whatever the script makes of it.

No hook of a Trainer comes after an exception, and one that the script catches never reaches the
interpreter. So ``train`` of the Trainer's class is wrapped, once in a process: what it is given,
what it answers and what it raises stay what they are.
"""

from __future__ import annotations

import functools
import sys
from types import FunctionType
from typing import Any, Protocol

from lineside.emitter.training.trainer_frames import find_trainer

_WRAPPED = "__lineside__"


class TrainErrorListener(Protocol):
    """A callback that wants to know."""

    def on_train_error(self, error: BaseException) -> None:
        """``train()`` is raising ``error``; raises no Exception."""


def wrap_loaded_trainer(listener_class: type[TrainErrorListener]) -> None:
    """Wrap ``Trainer.train`` if transformers' Trainer is imported."""
    # A Trainer that is given the callback later calls no hook before it trains.
    trainer_class = getattr(sys.modules.get("transformers.trainer"), "Trainer", None)
    if trainer_class is not None:
        wrap_train(trainer_class, listener_class)


def wrap_calling_trainer(control: Any, listener_class: type[TrainErrorListener]) -> None:
    """Wrap ``train`` of the Trainer that calls the hook, found by its ``control``."""
    found = find_trainer(control)
    trainer = None if found is None else found()
    if trainer is not None:
        wrap_train(type(trainer), listener_class)


def wrap_train(trainer_class: type[Any], listener_class: type[TrainErrorListener]) -> None:
    """Tell every callback of class ``told`` what ``train()`` of a Trainer of that class raises.

    Does nothing the second time, nor where ``train`` is no method written in Python.
    """
    owner = next((one for one in trainer_class.__mro__ if "train" in vars(one)), None)
    train = vars(owner)["train"] if owner else None
    if not isinstance(train, FunctionType) or hasattr(train, _WRAPPED):
        return

    @functools.wraps(train)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return train(self, *args, **kwargs)
        except BaseException as error:
            for callback in _callbacks(self):
                if isinstance(callback, listener_class):
                    callback.on_train_error(error)
            raise

    setattr(wrapped, _WRAPPED, True)
    owner.train = wrapped  # type: ignore[union-attr]


def _callbacks(trainer: Any) -> list[Any]:
    handler = getattr(trainer, "callback_handler", None)
    return list(getattr(handler, "callbacks", ()))
