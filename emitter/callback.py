"""The Trainer's callback: tells every lifecycle event to the bus, and never gets in the way."""
# ruff: noqa: ARG002 - what a hook is given is the Trainer's to say

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from time import monotonic_ns, time
from typing import Any

from transformers import TrainerCallback

from lineside.bus.settings import Settings
from lineside.emitter.control.effects import Moment, find_trainer
from lineside.emitter.control.following import Following
from lineside.emitter.control.peers import decline
from lineside.emitter.control.signals import StopOnSigterm
from lineside.emitter.control.steering import Steering
from lineside.emitter.spool.outside import comes_from_outside
from lineside.emitter.spool.page import PHASES, TRAIN_ENDED, TRAINING
from lineside.emitter.training import outcome, snapshot
from lineside.emitter.training.attempts import Attempts, InitEnd
from lineside.emitter.training.exit import Unconfirmed
from lineside.emitter.training.notice import say
from lineside.emitter.training.publisher import Publisher

_WAITING, _TRAINING, _EVALUATING, _SAVING, _FINISHED = map(
    PHASES.index, ("waiting", "training", "evaluating", "saving", "finished")
)
_KEEP = None  # the phase stays what it is
_NEXT = -1  # what the control flags say comes next
# By should_save and should_evaluate, the two bits from the third on: evaluation comes first.
_AFTER_STEP = (_WAITING, _SAVING, _EVALUATING, _EVALUATING)


class LinesideCallback(TrainerCallback):  # type: ignore[misc]
    """Publishes a Trainer's lifecycle: ``Trainer(..., callbacks=[LinesideCallback()])``.

    ``name``, ``project`` and ``run_id`` say what the run is called; the environment's
    LINESIDE_RUN_NAME, LINESIDE_PROJECT and LINESIDE_RUN_ID have the last word. With
    ``stop_on_sigterm``, or LINESIDE_STOP_ON_SIGTERM, a SIGTERM is a command to save and stop.

    Rank 0 publishes everything, other ranks their start, end and failures. No hook raises, and none
    waits but ``on_train_end``: 5 s at most in the life of the process, until the bus has all of the
    run; ``on_evaluate``, if it is to, on every rank: ``wait_for_verdict`` seconds at most, or
    LINESIDE_WAIT_FOR_VERDICT, for the stopper's word on that evaluation; a step's last hook while
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
        wait_for_verdict: float = 0.0,
        *,
        stop_on_sigterm: bool = False,
    ) -> None:
        self._config: dict[str, Any] = {
            "name": name,
            "project": project,
            "run_id": run_id,
            "wait_for_verdict": wait_for_verdict,
        }
        self._stop_on_sigterm = stop_on_sigterm
        self._attempts = Attempts(**self._config, trial_prefix="")
        self._init_end: InitEnd | None = None
        self._is_training = False
        self._begun_at = 0  # the step
        self._steering: Steering | Following | None = None
        self._sigterm: StopOnSigterm | None = None
        # A Trainer that is given the callback later calls no hook before it trains.
        trainers = getattr(sys.modules.get("transformers.trainer"), "Trainer", None)
        if trainers is not None:
            self._guarded(outcome.watch, trainers, LinesideCallback)

    def __getstate__(self) -> dict[str, Any]:
        return {**self._config, "stop_on_sigterm": self._stop_on_sigterm}

    def __setstate__(self, config: dict[str, Any]) -> None:
        self.__init__(**config)  # type: ignore[misc]
        # Copies in several processes count hyperparameter trials each for itself.
        self._attempts = Attempts(**self._config, trial_prefix=f"{secrets.token_hex(2)}-")

    def on_init_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Kept until a run opens."""
        self._guarded(self._watch_outcome, control)
        self._guarded(self._keep_init_end, state, control)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Opens a new attempt."""
        self._guarded(self._train_begin, args, state, control, given)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Published, then waited for."""
        self._guarded(self._train_end, state, control)

    def on_train_error(self, error: BaseException) -> None:
        """Published, whether the script catches it or not; ``emitter.outcome`` calls this."""
        self._guarded(self._train_error, error)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Published with the state's scalars."""
        self._guarded(self._rare, "epoch_begin", _WAITING, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Published with the state's scalars."""
        self._guarded(self._rare, "epoch_end", _NEXT, state, control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Published."""
        self._step("step_begin", _TRAINING, args, state, control)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Published."""
        self._step("pre_optimizer_step", _TRAINING, args, state, control)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Published."""
        self._step("optimizer_step", _TRAINING, args, state, control)

    def on_substep_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Published."""
        self._step("substep_end", _TRAINING, args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Published, once what was asked for from outside is done."""
        if self._attempts.is_joining:
            self._guarded(self._join, args, state, control, is_last_chance=True)
        steering = self._steering
        if steering is not None and steering.is_due(state.global_step):
            self._guarded(steering.steer, Moment("step_end", args, state, control, given))
        self._step("step_end", _NEXT, args, state, control)
        if steering is not None and steering.is_paused:
            self._hold("step_end", args, state, control, given)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **given: Any
    ) -> None:
        """Published with the metrics; opens a run if there is none."""
        steering = self._steering
        if steering is not None and steering.meets:
            steering.announce()
        self._guarded(self._measured, "evaluate", args, state, control, metrics, given)
        if steering is not None and steering.meets:
            self._guarded(steering.meet, Moment("evaluate", args, state, control, given))
        self._hold("evaluate", args, state, control, given)

    def on_predict(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **given: Any
    ) -> None:
        """Published with the metrics; opens a run if there is none."""
        self._guarded(self._measured, "predict", args, state, control, metrics, given)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Published with the checkpoint's path."""
        self._guarded(self._save, args, state, control)
        self._hold("save", args, state, control, given)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """Published with the logs as they are now: later callbacks may change them."""
        self._step("log", _KEEP, args, state, control, {} if logs is None else logs)
        if self._steering is not None and self._steering.is_paused:
            self._hold("log", args, state, control, given)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Published; opens a run if there is none."""
        self._prediction_step(args, state, control, given)

    def on_push_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Published (transformers 5.23 and later)."""
        self._step("push_begin", _KEEP, args, state, control)

    # The common way, several times a step: in one piece, because after a backward pass each
    # function on the way costs microseconds.

    def _step(
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
            if phase == _NEXT:
                phase = _AFTER_STEP[bits >> 2 & 3]
            data = None if logs is None else {"logs": publisher.tidy(logs)}
            publisher.tell(kind, state.global_step, state.epoch, bits, data, phase, now_ns)
        except BaseException as error:
            if comes_from_outside(error):
                raise
            self._failed(error)

    def _hold(self, hook: str, args: Any, state: Any, control: Any, given: dict[str, Any]) -> None:
        """Stay here while training is paused from outside."""
        steering = self._steering
        if steering is not None and steering.is_paused:
            self._guarded(steering.hold, Moment(hook, args, state, control, given))

    def _rare(
        self,
        kind: str,
        phase: int | None,
        state: Any,
        control: Any,
        more: dict[str, Any] | None = None,
        now_ns: int = 0,
    ) -> None:
        publisher = self._attempts.publisher
        if publisher is None:
            return
        now_ns = now_ns or monotonic_ns()
        bits = _bits(control)
        if phase == _NEXT:
            phase = _AFTER_STEP[bits >> 2 & 3] if self._is_training else _FINISHED
        data = {"state": snapshot.state_facts(state)} | (more or {})
        publisher.tell(kind, state.global_step, state.epoch, bits, data, phase, now_ns)

    def _guarded(self, act: Callable[..., None], *given: Any, **named: Any) -> None:
        try:
            act(*given, **named)
        except BaseException as error:
            if comes_from_outside(error):
                raise
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        publisher = self._attempts.publisher
        if publisher is not None:
            publisher.failed(error)
        else:
            say(f"a hook failed, training goes on ({snapshot.one_line(error)})")

    # What the rare hooks do.

    def _watch_outcome(self, control: Any) -> None:
        found = find_trainer(control)
        trainer = None if found is None else found()
        if trainer is not None:
            outcome.watch(type(trainer), LinesideCallback)

    def _keep_init_end(self, state: Any, control: Any) -> None:
        self._init_end = InitEnd(
            state.global_step, state.epoch, _bits(control), monotonic_ns(), time()
        )

    def _train_begin(self, args: Any, state: Any, control: Any, given: dict[str, Any]) -> None:
        now_ns = monotonic_ns()
        self._is_training = True
        self._close_steering()
        self._open(args, state, given, now_ns)
        self._rare("train_begin", _WAITING, state, control, now_ns=now_ns)
        self._flag_training()
        self._begun_at = state.global_step
        publisher = self._attempts.publisher
        if publisher is not None:
            self._begin_steering(publisher, self._begun_at, control)

    def _begin_steering(self, publisher: Publisher, step: int, control: Any) -> None:
        if publisher.identity.place.rank == 0:
            patience = self._attempts.wait_for_verdict
            try:
                self._steering = Steering(publisher, control, step, patience)
            except Exception as error:
                decline(publisher.identity, error)
                raise
        else:
            self._steering = Following(publisher, control, step)
        said = Settings.from_env().stop_on_sigterm
        if self._stop_on_sigterm if said is None else said:
            self._sigterm = StopOnSigterm.begin(self._steering, publisher)

    def _train_end(self, state: Any, control: Any) -> None:
        self._is_training = False
        try:
            self._rare("train_end", _FINISHED, state, control)
        finally:
            answers = self._close_steering()
        publisher = self._attempts.publisher
        if publisher is not None:
            publisher.flag(raised=TRAIN_ENDED, lowered=TRAINING)
            publisher.wait(*answers)

    def _train_error(self, error: BaseException) -> None:
        if not self._is_training:
            return  # it came before training began, or was told already
        self._is_training = False
        publisher = self._attempts.publisher
        try:
            if publisher is not None:
                publisher.fail(error)
        finally:
            self._close_steering()

    def _close_steering(self) -> list[Unconfirmed]:
        sigterm, self._sigterm = self._sigterm, None
        if sigterm is not None:
            sigterm.end()
        steering, self._steering = self._steering, None
        if steering is None:
            return []
        steering.close()
        return [steering.unconfirmed()] if isinstance(steering, Steering) else []

    def _measured(
        self,
        kind: str,
        args: Any,
        state: Any,
        control: Any,
        metrics: Any,
        given: dict[str, Any],
    ) -> None:
        now_ns = monotonic_ns()
        self._open_lazily(args, state, given, now_ns)
        publisher = self._attempts.publisher
        if publisher is not None:
            more = {"metrics": publisher.tidy({} if metrics is None else metrics)}
            self._rare(kind, _NEXT, state, control, more, now_ns)

    def _save(self, args: Any, state: Any, control: Any) -> None:
        more = {"checkpoint": snapshot.checkpoint_path(args, state)}
        self._rare("save", _NEXT, state, control, more)

    def _prediction_step(self, args: Any, state: Any, control: Any, given: dict[str, Any]) -> None:
        if self._attempts.publisher is None:
            self._guarded(self._open_lazily, args, state, given, monotonic_ns())
        self._step("prediction_step", _EVALUATING, args, state, control)

    def _open_lazily(self, args: Any, state: Any, given: dict[str, Any], now_ns: int) -> None:
        attempts = self._attempts
        if attempts.publisher is None and not attempts.is_joining and not attempts.is_off:
            self._open(args, state, given, now_ns)

    def _open(self, args: Any, state: Any, given: dict[str, Any], now_ns: int) -> None:
        init_end, self._init_end = self._init_end, None
        self._attempts.begin(args, state, given, init_end, now_ns)

    def _join(self, args: Any, state: Any, control: Any, *, is_last_chance: bool = False) -> None:
        """``is_last_chance``: commands are for ranks that are there at the first step's end."""
        self._attempts.join(args, state, monotonic_ns(), at_once=is_last_chance)
        publisher = self._attempts.publisher
        if publisher is not None and self._is_training:
            self._flag_training()
            self._begin_steering(publisher, self._begun_at, control)

    def _flag_training(self) -> None:
        if self._attempts.publisher is not None:
            self._attempts.publisher.flag(raised=TRAINING, lowered=TRAIN_ENDED)


def _bits(control: Any) -> int:
    """The ``CONTROL_BITS`` of a TrainerControl."""
    return (
        (1 if control.should_training_stop else 0)
        | (2 if control.should_epoch_stop else 0)
        | (4 if control.should_save else 0)
        | (8 if control.should_evaluate else 0)
        | (16 if control.should_log else 0)
    )
