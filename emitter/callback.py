"""The Trainer's callback: publishes every hook and applies commands. No error leaves it."""
# ruff: noqa: ARG002 - the Trainer defines the arguments of a hook

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from transformers import TrainerCallback

from lineside.emitter.control.session import ControlSession
from lineside.emitter.control.trainer_actions import HookContext
from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.training import train_errors
from lineside.emitter.training.attempts import AttemptManager, Options
from lineside.emitter.training.console import print_once
from lineside.emitter.training.error_facts import one_line
from lineside.emitter.training.hook_events import (
    EVALUATING,
    FROM_FLAGS,
    PHASE_BY_FLAGS,
    TRAINING,
    WAITING,
    HookEvents,
)

_UNCHANGED = None  # in place of a phase


class LinesideCallback(TrainerCallback):  # type: ignore[misc]
    """Publishes a Trainer's lifecycle: ``Trainer(..., callbacks=[LinesideCallback()])``.

    ``name``, ``project`` and ``run_id`` name the run; LINESIDE_RUN_NAME, LINESIDE_PROJECT and
    LINESIDE_RUN_ID override them. With ``stop_on_sigterm``, or LINESIDE_STOP_ON_SIGTERM, a SIGTERM
    makes training save and stop. Rank 0 publishes everything, other ranks their start, end and
    failures. A copy carries these settings only and publishes a run of its own.

    No hook raises. These hooks wait:

    - ``on_train_end`` until the bus has confirmed the run: 5 s at most in the life of the process.
    - ``on_evaluate`` on every rank until the stopper has reviewed the evaluation:
      ``wait_for_stopper`` seconds at most, or LINESIDE_WAIT_FOR_STOPPER.
    - A step's last hook while training is paused.
    - With several ranks: ``on_train_begin`` for rank 0, 5 s at most; ``on_step_end`` for the other
      ranks, 15 s at most at the first one, and to agree on a command. If the job's store does not
      answer, any hook in the first two minutes half a second at a time, and the exit 4 s at most.
    """

    def __init__(
        self,
        name: str | None = None,
        project: str | None = None,
        run_id: str | None = None,
        wait_for_stopper: float = 0.0,
        *,
        stop_on_sigterm: bool = False,
    ) -> None:
        self._options = Options(name, project, run_id, wait_for_stopper, stop_on_sigterm)
        self._attempts = AttemptManager(self._options)
        self._events = HookEvents(self._attempts)
        self._control = ControlSession()
        self._start_step = 0
        self._guarded(train_errors.wrap_loaded_trainer, LinesideCallback)

    def __getstate__(self) -> dict[str, Any]:
        return dataclasses.asdict(self._options)

    def __setstate__(self, config: dict[str, Any]) -> None:
        self.__init__(**config)  # type: ignore[misc]
        # Copies in several processes count hyperparameter trials each for itself.
        self._attempts.trial_prefix = f"{secrets.token_hex(2)}-"

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Kept until a run opens, and published then."""
        self._guarded(train_errors.wrap_calling_trainer, control, LinesideCallback)
        self._guarded(self._events.keep_init_end, state, control)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Opens a new attempt."""
        self._guarded(self._begin_training, args, state, control, kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published, then waited for."""
        self._guarded(self._end_training, state, control)

    def on_train_error(self, error: BaseException) -> None:
        """Published even if the script catches it; ``train_errors`` calls this."""
        self._guarded(self._report_train_error, error)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published with the state's scalars."""
        self._guarded(self._events.publish_state, "epoch_begin", WAITING, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published with the state's scalars."""
        self._guarded(self._events.publish_state, "epoch_end", FROM_FLAGS, state, control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._publish("step_begin", TRAINING, args, state, control)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._publish("pre_optimizer_step", TRAINING, args, state, control)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._publish("optimizer_step", TRAINING, args, state, control)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._publish("substep_end", TRAINING, args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Applies commands, then published."""
        if self._attempts.is_joining:
            self._guarded(self._join, args, state, control, is_last_chance=True)
        executor = self._control.executor
        if executor.is_due(state):
            self._guarded(
                executor.apply_commands, HookContext("step_end", args, state, control, kwargs)
            )
        self._publish("step_end", FROM_FLAGS, args, state, control)
        if executor.is_paused:
            self._wait_while_paused("step_end", args, state, control, kwargs)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Published with the metrics; opens a run if none is open."""
        executor = self._control.executor
        executor.before_evaluation()
        self._guarded(
            self._events.publish_metrics, "evaluate", args, state, control, metrics, kwargs
        )
        if executor.syncs_evaluations:
            self._guarded(
                executor.sync_evaluation, HookContext("evaluate", args, state, control, kwargs)
            )
        self._wait_while_paused("evaluate", args, state, control, kwargs)

    def on_predict(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Published with the metrics; opens a run if none is open."""
        self._guarded(
            self._events.publish_metrics, "predict", args, state, control, metrics, kwargs
        )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published with the checkpoint's path."""
        self._guarded(self._events.publish_save, args, state, control)
        self._wait_while_paused("save", args, state, control, kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Published with the logs as they are now: later callbacks may change them."""
        self._publish("log", _UNCHANGED, args, state, control, {} if logs is None else logs)
        if self._control.executor.is_paused:
            self._wait_while_paused("log", args, state, control, kwargs)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published; opens a run if none is open."""
        if self._attempts.publisher is None:
            self._guarded(self._events.open_lazily, args, state, kwargs)
        self._publish("prediction_step", EVALUATING, args, state, control)

    def on_push_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published (transformers 5.23 and later)."""
        self._publish("push_begin", _UNCHANGED, args, state, control)

    # Called several times a step. It is in one piece because after a backward pass each function
    # call costs microseconds.

    def _publish(
        self, kind: str, phase: int | None, args: Any, state: Any, control: Any, logs: Any = None
    ) -> None:
        publisher = self._attempts.publisher
        if publisher is None:
            if self._attempts.is_joining:
                self._guarded(self._join, args, state, control)
            return
        now_ns = monotonic_ns()
        try:
            bits = (
                (1 if control.should_training_stop else 0)
                | (2 if control.should_epoch_stop else 0)
                | (4 if control.should_save else 0)
                | (8 if control.should_evaluate else 0)
                | (16 if control.should_log else 0)
            )
            if phase == FROM_FLAGS:
                phase = PHASE_BY_FLAGS[bits >> 2 & 3]
            data = None if logs is None else {"logs": publisher.sanitize(logs)}
            publisher.on_hook(kind, state.global_step, state.epoch, bits, data, phase, now_ns)
        except BaseException as error:
            if is_script_error(error):
                raise
            self._count_hook_error(error)

    def _wait_while_paused(
        self, hook: str, args: Any, state: Any, control: Any, kwargs: dict[str, Any]
    ) -> None:
        executor = self._control.executor
        if executor.is_paused:
            self._guarded(
                executor.wait_while_paused, HookContext(hook, args, state, control, kwargs)
            )

    def _guarded(self, func: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        try:
            func(*args, **kwargs)
        except BaseException as error:
            if is_script_error(error):
                raise
            self._count_hook_error(error)

    def _count_hook_error(self, error: BaseException) -> None:
        publisher = self._attempts.publisher
        if publisher is not None:
            publisher.count_hook_error(error)
        else:
            print_once(f"a hook failed, training goes on ({one_line(error)})")

    def _begin_training(self, args: Any, state: Any, control: Any, kwargs: dict[str, Any]) -> None:
        self._control.stop()
        self._events.begin_training(args, state, control, kwargs)
        self._start_step = state.global_step
        self._start_control(control)

    def _end_training(self, state: Any, control: Any) -> None:
        try:
            self._events.end_training(state, control)
        finally:
            answers = self._control.stop()
        self._events.wait_confirmed(answers)

    def _report_train_error(self, error: BaseException) -> None:
        try:
            self._events.fail_training(error)
        finally:
            self._control.stop()

    def _join(self, args: Any, state: Any, control: Any, *, is_last_chance: bool = False) -> None:
        if self._events.join(args, state, at_once=is_last_chance):
            self._start_control(control)

    def _start_control(self, control: Any) -> None:
        attempts = self._attempts
        if attempts.publisher is not None:
            self._control.start(attempts.publisher, control, self._start_step, attempts.options)
