"""Opens the attempts of one Trainer, one after another, and chooses their runs."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lineside.bus.checkpoints.hold import read_limits
from lineside.bus.settings import Settings
from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.training.checkpoints import run_file, state_files
from lineside.emitter.training.checkpoints.hold import CheckpointHolder
from lineside.emitter.training.console import print_disabled, print_once
from lineside.emitter.training.facts.collect import collect
from lineside.emitter.training.facts.process import label_facts
from lineside.emitter.training.facts.trainer import trainer_facts
from lineside.emitter.training.identity import (
    Identity,
    Labels,
    RankInfo,
    describe,
    new_identity,
    new_run_id,
    valid_checkpoint_state,
)
from lineside.emitter.training.model_events import ModelEvents
from lineside.emitter.training.publisher import Publisher
from lineside.emitter.training.run import Run
from lineside.emitter.training.run_sync import WAIT_FOR_RANK_0, RunSync, abandon_control

_JOIN_EVERY_NS = 1_000_000_000
_JOIN_FOR_NS = 120_000_000_000

_instances: weakref.WeakSet[AttemptManager] = weakref.WeakSet()


@dataclass(frozen=True)
class Options:
    """A callback's settings. Those of the environment override them."""

    name: str | None = None
    project: str | None = None
    run_id: str | None = None
    wait_for_stopper: float = 0.0
    stop_on_sigterm: bool = False
    hold_checkpoints: bool | None = None
    labels: Labels = field(default_factory=Labels)

    def override(self, settings: Settings) -> Options:
        """These options with the waits, signals and holds that ``settings`` has instead."""
        wait, stop = settings.wait_for_stopper, settings.stop_on_sigterm
        hold = settings.hold_checkpoints
        return replace(
            self,
            wait_for_stopper=self.wait_for_stopper if wait is None else wait,
            stop_on_sigterm=self.stop_on_sigterm if stop is None else stop,
            hold_checkpoints=self.hold_checkpoints if hold is None else hold,
        )


class InitEnd(NamedTuple):
    """An ``init_end`` hook before any run; it is published once a run opens."""

    step: int
    epoch: float | None
    control: int
    now_ns: int
    wall: float


class _PendingJoin(NamedTuple):
    """A rank that waits for rank 0 to publish its run."""

    run_sync: RunSync
    rank_info: RankInfo
    deadline_ns: int


class AttemptManager:
    """Opens and ends attempts for one Trainer that a callback is in.

    ``publisher`` belongs to the open attempt; None while none is open. ``options`` are those of
    that attempt, and ``holder`` holds its checkpoints. ``is_disabled`` after an attempt could not
    be opened, ``is_joining`` while rank 0 has not yet published which run it is. ``trainer`` is
    that Trainer, once it is known, and ``trial_prefix`` stands before the number of a
    hyperparameter trial.
    """

    def __init__(self, options: Options, trial_prefix: str = "") -> None:
        self.publisher: Publisher | None = None
        self._own_options = self.options = options
        self.holder: CheckpointHolder | None = None
        self.is_disabled = False
        self.trainer: weakref.ref[Any] | None = None
        self.model_events: ModelEvents | None = None
        self._trial_prefix = trial_prefix
        self._trial_count = 0
        self._base_run_id: str | None = None  # the run's id; trials add to it
        self._own_name: str | None = None  # of a run without a name
        self._identity: Identity | None = None
        self._state: Any = None  # the TrainerState of the training that has this identity
        self._output_dir = ""
        self._pending_join: _PendingJoin | None = None
        self._join_ns = 0
        self._on_collected: weakref.finalize[[], AttemptManager] | None = None
        _instances.add(self)

    @property
    def is_joining(self) -> bool:
        return self._pending_join is not None

    def begin(
        self,
        args: Any,
        state: Any,
        kwargs: Mapping[str, Any],
        init_end: InitEnd | None,
        now_ns: int,
    ) -> None:
        """End the open attempt and open the next; raises no Exception."""
        previous, self.publisher, self.model_events = self.publisher, None, None
        if self._on_collected is not None:
            self._on_collected.detach()
        self._pending_join, self.is_disabled, self.holder = None, True, None
        try:
            settings = Settings.from_env()
            if settings.disabled:
                print_once("off: LINESIDE_DISABLED is set")
            elif self._is_duplicate_on(state):
                print_once("this Trainer has two LinesideCallbacks; the second does nothing")
            else:
                identity = self._identify(settings, args, state, kwargs.get("model"), now_ns)
                if previous is not None:
                    is_same = identity is None or identity.run == previous.identity.run
                    previous.close("restarted" if is_same else "exit")
                if identity is not None:
                    self._start(settings, identity, args, state, kwargs, now_ns)
                    self._publish_init_end(init_end)
                self.holder = CheckpointHolder(
                    Path(getattr(args, "output_dir", None) or "").absolute(),
                    partial(read_limits, settings.home, self.options.hold_checkpoints),
                    rank=_rank_info(args).rank,
                )
                self.is_disabled = False
        except Exception as error:
            if is_script_error(error):
                raise
            print_disabled(error)
        finally:
            if previous is not None:
                previous.close("exit")

    def join(self, args: Any, state: Any, now_ns: int, *, at_once: bool = False) -> None:
        """On other ranks: look again for rank 0's run, once a second or ``at_once``."""
        pending_join = self._pending_join
        if pending_join is None or (now_ns < self._join_ns and not at_once):
            return
        self._join_ns = now_ns + _JOIN_EVERY_NS
        identity = pending_join.run_sync.receive(pending_join.rank_info, 0)
        if identity is not None:
            self._pending_join = None
            self._start(Settings.from_env(), identity, args, state, {}, now_ns)
        elif now_ns > pending_join.deadline_ns:
            self._pending_join, self.is_disabled = None, True
            rank = pending_join.rank_info.rank
            print_once(f"rank {rank} stopped waiting for rank 0 and publishes nothing")

    def record_checkpoint(self, state: Any, path: Path) -> None:
        """On rank 0: note whose checkpoint ``state`` was saved in, if it is of this training."""
        if state is self._state and self._identity and self._identity.rank_info.rank == 0:
            output_dir = Path(self._output_dir).absolute()
            run_file.write(path, output_dir, self._identity.checkpoint_state())

    def _known_trainer(self) -> Any | None:
        return self.trainer() if self.trainer is not None else None

    def _is_duplicate_on(self, state: Any) -> bool:
        """Whether another callback publishes the training of this state object."""
        return any(other._state is state for other in list(_instances) if other is not self)

    def _identify(
        self, settings: Settings, args: Any, state: Any, model: Any, now_ns: int
    ) -> Identity | None:
        rank_info = _rank_info(args)
        run_sync = RunSync(f"trainer-{state.max_steps}-{state.global_step}")
        if rank_info.rank > 0:
            received = run_sync.receive(rank_info, WAIT_FOR_RANK_0)
            if received is None:
                self._pending_join = _PendingJoin(run_sync, rank_info, now_ns + _JOIN_FOR_NS)
                print_once(
                    f"rank {rank_info.rank} has received no run from rank 0 and "
                    "publishes nothing until it does: does rank 0 have the callback too?"
                )
            return received
        identity = self._choose_identity(settings, rank_info, args, state, model)
        run_sync.publish(identity)
        return identity

    def _choose_identity(
        self, settings: Settings, rank_info: RankInfo, args: Any, state: Any, model: Any
    ) -> Identity:
        checkpoint_state = _kept_state(state)
        given_name = self.options.name or _user_run_name(args)
        run = (
            settings.run_id
            or self.options.run_id
            or checkpoint_state.get("run_id")
            or self._base_run_id
        )
        name = given_name or checkpoint_state.get("name") or self._own_name
        if run is None:
            trainer = self._known_trainer()
            trainer_class = "" if trainer is None else type(trainer).__name__
            description = describe(trainer_class, _model_name(model))
            run = new_run_id(name or description)
            if name is None and description:
                name = self._own_name = f"{description} {run.rpartition('-')[2]}"
        if getattr(state, "is_hyper_param_search", False):
            self._base_run_id = self._base_run_id or run
            trial = f"trial-{self._trial_prefix}{self._trial_count}"
            self._trial_count += 1
            name = f"{settings.run_name or name or run} {state.trial_name or trial}"
            settings = replace(settings, run_name=None)
            if "run_id" not in checkpoint_state:
                run = f"{self._base_run_id[:100]}-{trial}"
        else:
            self._base_run_id = run
        return new_identity(
            settings,
            rank_info,
            run=run,
            name=name,
            project=self.options.project or checkpoint_state.get("project"),
        )

    def _start(
        self,
        settings: Settings,
        identity: Identity,
        args: Any,
        state: Any,
        kwargs: Mapping[str, Any],
        now_ns: int,
    ) -> None:
        self.options = self._own_options.override(settings)
        is_rank_0 = identity.rank_info.rank == 0
        facts: dict[str, Any] = {
            "source": "trainer",
            "wait_for_stopper": self.options.wait_for_stopper,
        }
        if is_rank_0:
            facts |= label_facts(self.options.labels, settings)
        facts |= trainer_facts(
            args,
            state,
            kwargs,
            _kept_state(state),
            self._known_trainer(),
            is_rank_0=is_rank_0,
        )
        try:
            run = Run.open(settings, identity, facts, step=state.global_step, now_ns=now_ns)
        except Exception as error:
            abandon_control(identity, error)
            raise
        self.publisher = run.publisher
        if run.publisher is not None:
            model = kwargs.get("model")
            if is_rank_0 and model is not None:
                self.model_events = ModelEvents(run.publisher, model, state.global_step, now_ns)
            self._on_collected = weakref.finalize(self, run.publisher.abandon)
            self._on_collected.atexit = False
        self._identity, self._state = identity, state
        self._output_dir = str(getattr(args, "output_dir", ""))

    def _publish_init_end(self, init_end: InitEnd | None) -> None:
        publisher = self.publisher
        if (
            init_end is not None
            and publisher is not None
            and publisher.identity.rank_info.rank == 0
        ):
            step, epoch, control, now_ns, wall = init_end
            publisher.emit("init_end", step, epoch, control, None, now_ns, wall)


def record_checkpoint(state: Any, path: Path) -> None:
    """Record which run has written the checkpoint with this state, in the file ``path``."""
    for attempts in list(_instances):
        attempts.record_checkpoint(state, path)


def _kept_state(state: Any) -> dict[str, str]:
    """What was kept of the run whose checkpoint ``state`` was read from; empty if unknown."""
    origin = state_files.origin(state)
    if origin is None:
        return {}
    return run_file.read(origin.path) or valid_checkpoint_state(origin.mark)


def _rank_info(args: Any) -> RankInfo:
    try:
        return RankInfo(args.process_index, args.world_size, args.local_process_index)
    except Exception:  # noqa: BLE001 - arguments that are not quite a TrainingArguments
        return RankInfo.from_env()


def _user_run_name(args: Any) -> str | None:
    """``args.run_name`` if the user set it; some versions of transformers default to output_dir."""
    name = getattr(args, "run_name", None)
    return name if isinstance(name, str) and name != getattr(args, "output_dir", None) else None


def _model_name(model: Any) -> str:
    # Each attribute is the script's own code, which may raise what it likes.
    found = collect(
        {"path": lambda: model.config._name_or_path, "type": lambda: model.config.model_type}
    )
    for name in found.values():
        if isinstance(name, str) and name.strip("/."):
            return name
    return "" if model is None else type(model).__name__
