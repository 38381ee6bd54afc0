"""What ``train()`` raised: heard of where it comes out, whatever the script makes of it.

No hook of a Trainer comes after an exception, and one that the script catches never reaches the
interpreter. So ``train`` of the Trainer's class is wrapped, once in a process: what it is given,
what it answers and what it raises stay what they are.
"""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any, Protocol

_MARK = "__lineside__"


class Told(Protocol):
    """A callback that wants to know."""

    def on_train_error(self, error: BaseException) -> None:
        """``train()`` is raising ``error``; raises no Exception."""


def watch(trainers: type[Any], told: type[Told]) -> None:
    """Tell every callback of class ``told`` what ``train()`` of a Trainer of that class raises.

    Does nothing the second time, nor where ``train`` is no method written in Python.
    """
    owner = next((one for one in trainers.__mro__ if "train" in vars(one)), None)
    train = vars(owner)["train"] if owner else None
    if not isinstance(train, FunctionType) or hasattr(train, _MARK):
        return

    @functools.wraps(train)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return train(self, *args, **kwargs)
        except BaseException as error:
            for callback in _callbacks(self):
                if isinstance(callback, told):
                    callback.on_train_error(error)
            raise

    setattr(watched, _MARK, True)
    owner.train = watched  # type: ignore[union-attr]


def _callbacks(trainer: Any) -> list[Any]:
    handler = getattr(trainer, "callback_handler", None)
    return list(getattr(handler, "callbacks", ()))
