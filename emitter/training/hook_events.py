"""Publishes the events of a Trainer's rare hooks, and opens the run that they belong to."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic_ns, time
from typing import Any

from lineside.bus.protocol.event_kinds import PRUNED_ERROR
from lineside.emitter.spool.confirmation import Unconfirmed
from lineside.emitter.spool.status_page import PHASES, TRAIN_ENDED
from lineside.emitter.spool.status_page import TRAINING as TRAINING_FLAG
from lineside.emitter.training.attempts import AttemptManager, InitEnd
from lineside.emitter.training.checkpoints.folder import CheckpointFolder, checkpoint_path
from lineside.emitter.training.facts.collect import collect
from lineside.emitter.training.facts.data import loader_facts
from lineside.emitter.training.facts.optimizer import have_own_rates, learning_rates
from lineside.emitter.training.facts.trainer import history_facts, state_facts
from lineside.emitter.training.publisher import named_values
from lineside.emitter.training.trainer_frames import raised_in_training_loop

WAITING, TRAINING, EVALUATING, SAVING, FINISHED = map(
    PHASES.index, ("waiting", "training", "evaluating", "saving", "finished")
)
FROM_FLAGS = -1
"""In place of a phase: the one that the control's flags ask for next."""
# By should_save and should_evaluate, the two bits from the third on: evaluation comes first.
PHASE_BY_FLAGS = (WAITING, SAVING, EVALUATING, EVALUATING)

_AFTER_MODEL_USE = ("save", "predict", "train_end")
"""Kinds before which the configuration of the model may have changed."""


class HookEvents:
    """The rare events of one callback. ``is_training`` while ``train()`` runs."""

    def __init__(self, attempts: AttemptManager) -> None:
        self._attempts = attempts
        self._init_end: InitEnd | None = None
        self._checkpoint_folder = CheckpointFolder()
        self._saved: Path | None = None  # the checkpoint of this on_save
        self._output = Path()  # where the newest one is
        self.is_training = False
        self.groups_differ = False
        """Whether the optimizer's groups have different learning rates."""
        self.eval_loader: Callable[[], Any] = _no_loader
        """A reference to the loader of the newest evaluation; None before one."""
        self._eval_loader_facts: dict[str, Any] = {}

    def keep_init_end(self, state: Any, control: Any) -> None:
        """Keep ``init_end`` until a run opens."""
        self._init_end = InitEnd(
            state.global_step, state.epoch, control_bits(control), monotonic_ns(), time()
        )

    def begin_training(
        self, args: Any, state: Any, control: Any, kwargs: Mapping[str, Any]
    ) -> None:
        """Open a new attempt and publish ``train_begin``."""
        now_ns = monotonic_ns()
        self._finish_hold()
        self.is_training = True
        self._open(args, state, kwargs, now_ns)
        self._output = Path(args.output_dir).absolute()
        extra = self._checkpoint_facts(resumed_step=state.global_step)
        extra |= collect({"history": lambda: history_facts(state)}).get("history", {})
        self.publish_state("train_begin", WAITING, state, control, kwargs, extra, now_ns)
        self._set_training_flag()

    def end_training(self, state: Any, control: Any, kwargs: Mapping[str, Any]) -> None:
        """Publish ``train_end``."""
        self.is_training = False
        self._finish_hold()
        extra = self._checkpoint_facts()
        self.publish_state("train_end", FINISHED, state, control, kwargs, extra)

    def wait_confirmed(self, answers: Sequence[Unconfirmed]) -> None:
        """After training: wait until the bus has all events and ``answers``, or for too long."""
        publisher = self._attempts.publisher
        if publisher is not None:
            publisher.flag(raised=TRAIN_ENDED, lowered=TRAINING_FLAG)
            try:
                publisher.wait(*answers)
            finally:
                publisher.release()

    def fail_training(self, error: BaseException) -> None:
        """Publish ``train_error``, unless training had not begun or its end is published.

        A pruned trial calls the hook of a training's end before it raises.
        """
        is_pruned = type(error).__name__ == PRUNED_ERROR and raised_in_training_loop(error)
        if not self.is_training and not is_pruned:
            return
        self.is_training = False
        publisher = self._attempts.publisher
        if publisher is not None:
            self._finish_hold()
            publisher.publish_train_error(error)
            publisher.release()

    def publish_state(
        self,
        kind: str,
        phase: int | None,
        state: Any,
        control: Any,
        kwargs: Mapping[str, Any],
        extra: dict[str, Any] | None = None,
        now_ns: int = 0,
    ) -> None:
        """Publish ``kind`` with the state's scalars, the learning rates and ``extra``."""
        publisher = self._attempts.publisher
        if publisher is None:
            return
        now_ns = now_ns or monotonic_ns()
        model_events = self._attempts.model_events
        if model_events is not None and kind in _AFTER_MODEL_USE:
            model_events.publish_changed(
                kwargs.get("model"), state.global_step, state.epoch, now_ns
            )
        bits = control_bits(control)
        if phase == FROM_FLAGS:
            phase = PHASE_BY_FLAGS[bits >> 2 & 3] if self.is_training else FINISHED
        data = {"state": state_facts(state)} | (extra or {})
        optimizer = kwargs.get("optimizer")
        rates = learning_rates(optimizer)
        self.groups_differ = have_own_rates(optimizer)
        if rates:
            data["learning_rates"] = rates
        publisher.on_hook(kind, state.global_step, state.epoch, bits, data, phase, now_ns)

    def publish_metrics(
        self,
        kind: str,
        args: Any,
        state: Any,
        control: Any,
        metrics: Any,
        kwargs: Mapping[str, Any],
    ) -> None:
        """Publish ``kind`` with metrics; opens a run if none is open."""
        now_ns = monotonic_ns()
        self.open_lazily(args, state, kwargs, now_ns)
        publisher = self._attempts.publisher
        if publisher is not None:
            extra = {"metrics": named_values({} if metrics is None else metrics)}
            if not self.is_training:
                extra["outside_training"] = True
            self.publish_state(kind, FROM_FLAGS, state, control, kwargs, extra, now_ns)
            publisher.release()

    def publish_first_prediction(self, state: Any, control: Any, loader: Any) -> None:
        """Publish the first ``prediction_step`` with ``loader``, and describe it if it is new."""
        try:
            self.eval_loader = weakref.ref(loader)
        except TypeError:  # each of its steps is taken for the first one
            self.eval_loader = _no_loader
        publisher = self._attempts.publisher
        if publisher is None:
            return
        facts = loader_facts(loader)
        data = {"eval_loader": facts} if facts != self._eval_loader_facts else None
        self._eval_loader_facts = facts
        step, bits = state.global_step, control_bits(control)
        publisher.on_hook(
            "prediction_step", step, state.epoch, bits, data, EVALUATING, monotonic_ns()
        )

    def publish_save(self, args: Any, state: Any, control: Any, kwargs: Mapping[str, Any]) -> None:
        """Publish ``save`` with the checkpoint's path, and which earlier ones are gone."""
        self._saved = None
        path = checkpoint_path(args, state)
        self._saved = Path(path)
        self._output = self._saved.parent
        extra = {"checkpoint": path} | self._checkpoint_facts()
        self.publish_state("save", FROM_FLAGS, state, control, kwargs, extra)

    def hold_checkpoint(self, state: Any) -> None:
        """Hold the checkpoint of ``publish_save``, unless it failed to find it."""
        if self._attempts.holder is not None and self._saved is not None:
            self._attempts.holder.hold(self._saved, state.global_step, state.epoch)

    def finish_hold_soon(self) -> None:
        """At the next hook, publish what is held then."""
        if self._attempts.publisher is not None:
            self._attempts.publisher.call_at_next_hook(self._finish_hold)

    def _finish_hold(self) -> None:
        if self._attempts.holder is not None and self._attempts.publisher is not None:
            self._attempts.holder.finish(self._attempts.publisher)

    def _checkpoint_facts(self, resumed_step: int = 0) -> dict[str, Any]:
        publisher = self._attempts.publisher
        if publisher is None or publisher.identity.rank_info.rank:
            return {}
        return self._checkpoint_folder.facts(self._output, resumed_step)

    def open_lazily(
        self, args: Any, state: Any, kwargs: Mapping[str, Any], now_ns: int = 0
    ) -> None:
        """Open a run outside of training, unless one is open or could not be opened."""
        attempts = self._attempts
        if attempts.publisher is None and not attempts.is_joining and not attempts.is_disabled:
            self._open(args, state, kwargs, now_ns or monotonic_ns())

    def join(self, args: Any, state: Any, *, at_once: bool) -> bool:
        """On other ranks: look for the run that rank 0 published; whether training joins it now."""
        self._attempts.join(args, state, monotonic_ns(), at_once=at_once)
        if self._attempts.publisher is None or not self.is_training:
            return False
        self._set_training_flag()
        return True

    def _open(self, args: Any, state: Any, kwargs: Mapping[str, Any], now_ns: int) -> None:
        init_end, self._init_end = self._init_end, None
        self.eval_loader, self._eval_loader_facts = _no_loader, {}
        self._attempts.begin(args, state, kwargs, init_end, now_ns)

    def _set_training_flag(self) -> None:
        if self._attempts.publisher is not None:
            self._attempts.publisher.flag(raised=TRAINING_FLAG, lowered=TRAIN_ENDED)


def _no_loader() -> None:
    """In place of a reference to a loader."""


def control_bits(control: Any) -> int:
    """The ``CONTROL_BITS`` of a TrainerControl."""
    return (
        (1 if control.should_training_stop else 0)
        | (2 if control.should_epoch_stop else 0)
        | (4 if control.should_save else 0)
        | (8 if control.should_evaluate else 0)
        | (16 if control.should_log else 0)
    )
