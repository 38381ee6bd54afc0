"""Finds the Trainer among the frames of the thread that calls a hook.

Callbacks do not receive it. Look for it only while no batch is processed: older Pythons keep the
values of a frame's variables once they were read.
"""

from __future__ import annotations

import sys
import traceback
import weakref
from types import FrameType
from typing import Any


def find_trainer(control: Any) -> weakref.ref[Any] | None:
    """The Trainer further up this thread's stack whose ``control`` this is."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        one = frame.f_locals.get("self")
        if hasattr(one, "callback_handler") and getattr(one, "control", None) is control:
            return weakref.ref(one)
        frame = frame.f_back
    return None


def find_calling_trainer(callback: object) -> Any | None:
    """The innermost Trainer on this thread's stack that has ``callback``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        one = frame.f_locals.get("self")
        handler = getattr(one, "callback_handler", None)
        if any(each is callback for each in getattr(handler, "callbacks", ())):
            return one
        frame = frame.f_back
    return None


def in_training_loop(frame: FrameType | None) -> bool:
    """Whether ``frame`` is inside a Trainer's training loop."""
    while frame is not None:
        if _is_training_loop(frame):
            return True
        frame = frame.f_back
    return False


def raised_in_training_loop(error: BaseException) -> bool:
    """Whether ``error`` came out of a Trainer's training loop."""
    return any(_is_training_loop(frame) for frame, _ in traceback.walk_tb(error.__traceback__))


def _is_training_loop(frame: FrameType) -> bool:
    # Unsloth and others replace it, for example by _fast_inner_training_loop.
    return frame.f_code.co_name.endswith("_inner_training_loop")
