"""Finds the Trainer among the frames of the thread that calls a hook."""

from __future__ import annotations

import sys
import weakref
from types import FrameType
from typing import Any


def find_trainer(control: Any) -> weakref.ref[Any] | None:
    """The Trainer further up this thread's stack whose ``control`` this is.

    Callbacks are not given it. Only to be looked for where no batch is under way: older Pythons
    keep what a frame's variables held when they were looked at.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        one = frame.f_locals.get("self")
        if hasattr(one, "callback_handler") and getattr(one, "control", None) is control:
            return weakref.ref(one)
        frame = frame.f_back
    return None


def in_training_loop(frame: FrameType | None) -> bool:
    """Whether ``frame`` is in a Trainer's training, and not in what the script does after it."""
    while frame is not None:
        # Unsloth and others put their own version of it in its place, as _fast_inner_training_loop.
        if frame.f_code.co_name.endswith("_inner_training_loop"):
            return True
        frame = frame.f_back
    return False
