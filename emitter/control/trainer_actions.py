"""What commands do to the Trainer of this process: first whether they can, then that they do.

A TrainerControl's flags are honoured only if they are set at the right hook, and some kill the
training where they cannot be followed. What is asked for while training is held up (``pause``) is
done by the Trainer, so the hook lets go for it and holds on at the one that says it is done.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lineside.bus.protocol.commands import PAUSE_SECONDS, Command
from lineside.emitter.control import learning_rate
from lineside.emitter.training.trainer_frames import find_trainer, in_training_loop

Action = Callable[[], dict[str, Any]]
"""Does what was prepared, and gives what is worth telling of it."""
# What the Trainer can still be asked for at a hook of the same step; the rest is done already.
_OPS_AFTER_HOOK = {
    "step_end": frozenset({"log", "evaluate", "save"}),
    "log": frozenset({"evaluate", "save"}),
    "evaluate": frozenset({"save"}),
    "save": frozenset[str](),
}


class Refused(Exception):
    """Why a command is not applied."""


class Postponed(Exception):
    """The command has to wait for another step."""


class HookContext(NamedTuple):
    """A hook, and what the Trainer gave it."""

    hook: str
    args: Any
    state: Any
    control: Any
    kwargs: Mapping[str, Any]


class TrainerActions:
    """Prepares commands for the Trainer whose ``control`` this is, further up the stack.

    ``is_paused`` says that training is to be held, until the monotonic ``paused_until`` at most.
    ``is_single_process`` says that there are no other ranks: those may leave logging to one of
    them, so that
    none is held in it.
    """

    def __init__(self, control: Any, *, is_single_process: bool) -> None:
        self.is_paused = False
        self._is_single_process = is_single_process
        self.paused_until = math.inf
        self._trainer = find_trainer(control)
        # Asked of the Trainer in a pause, and how often the hook that says it is done is to come.
        self._expected_hooks: Counter[str] = Counter()

    @property
    def should_wait(self) -> bool:
        """Whether the Trainer has nothing to do but wait."""
        return self.is_paused and not self._expected_hooks

    def prepare(self, command: Command, context: HookContext) -> Action:
        """Change nothing, but be sure that it can be done.

        Raises:
            Refused: it cannot be done.
            NotYet: not at this step.
        """
        if command.op == "set_lr":
            return _prepare_learning_rate(command.args["lr"], context.kwargs)
        if command.op == "pause":
            if self.is_paused:
                raise Refused("training is paused already")
            seconds = command.args.get("seconds", PAUSE_SECONDS)
            return lambda: self._pause(seconds, context.control)
        if command.op == "resume":
            if not self.is_paused:
                raise Refused("training is not paused")
            return self._resume
        if command.op == "stop":
            saves = command.args.get("save", True) and context.hook != "save"
            ops = self._required_ops("save", context) if saves else []
            return lambda: self._stop(ops, command, context.control)
        try:
            ops = self._required_ops(command.op, context)
        except Postponed:
            if self.is_paused:
                why = "this step evaluates and saves only if it is the best; resume first"
                raise Refused(why) from None
            raise
        return lambda: self._set_flags(ops, context.control)

    def should_wait_at(self, hook: str) -> bool:
        """Whether ``hook`` is one to stay in: the step's end, or what was asked for in a pause."""
        return (hook == "step_end" or self._take_expected(hook)) and self.should_wait

    def _take_expected(self, hook: str) -> bool:
        """Whether the Trainer has just done at ``hook`` what it was asked for in a pause."""
        if hook not in self._expected_hooks or not in_training_loop(sys._getframe()):
            return False
        self._expected_hooks[hook] -= 1
        self._expected_hooks = +self._expected_hooks
        return True

    def forget_expected(self) -> None:
        """What the Trainer has not done by now it will not do."""
        self._expected_hooks.clear()

    def end_pause(self) -> None:
        """The pause is over."""
        self.is_paused = False
        self._expected_hooks.clear()

    def _pause(self, seconds: float, control: Any) -> dict[str, Any]:
        self.is_paused = True
        self.paused_until = time.monotonic() + seconds
        # What this step is to do anyway, or was asked for, is done before training is held up.
        for op in ("log", "evaluate", "save") if self._is_single_process else ("evaluate", "save"):
            if getattr(control, f"should_{op}"):
                self._expect(op)
        return {}

    def _resume(self) -> dict[str, Any]:
        self.is_paused = False
        return {}

    def _stop(self, ops: list[str], command: Command, control: Any) -> dict[str, Any]:
        self._set_flags(ops, control)
        control.should_training_stop = True
        self.is_paused = False
        return {"issued_by": command.issued_by, "reason": command.reason}

    def _set_flags(self, ops: list[str], control: Any) -> dict[str, Any]:
        for op in ops:
            setattr(control, f"should_{op}", True)
            if self.is_paused:
                self._expect(op)
        return {}

    def _required_ops(self, op: str, context: HookContext) -> list[str]:
        """What the Trainer is to be asked for to log, evaluate or save at this step."""
        hook, control, args = context.hook, context.control, context.args
        if op not in _OPS_AFTER_HOOK[hook]:
            raise Refused(f"training is paused right after its {hook} of this step; resume first")
        if op == "log" and self.is_paused and not self._is_single_process:
            raise Refused("training is paused, and one rank may be all that logs; resume first")
        if op == "evaluate":
            self._check_evaluation(args)
        is_best_only = _strategy_name(args.save_strategy) == "best"
        if op == "save" and is_best_only and (control.should_evaluate or hook == "evaluate"):
            raise Postponed  # the Trainer decides anew whether to save once it has evaluated
        if op == "evaluate" and args.load_best_model_at_end and not is_best_only:
            # It counts as the best one if it is, and then has to be there to be loaded.
            return [op, *self._required_ops("save", context)]
        return [op]

    def _check_evaluation(self, args: Any) -> None:
        """
        Raises:
            Refused: asked for an evaluation the Trainer would raise, and training be over.
        """
        trainer = self._trainer() if self._trainer is not None else None
        if trainer is None:
            raise Refused("the Trainer was not found, so whether it can evaluate is not known")
        if getattr(trainer, "eval_dataset", None) is None:
            raise Refused("the Trainer has no evaluation dataset")
        if _strategy_name(args.eval_strategy) == "no" and args.metric_for_best_model is not None:
            raise Refused(
                f"whether an evaluation has the metric {args.metric_for_best_model!r} is not known"
            )

    def _expect(self, op: str) -> None:
        trainer = self._trainer() if self._trainer is not None else None
        datasets = getattr(trainer, "eval_dataset", None)
        many = len(datasets) if op == "evaluate" and isinstance(datasets, dict) else 1
        self._expected_hooks[op] = many


def _prepare_learning_rate(rate: float, kwargs: Mapping[str, Any]) -> Action:
    try:
        change = learning_rate.prepare(kwargs.get("optimizer"), kwargs.get("lr_scheduler"), rate)
    except learning_rate.CannotChangeRate as error:
        raise Refused(str(error)) from None
    return lambda: {"from": change(), "to": rate}


def _strategy_name(strategy: Any) -> str:
    return str(getattr(strategy, "value", strategy))
