"""Observes the files in which a Trainer keeps its state: ``trainer_state.json``.

No callback receives the checkpoint that a Trainer resumes from, nor every checkpoint that it
writes: a checkpoint at a SIGTERM (``enable_jit_checkpoint``) calls no hook. The Trainer writes and
reads each one through its TrainerState class, whose two methods are wrapped, once in a process.
Their arguments, results and exceptions stay the same.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.training.console import print_once
from lineside.emitter.training.error_facts import one_line

MARK = "lineside"
"""Key in ``stateful_callbacks`` of the first checkpoints that Lineside took part in."""
_ORIGIN = "_lineside_origin"  # no field of the dataclass: neither saved nor compared
_WRAPPED = "__lineside__"


class Origin(NamedTuple):
    """The file from which a state was read, and the mark of a run that it held."""

    path: Path
    mark: Any


def origin(state: Any) -> Origin | None:
    """Where ``state`` was read from; None for the state of a new training."""
    found = getattr(state, _ORIGIN, None)
    return found if isinstance(found, Origin) else None


def wrap_state_class(state_class: type[Any], on_save: Callable[[Any, Path], None]) -> None:
    """Note where a ``state_class`` is read from, and call ``on_save`` with each written one.

    Does nothing the second time.
    """
    save, load = state_class.save_to_json, state_class.load_from_json
    if hasattr(save, _WRAPPED):
        return

    @functools.wraps(save)
    def save_to_json(self: Any, json_path: str) -> Any:
        result = save(self, json_path)
        _guarded(on_save, self, json_path)
        return result

    # A classmethod: the wrapper passes on the subclass it is called on.
    @functools.wraps(load.__func__)
    def load_from_json(cls: type[Any], json_path: str) -> Any:
        state = load.__func__(cls, json_path)
        _guarded(_note_origin, state, json_path)
        return state

    setattr(save_to_json, _WRAPPED, True)
    state_class.save_to_json = save_to_json
    state_class.load_from_json = classmethod(load_from_json)


def _note_origin(state: Any, path: Path) -> None:
    # Without the mark, the Trainer does not take it for a callback whose state it has to restore.
    setattr(state, _ORIGIN, Origin(path, state.stateful_callbacks.pop(MARK, None)))


def _guarded(func: Callable[[Any, Path], None], state: Any, json_path: Any) -> None:
    try:
        func(state, Path(os.fsdecode(json_path)).absolute())
    except BaseException as error:
        if is_script_error(error):
            raise
        print_once(f"a checkpoint's run could not be kept, training goes on ({one_line(error)})")
