"""The Trainer's callback: tells every lifecycle event to the bus, and never gets in the way."""
# ruff: noqa: ARG002 - what a hook is kwargs is the Trainer's to say

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from time import monotonic_ns, time
from typing import Any

from transformers import TrainerCallback

from lineside.bus.settings import Settings
from lineside.emitter.control.consensus import abandon_control
from lineside.emitter.control.follower import FollowerExecutor
from lineside.emitter.control.leader import LeaderExecutor
from lineside.emitter.control.sigterm import SigtermHandler
from lineside.emitter.control.trainer_actions import HookContext, find_trainer
from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.spool.status_page import PHASES, TRAIN_ENDED, TRAINING
from lineside.emitter.training import metadata, train_errors
from lineside.emitter.training.attempts import AttemptManager, InitEnd
from lineside.emitter.training.console import print_once
from lineside.emitter.training.publisher import Publisher
from lineside.emitter.training.shutdown import Unconfirmed

_WAITING, _TRAINING, _EVALUATING, _SAVING, _FINISHED = map(
    PHASES.index, ("waiting", "training", "evaluating", "saving", "finished")
)
_UNCHANGED = None  # the phase stays what it is
_FROM_FLAGS = -1  # what the control flags say comes next
# By should_save and should_evaluate, the two bits from the third on: evaluation comes first.
_PHASE_BY_FLAGS = (_WAITING, _SAVING, _EVALUATING, _EVALUATING)


class LinesideCallback(TrainerCallback):  # type: ignore[misc]
    """Publishes a Trainer's lifecycle: ``Trainer(..., callbacks=[LinesideCallback()])``.

    ``name``, ``project`` and ``run_id`` say what the run is called; the environment's
    LINESIDE_RUN_NAME, LINESIDE_PROJECT and LINESIDE_RUN_ID have the last word. With
    ``stop_on_sigterm``, or LINESIDE_STOP_ON_SIGTERM, a SIGTERM is a command to save and stop.

    Rank 0 publishes everything, other ranks their start, end and failures. No hook raises, and none
    waits but ``on_train_end``: 5 s at most in the life of the process, until the bus has all of the
    run; ``on_evaluate``, if it is to, on every rank: ``wait_for_stopper`` seconds at most, or
    LINESIDE_WAIT_FOR_STOPPER, for the stopper's word on that evaluation; a step's last hook while
    training is paused; and, of several ranks, ``on_train_begin`` for 5 s at most to hear from rank
    0, and half a second at a time in the two minutes after that if the job's store is silent,
    ``on_step_end``, 15 s at most at the first, for ranks that are late or to agree on a command,
    and the process's exit, 4 s at most, for such a store. A copy carries these settings only and
    publishes a run of its own.
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
        self._config: dict[str, Any] = {
            "name": name,
            "project": project,
            "run_id": run_id,
            "wait_for_stopper": wait_for_stopper,
        }
        self._stop_on_sigterm = stop_on_sigterm
        self._attempts = AttemptManager(**self._config, trial_prefix="")
        self._init_end: InitEnd | None = None
        self._is_training = False
        self._start_step = 0  # the step
        self._executor: LeaderExecutor | FollowerExecutor | None = None
        self._sigterm_handler: SigtermHandler | None = None
        # A Trainer that is kwargs the callback later calls no hook before it trains.
        trainer_class = getattr(sys.modules.get("transformers.trainer"), "Trainer", None)
        if trainer_class is not None:
            self._guarded(train_errors.wrap_train, trainer_class, LinesideCallback)

    def __getstate__(self) -> dict[str, Any]:
        return {**self._config, "stop_on_sigterm": self._stop_on_sigterm}

    def __setstate__(self, config: dict[str, Any]) -> None:
        self.__init__(**config)  # type: ignore[misc]
        # Copies in several processes count hyperparameter trials each for itself.
        self._attempts = AttemptManager(**self._config, trial_prefix=f"{secrets.token_hex(2)}-")

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Kept until a run opens."""
        self._guarded(self._wrap_train, control)
        self._guarded(self._keep_init_end, state, control)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Opens a new attempt."""
        self._guarded(self._begin_training, args, state, control, kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published, then waited for."""
        self._guarded(self._end_training, state, control)

    def on_train_error(self, error: BaseException) -> None:
        """Published, whether the script catches it or not; ``emitter.outcome`` calls this."""
        self._guarded(self._report_train_error, error)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published with the state's scalars."""
        self._guarded(self._publish_with_state, "epoch_begin", _WAITING, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published with the state's scalars."""
        self._guarded(self._publish_with_state, "epoch_end", _FROM_FLAGS, state, control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published."""
        self._publish("step_begin", _TRAINING, args, state, control)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published."""
        self._publish("pre_optimizer_step", _TRAINING, args, state, control)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published."""
        self._publish("optimizer_step", _TRAINING, args, state, control)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published."""
        self._publish("substep_end", _TRAINING, args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published, once what was asked for from outside is done."""
        if self._attempts.is_joining:
            self._guarded(self._join, args, state, control, is_last_chance=True)
        executor = self._executor
        if executor is not None and executor.is_due(state.global_step):
            self._guarded(
                executor.apply_commands, HookContext("step_end", args, state, control, kwargs)
            )
        self._publish("step_end", _FROM_FLAGS, args, state, control)
        if executor is not None and executor.is_paused:
            self._wait_while_paused("step_end", args, state, control, kwargs)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Published with the metrics; opens a run if there is none."""
        executor = self._executor
        if executor is not None and executor.syncs_evaluations:
            executor.before_evaluation()
        self._guarded(self._publish_metrics, "evaluate", args, state, control, metrics, kwargs)
        if executor is not None and executor.syncs_evaluations:
            self._guarded(
                executor.sync_evaluation, HookContext("evaluate", args, state, control, kwargs)
            )
        self._wait_while_paused("evaluate", args, state, control, kwargs)

    def on_predict(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Published with the metrics; opens a run if there is none."""
        self._guarded(self._publish_metrics, "predict", args, state, control, metrics, kwargs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published with the checkpoint's path."""
        self._guarded(self._publish_save, args, state, control)
        self._wait_while_paused("save", args, state, control, kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Published with the logs as they are now: later callbacks may change them."""
        self._publish("log", _UNCHANGED, args, state, control, {} if logs is None else logs)
        if self._executor is not None and self._executor.is_paused:
            self._wait_while_paused("log", args, state, control, kwargs)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published; opens a run if there is none."""
        self._publish_prediction_step(args, state, control, kwargs)

    def on_push_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published (transformers 5.23 and later)."""
        self._publish("push_begin", _UNCHANGED, args, state, control)

    # The common way, several times a step: in one piece, because after a backward pass each
    # function on the way costs microseconds.

    def _publish(
        self,
        kind: str,
        phase: int | None,
        args: Any,
        state: Any,
        control: Any,
        logs: Any = None,
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
            if phase == _FROM_FLAGS:
                phase = _PHASE_BY_FLAGS[bits >> 2 & 3]
            data = None if logs is None else {"logs": publisher.sanitize(logs)}
            publisher.on_hook(kind, state.global_step, state.epoch, bits, data, phase, now_ns)
        except BaseException as error:
            if is_script_error(error):
                raise
            self._count_hook_error(error)

    def _wait_while_paused(
        self, hook: str, args: Any, state: Any, control: Any, kwargs: dict[str, Any]
    ) -> None:
        """Stay here while training is paused from outside."""
        executor = self._executor
        if executor is not None and executor.is_paused:
            self._guarded(
                executor.wait_while_paused, HookContext(hook, args, state, control, kwargs)
            )

    def _publish_with_state(
        self,
        kind: str,
        phase: int | None,
        state: Any,
        control: Any,
        extra: dict[str, Any] | None = None,
        now_ns: int = 0,
    ) -> None:
        publisher = self._attempts.publisher
        if publisher is None:
            return
        now_ns = now_ns or monotonic_ns()
        bits = _control_bits(control)
        if phase == _FROM_FLAGS:
            phase = _PHASE_BY_FLAGS[bits >> 2 & 3] if self._is_training else _FINISHED
        data = {"state": metadata.state_facts(state)} | (extra or {})
        publisher.on_hook(kind, state.global_step, state.epoch, bits, data, phase, now_ns)

    def _guarded(self, func: Callable[..., None], *args: Any, **kwargs: Any) -> None:
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
            print_once(f"a hook failed, training goes on ({metadata.one_line(error)})")

    # What the rare hooks do.

    def _wrap_train(self, control: Any) -> None:
        found = find_trainer(control)
        trainer = None if found is None else found()
        if trainer is not None:
            train_errors.wrap_train(type(trainer), LinesideCallback)

    def _keep_init_end(self, state: Any, control: Any) -> None:
        self._init_end = InitEnd(
            state.global_step, state.epoch, _control_bits(control), monotonic_ns(), time()
        )

    def _begin_training(self, args: Any, state: Any, control: Any, kwargs: dict[str, Any]) -> None:
        now_ns = monotonic_ns()
        self._is_training = True
        self._stop_control()
        self._open(args, state, kwargs, now_ns)
        self._publish_with_state("train_begin", _WAITING, state, control, now_ns=now_ns)
        self._set_training_flag()
        self._start_step = state.global_step
        publisher = self._attempts.publisher
        if publisher is not None:
            self._start_control(publisher, self._start_step, control)

    def _start_control(self, publisher: Publisher, step: int, control: Any) -> None:
        if publisher.identity.rank_info.rank == 0:
            timeout = self._attempts.wait_for_stopper
            try:
                self._executor = LeaderExecutor(publisher, control, step, timeout)
            except Exception as error:
                abandon_control(publisher.identity, error)
                raise
        else:
            self._executor = FollowerExecutor(publisher, control, step)
        override = Settings.from_env().stop_on_sigterm
        if self._stop_on_sigterm if override is None else override:
            self._sigterm_handler = SigtermHandler.install(self._executor, publisher)

    def _end_training(self, state: Any, control: Any) -> None:
        self._is_training = False
        try:
            self._publish_with_state("train_end", _FINISHED, state, control)
        finally:
            answers = self._stop_control()
        publisher = self._attempts.publisher
        if publisher is not None:
            publisher.flag(raised=TRAIN_ENDED, lowered=TRAINING)
            publisher.wait(*answers)

    def _report_train_error(self, error: BaseException) -> None:
        if not self._is_training:
            return  # it came before training began, or was told already
        self._is_training = False
        publisher = self._attempts.publisher
        try:
            if publisher is not None:
                publisher.publish_train_error(error)
        finally:
            self._stop_control()

    def _stop_control(self) -> list[Unconfirmed]:
        sigterm, self._sigterm_handler = self._sigterm_handler, None
        if sigterm is not None:
            sigterm.uninstall()
        executor, self._executor = self._executor, None
        if executor is None:
            return []
        executor.close()
        return [executor.unconfirmed()] if isinstance(executor, LeaderExecutor) else []

    def _publish_metrics(
        self,
        kind: str,
        args: Any,
        state: Any,
        control: Any,
        metrics: Any,
        kwargs: dict[str, Any],
    ) -> None:
        now_ns = monotonic_ns()
        self._open_lazily(args, state, kwargs, now_ns)
        publisher = self._attempts.publisher
        if publisher is not None:
            extra = {"metrics": publisher.sanitize({} if metrics is None else metrics)}
            self._publish_with_state(kind, _FROM_FLAGS, state, control, extra, now_ns)

    def _publish_save(self, args: Any, state: Any, control: Any) -> None:
        extra = {"checkpoint": metadata.checkpoint_path(args, state)}
        self._publish_with_state("save", _FROM_FLAGS, state, control, extra)

    def _publish_prediction_step(
        self, args: Any, state: Any, control: Any, kwargs: dict[str, Any]
    ) -> None:
        if self._attempts.publisher is None:
            self._guarded(self._open_lazily, args, state, kwargs, monotonic_ns())
        self._publish("prediction_step", _EVALUATING, args, state, control)

    def _open_lazily(self, args: Any, state: Any, kwargs: dict[str, Any], now_ns: int) -> None:
        attempts = self._attempts
        if attempts.publisher is None and not attempts.is_joining and not attempts.is_disabled:
            self._open(args, state, kwargs, now_ns)

    def _open(self, args: Any, state: Any, kwargs: dict[str, Any], now_ns: int) -> None:
        init_end, self._init_end = self._init_end, None
        self._attempts.begin(args, state, kwargs, init_end, now_ns)

    def _join(self, args: Any, state: Any, control: Any, *, is_last_chance: bool = False) -> None:
        """``is_last_chance``: commands are for ranks that are there at the first step's end."""
        self._attempts.join(args, state, monotonic_ns(), at_once=is_last_chance)
        publisher = self._attempts.publisher
        if publisher is not None and self._is_training:
            self._set_training_flag()
            self._start_control(publisher, self._start_step, control)

    def _set_training_flag(self) -> None:
        if self._attempts.publisher is not None:
            self._attempts.publisher.flag(raised=TRAINING, lowered=TRAIN_ENDED)


def _control_bits(control: Any) -> int:
    """The ``CONTROL_BITS`` of a TrainerControl."""
    return (
        (1 if control.should_training_stop else 0)
        | (2 if control.should_epoch_stop else 0)
        | (4 if control.should_save else 0)
        | (8 if control.should_evaluate else 0)
        | (16 if control.should_log else 0)
    )
