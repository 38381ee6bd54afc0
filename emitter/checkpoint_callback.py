"""Saves the checkpoints of a plain training loop that calls callbacks, without a Trainer."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside.bus.checkpoints.metric_direction import AUTO, MAX, MIN, better
from lineside.emitter.loop_callback import LoopCallback, epoch_number
from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.training.checkpoints.loop_state import (
    LoopState,
    SavedCheckpoints,
    read_state,
)
from lineside.emitter.training.console import print_once
from lineside.emitter.training.error_facts import one_line
from lineside.emitter.training.identity import RankInfo

if TYPE_CHECKING:
    from lineside.emitter.training.run import Run

_MODES = (AUTO, MIN, MAX)
_UNFINISHED = "_checkpoint-"  # begins the name of a folder that is being written or removed
_WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
# Begin the names of classes whose weights are spread over ranks: rank 0 alone would wait for the
# others for ever, or save its own part.
_SHARDED = ("FSDP", "FullyShardedDataParallel", "DeepSpeedEngine")


class CheckpointCallback:
    """Saves ``<output_dir>/checkpoint-<step>``, whole or not at all, as a plain trainer's callback.

    Every ``save_steps`` steps, and at the end, it saves the model, and ``optimizer`` and
    ``scheduler`` if they are given: ``save_pretrained`` where the model has it (PEFT then writes
    the adapter alone), else ``torch.save`` of its ``state_dict`` into ``model.pt``. Step and
    metrics are kept beside, in ``loop_state.json``.

    ``monitor`` names the metric that ranks checkpoints; ``mode`` is min, max, or auto: by the
    words of the name, lower for a loss, an error or a perplexity. An epoch's end with this metric
    also saves. With ``save_best_only`` only what improves it is saved. ``save_total_limit`` keeps
    that many, the best one always among them (1: the best and the newest); it removes only what
    this run wrote.

    ``run``, a ``Run`` or a ``LoopCallback``, publishes each checkpoint, if one is given. This
    callback stands before the ``LoopCallback`` in the trainer's list, so that the run is open at
    the last save. Only rank 0 saves, and no model whose weights are spread over ranks (FSDP,
    DeepSpeed). No method raises: a save that fails is printed, and training goes on.

    Raises:
        TypeError: the model can be saved in neither way.
        ValueError: an argument that cannot be used.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        model: Any,
        *,
        optimizer: Any = None,
        scheduler: Any = None,
        save_steps: int = 500,
        save_total_limit: int | None = None,
        save_best_only: bool = False,
        monitor: str | None = None,
        mode: str = "auto",
        run: Run | LoopCallback | None = None,
    ) -> None:
        if not hasattr(model, "save_pretrained") and not hasattr(model, "state_dict"):
            raise TypeError(
                f"{type(model).__name__} cannot be saved: expected save_pretrained or state_dict"
            )
        for name, value in (("save_steps", save_steps), ("save_total_limit", save_total_limit)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value!r}: expected at least 1")
        if mode not in _MODES:
            raise ValueError(f"mode is {mode!r}: expected one of {', '.join(_MODES)}")
        if save_best_only and monitor is None:
            raise ValueError("save_best_only needs a metric: give one, as monitor='val_loss'")
        self.output_dir = Path(output_dir).absolute()
        self._model, self._optimizer, self._scheduler = model, optimizer, scheduler
        self._save_steps, self._limit, self._best_only = (
            save_steps,
            save_total_limit,
            save_best_only,
        )
        self._monitor, self._run = monitor, run
        self._sign = 1.0 if better(monitor or "", mode) == MAX else -1.0
        self._saved: SavedCheckpoints | None = None
        self._step = 0
        self._epoch: float | None = None

    @property
    def best(self) -> Path | None:
        """The best checkpoint by ``monitor``, of this run; None before one."""
        best = None if self._saved is None else self._saved.best
        return None if best is None else self._folder(best.step)

    def on_train_begin(self) -> None:
        """Begin, and remove what a killed process left unfinished."""
        self._guarded(self._begin)

    def on_epoch_begin(self, epoch: float) -> None:
        """Note the epoch, which is kept with a checkpoint."""
        self._guarded(self._note_epoch, epoch)

    def on_step_end(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Save if ``step`` is one of every ``save_steps``."""
        self._guarded(self._end_step, step, metrics)

    def on_epoch_end(self, epoch: float, metrics: Mapping[str, Any] | None = None) -> None:
        """Save if ``metrics`` have the one that ranks checkpoints."""
        self._guarded(self._end_epoch, epoch, metrics)

    def on_train_end(self) -> None:
        """Save the last step, unless it is saved or only the best ones are."""
        self._guarded(self._end)

    def _guarded(self, func: Callable[..., None], *args: Any) -> None:
        if RankInfo.from_env().rank:
            return
        try:
            func(*args)
        except BaseException as error:
            if is_script_error(error):
                raise
            print_once(f"no checkpoint of step {self._step}, training goes on ({one_line(error)})")

    def _begin(self) -> None:
        self._saved, self._step, self._epoch = None, 0, None
        for left in self.output_dir.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)

    def _note_epoch(self, epoch: Any) -> None:
        self._epoch = epoch_number(epoch)

    def _end_step(self, step: Any, metrics: Mapping[str, Any] | None) -> None:
        self._step = int(step)
        if self._step % self._save_steps == 0:
            self._save(_numbers(metrics))

    def _end_epoch(self, epoch: Any, metrics: Mapping[str, Any] | None) -> None:
        number = epoch_number(epoch)
        self._epoch = None if number is None else number + 1
        if metrics and self._monitor in metrics:
            # As a new checkpoint even if the step has one: it is ranked by its metrics.
            self._save(_numbers(metrics))

    def _end(self) -> None:
        saved = self._of_this_run()
        if self._best_only:
            if saved.best is None:
                print_once(f"no checkpoint: {self._monitor!r} was in no metrics of a step to save")
        elif self._step and self._step not in saved.states:
            self._save({})

    def _of_this_run(self) -> SavedCheckpoints:
        """What this run has saved, earlier processes included.

        Not read before the first save: only then is a run open, whichever callback comes first.
        """
        if self._saved is None:
            self._saved = SavedCheckpoints(self._monitor, self._sign)
            run = self._run_id()
            paths = set(self.output_dir.glob("checkpoint-*"))
            found = [state for path in paths if (state := read_state(path)) is not None]
            for state in sorted(found, key=lambda state: state.saved_at):
                if run and state.run == run and self._folder(state.step) in paths:
                    self._saved.add(state)
        return self._saved

    def _save(self, metrics: dict[str, float]) -> None:
        state = LoopState(self._step, self._epoch, metrics, time.time(), self._run_id())
        saved = self._of_this_run()
        if self._best_only and not saved.is_improved_by(state):
            return
        self._write(state)
        saved.add(state)
        if self._limit is not None:
            for step in saved.surplus(self._limit, newest=0 if self._best_only else 1):
                with contextlib.suppress(OSError):  # tried again after the next save
                    _remove(self._set_aside(step))
                    del saved.states[step]
        if (run := self._open_run()) is not None:
            if run.id and not run.is_open:
                print_once(
                    f"checkpoint-{state.step} is not published, because the run is not open: "
                    "the CheckpointCallback belongs before the LoopCallback"
                )
            path = self._folder(state.step)
            run.checkpoint(path, metrics or None, step=state.step, epoch=state.epoch)

    def _write(self, state: LoopState) -> None:
        """Write the checkpoint beside its place and rename it: a reader sees all of it or none."""
        _refuse_sharded(self._model)
        written = self.output_dir / f"{_UNFINISHED}{state.step}.new"
        _remove(written)
        try:
            written.mkdir(parents=True)
            model = _unwrapped(self._model)
            if hasattr(model, "save_pretrained"):
                model.save_pretrained(str(written))
            else:
                _torch_save(model, written / "model.pt")
            for part, name in ((self._optimizer, "optimizer"), (self._scheduler, "scheduler")):
                if part is not None:
                    _torch_save(part, written / f"{name}.pt")
            state.write(written)  # last
            replaced = self._set_aside(state.step)
            written.rename(self._folder(state.step))
            _remove(replaced)
        except BaseException:
            _remove(written)
            raise

    def _set_aside(self, step: int) -> Path:
        """Rename a checkpoint, if it is there, to a name that counts as none."""
        aside = self.output_dir / f"{_UNFINISHED}{step}.old"
        _remove(aside)
        with contextlib.suppress(FileNotFoundError):
            self._folder(step).rename(aside)
        return aside

    def _folder(self, step: int) -> Path:
        return self.output_dir / f"checkpoint-{step}"

    def _open_run(self) -> Run | None:
        return self._run.run if isinstance(self._run, LoopCallback) else self._run

    def _run_id(self) -> str:
        run = self._open_run()
        return "" if run is None else run.id


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _numbers(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    found = {}
    for name, value in (metrics or {}).items():
        # A tensor of several values raises RuntimeError.
        with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError):
            if not isinstance(value, str):
                item = getattr(value, "item", None)
                found[str(name)] = float(value if item is None else item())
    return found


def _unwrapped(model: Any) -> Any:
    """The model that a script made, out of what torch wrapped it in."""
    while (attribute := _WRAPPERS.get(type(model).__name__)) is not None:
        model = getattr(model, attribute)
    return model


def _refuse_sharded(model: Any) -> None:
    if RankInfo.from_env().world_size > 1 and hasattr(model, "modules"):
        for part in (model, *model.modules()):
            if type(part).__name__.startswith(_SHARDED):
                raise TypeError(
                    f"{type(part).__name__} is spread over ranks: save it on all of them, and call "
                    "checkpoint() of the run"
                )


def _torch_save(part: Any, file: Path) -> None:
    import torch

    torch.save(part.state_dict(), file)
