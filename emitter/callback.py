"""The Trainer's callback: publishes every hook and applies commands. No error leaves it."""
# ruff: noqa: ARG002 - the Trainer defines the arguments of a hook

from __future__ import annotations

import secrets
from collections.abc import Callable
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerState

from lineside.bus.protocol.event_kinds import SUBSCRIBER_ERROR
from lineside.emitter.control.trainer_actions import HookContext
from lineside.emitter.control.trainer_session import TrainerSession, TrainerSessions
from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.training import train_errors
from lineside.emitter.training.attempts import Options, record_checkpoint
from lineside.emitter.training.checkpoints import state_files
from lineside.emitter.training.console import print_once
from lineside.emitter.training.error_facts import one_line
from lineside.emitter.training.facts.optimizer import learning_rates
from lineside.emitter.training.hook_events import (
    EVALUATING,
    FROM_FLAGS,
    PHASE_BY_FLAGS,
    TRAINING,
    WAITING,
)
from lineside.emitter.training.identity import LabelOptions, Labels, optional_text
from lineside.emitter.training.publisher import named_values

if TYPE_CHECKING:
    from typing_extensions import Unpack

_UNCHANGED = None  # in place of a phase


class LinesideCallback(TrainerCallback):  # type: ignore[misc]
    """Publishes a Trainer's lifecycle: ``Trainer(..., callbacks=[LinesideCallback()])``.

    ``name``, ``project`` and ``run_id`` name the run; ``tags`` (a list), ``group``, ``notes`` and
    ``config`` (a dict) describe it. LINESIDE_RUN_NAME, LINESIDE_PROJECT, LINESIDE_RUN_ID,
    LINESIDE_TAGS, LINESIDE_GROUP and LINESIDE_NOTES override them. A run without a name is called
    after the classes of Trainer and model. Each Trainer that it is in has a run of its own, and so
    has a copy, which carries these settings only. Rank 0 publishes everything, other ranks their
    start, end and failures. With ``stop_on_sigterm``, or LINESIDE_STOP_ON_SIGTERM, a SIGTERM makes
    training save and stop. With ``hold_checkpoints``, or LINESIDE_HOLD_CHECKPOINTS, hard links keep
    each checkpoint from rotation until an archiver has copied it; by default they are made where
    ``lineside archiver`` runs.

    No hook raises. These hooks wait:

    - ``on_train_end`` until the bus has confirmed the run: 3 s at most in the life of the process.
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
        hold_checkpoints: bool | None = None,
        **labels: Unpack[LabelOptions],
    ) -> None:
        self._options = Options(
            optional_text(name),
            optional_text(project),
            run_id,
            wait_for_stopper,
            stop_on_sigterm,
            hold_checkpoints,
            Labels(**labels),
        )
        self._open_sessions("")
        self._guarded(train_errors.wrap_loaded_trainer, LinesideCallback)
        self._guarded(state_files.wrap_state_class, TrainerState, record_checkpoint)

    def __getstate__(self) -> dict[str, Any]:
        config: dict[str, Any] = {**vars(self._options), **vars(self._options.labels)}
        del config["labels"]
        return config

    def __setstate__(self, config: dict[str, Any]) -> None:
        self.__init__(**config)  # type: ignore[misc]
        # Copies in several processes count hyperparameter trials each for itself.
        self._open_sessions(f"{secrets.token_hex(2)}-")

    def _open_sessions(self, trial_prefix: str) -> None:
        self._callback_errors: list[dict[str, Any]] = []  # of before a run opens
        self._sessions = TrainerSessions(self._options, trial_prefix)
        self._session = TrainerSession(self._options, trial_prefix)  # of no Trainer yet

    @property
    def is_off(self) -> bool:
        """Whether no run could be opened for the newest training."""
        return self._session.attempts.is_disabled

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Kept until a run opens, and published then."""
        self._guarded(self._keep_init_end, state, control)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Opens a new attempt."""
        self._guarded(self._begin_training, args, state, control, kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published, then waited for."""
        self._guarded(self._end_training, state, control, kwargs)

    def on_train_error(self, error: BaseException, trainer: Any) -> None:
        """Published even if the script catches it; ``train_errors`` calls this."""
        self._guarded(self._report_train_error, error, trainer)

    def on_callback_error(self, data: dict[str, Any], state: Any, control: Any) -> None:
        """Published, or kept until a run opens: a callback of the configuration failed."""
        self._guarded(self._publish_callback_error, data, state, control)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published with the state's scalars."""
        self._guarded(self._publish_state, "epoch_begin", WAITING, state, control, kwargs)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published with the state's scalars."""
        self._guarded(self._publish_state, "epoch_end", FROM_FLAGS, state, control, kwargs)

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
        session = self._session_of(state, control)
        if session.attempts.is_joining:
            self._guarded(self._join, session, args, state, control, is_last_chance=True)
        executor = session.control.executor
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
        session = self._session_of(state, control)
        executor = session.control.executor
        executor.before_evaluation()
        self._guarded(
            session.events.publish_metrics, "evaluate", args, state, control, metrics, kwargs
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
        events = self._session_of(state, control).events
        self._guarded(events.publish_metrics, "predict", args, state, control, metrics, kwargs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published with the checkpoint's path."""
        events = self._session_of(state, control).events
        self._guarded(events.publish_save, args, state, control, kwargs)
        self._guarded(events.hold_checkpoint, state)
        self._wait_while_paused("save", args, state, control, kwargs)
        self._guarded(events.finish_hold_soon)  # after the callbacks behind this one

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Published with the logs as they are now: later callbacks may change them."""
        logs = {} if logs is None else logs
        self._publish("log", _UNCHANGED, args, state, control, logs, kwargs)
        if self._session.control.executor.is_paused:
            self._wait_while_paused("log", args, state, control, kwargs)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published; opens a run if none is open."""
        session = self._session_of(state, control)
        if session.attempts.publisher is None:
            self._guarded(session.events.open_lazily, args, state, kwargs)
        loader = kwargs.get("eval_dataloader")
        if session.events.eval_loader() is loader:
            self._publish("prediction_step", EVALUATING, args, state, control)
        else:
            self._guarded(session.events.publish_first_prediction, state, control, loader)

    def on_push_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Published (transformers 5.23 and later)."""
        self._publish("push_begin", _UNCHANGED, args, state, control)

    # Called several times a step. It is in one piece because after a backward pass each function
    # call costs microseconds.

    def _publish(
        self,
        kind: str,
        phase: int | None,
        args: Any,
        state: Any,
        control: Any,
        logs: Any = None,
        kwargs: Any = None,
    ) -> None:
        session = self._session
        if session.state is not state:
            session = self._session_of(state, control)
        publisher = session.attempts.publisher
        if publisher is None:
            if session.attempts.is_joining:
                self._guarded(self._join, session, args, state, control)
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
            if logs is None:
                data = None
            else:
                data = {
                    "logs": named_values(logs),
                    "state": {
                        "total_flos": getattr(state, "total_flos", None),
                        "num_input_tokens_seen": getattr(state, "num_input_tokens_seen", None),
                        "best_metric": getattr(state, "best_metric", None),
                        "best_global_step": getattr(state, "best_global_step", None),
                    },
                }
                if session.events.groups_differ:
                    data["learning_rates"] = learning_rates(kwargs.get("optimizer"))
            publisher.on_hook(kind, state.global_step, state.epoch, bits, data, phase, now_ns)
        except BaseException as error:
            if is_script_error(error):
                raise
            self._count_hook_error(error)

    def _session_of(self, state: Any, control: Any) -> TrainerSession:
        """The session of the Trainer whose state this is; ``_session`` is that one then."""
        if self._session.state is not state:
            self._session = self._sessions.find(state, control)
        return self._session

    def _wait_while_paused(
        self, hook: str, args: Any, state: Any, control: Any, kwargs: dict[str, Any]
    ) -> None:
        executor = self._session.control.executor
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
        publisher = self._session.attempts.publisher
        if publisher is not None:
            publisher.count_hook_error(error)
        else:
            print_once(f"a hook failed, training goes on ({one_line(error)})")

    def _publish_state(
        self, kind: str, phase: int, state: Any, control: Any, kwargs: dict[str, Any]
    ) -> None:
        events = self._session_of(state, control).events
        events.publish_state(kind, phase, state, control, kwargs)

    def _keep_init_end(self, state: Any, control: Any) -> None:
        self._session = session = self._sessions.find_by_caller(self, state, control)
        if session.trainer is not None:
            train_errors.wrap_train(type(session.trainer()), LinesideCallback)
        session.events.keep_init_end(state, control)

    def _begin_training(self, args: Any, state: Any, control: Any, kwargs: dict[str, Any]) -> None:
        self._session = session = self._sessions.find_by_caller(self, state, control)
        session.control.stop()
        session.events.begin_training(args, state, control, kwargs)
        session.start_step = state.global_step
        self._start_control(session, control)
        if self._callback_errors:
            self._publish_callback_error(None, state, control)

    def _publish_callback_error(
        self, data: dict[str, Any] | None, state: Any, control: Any
    ) -> None:
        if data is not None:
            self._callback_errors.append(data)
        session = self._session if state is None else self._session_of(state, control)
        publisher = session.attempts.publisher
        if publisher is None:
            return
        errors, self._callback_errors = self._callback_errors, []
        step, epoch = (publisher.step, None) if state is None else (state.global_step, state.epoch)
        for one in errors:
            publisher.emit(SUBSCRIBER_ERROR, step, epoch, 0, one, monotonic_ns())

    def _end_training(self, state: Any, control: Any, kwargs: dict[str, Any]) -> None:
        session = self._session_of(state, control)
        try:
            session.events.end_training(state, control, kwargs)
        finally:
            answers = session.control.stop()
        session.events.wait_confirmed(answers)

    def _report_train_error(self, error: BaseException, trainer: Any) -> None:
        session = self._sessions.of(trainer)
        if session is None:
            return  # it has not begun to train
        try:
            session.events.fail_training(error)
        finally:
            session.control.stop()

    def _join(
        self,
        session: TrainerSession,
        args: Any,
        state: Any,
        control: Any,
        *,
        is_last_chance: bool = False,
    ) -> None:
        if session.events.join(args, state, at_once=is_last_chance):
            self._start_control(session, control)

    @staticmethod
    def _start_control(session: TrainerSession, control: Any) -> None:
        attempts = session.attempts
        if attempts.publisher is not None:
            session.control.start(attempts.publisher, control, session.start_step, attempts.options)
