"""Reports what ``train()`` raises, even if the script catches it.

A Trainer calls no hook after an exception, and the interpreter does not see one that the script
catches. So ``train`` of the Trainer's class is wrapped, once in a process. Its arguments, result
and exceptions stay the same.
"""

from __future__ import annotations

import functools
import sys
from types import FunctionType
from typing import Any, Protocol

_WRAPPED = "__lineside__"


class TrainErrorListener(Protocol):
    """A callback that receives what ``train()`` raises."""

    def on_train_error(self, error: BaseException, trainer: Any) -> None:
        """``train()`` of ``trainer`` is raising ``error``; raises no Exception."""


def wrap_loaded_trainer(listener_class: type[TrainErrorListener]) -> None:
    """Wrap ``Trainer.train`` if transformers' Trainer is imported."""
    # A Trainer that is given the callback later calls no hook before it trains.
    trainer_class = getattr(sys.modules.get("transformers.trainer"), "Trainer", None)
    if trainer_class is not None:
        wrap_train(trainer_class, listener_class)


def wrap_train(trainer_class: type[Any], listener_class: type[TrainErrorListener]) -> None:
    """Report what ``train()`` of ``trainer_class`` raises to callbacks of ``listener_class``.

    Does nothing the second time, or if ``train`` is not a Python method.
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
                    callback.on_train_error(error, self)
            raise

    setattr(wrapped, _WRAPPED, True)
    owner.train = wrapped  # type: ignore[union-attr]


def _callbacks(trainer: Any) -> list[Any]:
    handler = getattr(trainer, "callback_handler", None)
    return list(getattr(handler, "callbacks", ()))
