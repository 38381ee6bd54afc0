"""Applies commands to the Trainer of this process, after checking that it can.

The Trainer honours a flag of its TrainerControl only if it is set at the right hook, and some flags
end training with an error where the Trainer cannot follow them. In a pause the Trainer itself logs,
evaluates and saves: the hook returns for it, and the pause continues at the hook after it.
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
from lineside.emitter.control.consensus import LATER, NO, YES, Vote
from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.training.error_facts import one_line
from lineside.emitter.training.trainer_frames import find_trainer, in_training_loop

Action = Callable[[], dict[str, Any]]
"""Applies a prepared command; returns facts for the answer."""
# What the Trainer can still do in the step of a hook; the rest is done already.
_OPS_AFTER_HOOK = {
    "step_end": frozenset({"log", "evaluate", "save"}),
    "log": frozenset({"evaluate", "save"}),
    "evaluate": frozenset({"save"}),
    "save": frozenset[str](),
}


class Refused(Exception):
    """The command cannot be applied, for the reason given."""


class Postponed(Exception):
    """The command has to wait for another step."""


class HookContext(NamedTuple):
    """A hook and the arguments with which the Trainer called it."""

    hook: str
    args: Any
    state: Any
    control: Any
    kwargs: Mapping[str, Any]


class TrainerActions:
    """Prepares commands for the Trainer that has ``control``.

    ``is_paused`` while training is to be held, at most until the monotonic ``paused_until``.
    ``is_single_process``: there are no other ranks. With others, one rank may be the only one that
    logs, so no rank is held at its ``log`` hook.
    """

    def __init__(self, control: Any, *, is_single_process: bool) -> None:
        self.is_paused = False
        self._is_single_process = is_single_process
        self.paused_until = math.inf
        self._trainer = find_trainer(control)
        # Hooks that the Trainer calls after what it was asked for in a pause, and how often.
        self._expected_hooks: Counter[str] = Counter()

    @property
    def should_wait(self) -> bool:
        """Whether the Trainer has nothing to do but wait."""
        return self.is_paused and not self._expected_hooks

    def vote(self, command: Command, context: HookContext) -> tuple[Vote, Action]:
        """Whether this rank can apply ``command`` now, and the action for it. Changes nothing."""
        try:
            return Vote(YES), self._prepare(command, context)
        except Postponed:
            return Vote(LATER), dict
        except Refused as refused:
            return Vote(NO, str(refused)), dict
        except Exception as error:
            if is_script_error(error):
                raise
            return Vote(NO, f"it failed: {one_line(error)}"), dict

    def _prepare(self, command: Command, context: HookContext) -> Action:
        """
        Raises:
            Refused: it cannot be applied.
            Postponed: not at this step.
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
        """Whether to wait in ``hook``: the end of a step, or of what the Trainer did in a pause."""
        return (hook == "step_end" or self._take_expected(hook)) and self.should_wait

    def _take_expected(self, hook: str) -> bool:
        """Whether the Trainer calls ``hook`` because it was asked to in a pause."""
        if hook not in self._expected_hooks or not in_training_loop(sys._getframe()):
            return False
        self._expected_hooks[hook] -= 1
        self._expected_hooks = +self._expected_hooks
        return True

    def forget_expected(self) -> None:
        """Expect no hooks any more: the Trainer is at the next step."""
        self._expected_hooks.clear()

    def end_pause(self) -> None:
        """End the pause."""
        self.is_paused = False
        self._expected_hooks.clear()

    def _pause(self, seconds: float, control: Any) -> dict[str, Any]:
        self.is_paused = True
        self.paused_until = time.monotonic() + seconds
        # The Trainer first does what this step does anyway or was asked for.
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
        """The flags to set so that the Trainer logs, evaluates or saves at this step."""
        hook, control, args = context.hook, context.control, context.args
        if op not in _OPS_AFTER_HOOK[hook]:
            raise Refused(f"training is paused right after its {hook} of this step; resume first")
        if op == "log" and self.is_paused and not self._is_single_process:
            raise Refused("training is paused, and one rank may be all that logs; resume first")
        if op == "evaluate":
            self._check_evaluation(args)
        is_best_only = _strategy_name(args.save_strategy) == "best"
        if op == "save" and is_best_only and (control.should_evaluate or hook == "evaluate"):
            raise Postponed  # after an evaluation the Trainer decides again whether to save
        if op == "evaluate" and args.load_best_model_at_end and not is_best_only:
            # It may be the best one, which is loaded at the end of training.
            return [op, *self._required_ops("save", context)]
        return [op]

    def _check_evaluation(self, args: Any) -> None:
        """
        Raises:
            Refused: the Trainer would raise at an evaluation, and training would end.
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
