"""The checkpoints that a plain training loop saves through ``CheckpointCallback``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lineside.bus.protocol.events import Event
from lineside.emitter import CheckpointCallback, LoopCallback
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import data_of
from tests.support.tiny_trainer import model as pretrained_model

LOSSES = (0.9, 0.4, 0.6, 0.5)


def train(
    callbacks: Sequence[Any], steps: int = 8, first: int = 1, losses: Sequence[float] = ()
) -> None:
    """What a plain trainer does: an epoch ends after every second step, with a loss if given."""
    for callback in callbacks:
        callback.on_train_begin()
    for step in range(first, steps + 1):
        epoch = (step - 1) // 2
        for callback in callbacks:
            callback.on_epoch_begin(epoch)
            callback.on_step_end(step, {"loss": 1 / step, "lr": torch.tensor(0.1)})
        if step % 2 == 0:
            metrics = {"val_loss": losses[epoch]} if losses else None
            for callback in callbacks:
                callback.on_epoch_end(epoch, metrics)
    for callback in callbacks:
        callback.on_train_end()


def saved(folder: Path) -> set[int]:
    assert all(path.name.startswith("checkpoint-") for path in folder.iterdir())
    return {int(path.name.removeprefix("checkpoint-")) for path in folder.iterdir()}


def state_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "loop_state.json").read_bytes())
    return found


def saves(streams: Mapping[str, list[Event]]) -> list[Event]:
    return [event for events in streams.values() for event in events if event.kind == "save"]


def test_it_saves_every_n_steps_and_the_last_one_without_lineside(tmp_path: Path) -> None:
    train([CheckpointCallback(tmp_path, torch.nn.Linear(2, 1), save_steps=3)])
    assert saved(tmp_path) == {3, 6, 8}
    state = state_of(tmp_path / "checkpoint-3")
    assert (state["step"], state["epoch"], state["run"]) == (3, 1.0, "")
    assert state["metrics"] == {"loss": 1 / 3, "lr": pytest.approx(0.1)}


def test_what_it_saves_continues_a_training_bit_for_bit(tmp_path: Path) -> None:
    def made() -> tuple[Any, Any, Any]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        return model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    def step(model: Any, optimizer: Any, scheduler: Any, number: int) -> float:
        torch.manual_seed(number)
        loss = (model(torch.randn(8, 4)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        return float(loss.item())

    whole = made()
    callback = CheckpointCallback(
        tmp_path, whole[0], optimizer=whole[1], scheduler=whole[2], save_steps=5
    )
    losses = []
    for number in range(1, 11):
        losses.append(step(*whole, number))
        callback.on_step_end(number)
    resumed = made()
    for part, file in zip(resumed, ("model.pt", "optimizer.pt", "scheduler.pt"), strict=True):
        part.load_state_dict(torch.load(tmp_path / "checkpoint-5" / file))
    assert [step(*resumed, number) for number in range(6, 11)] == losses[5:]


def test_a_model_with_save_pretrained_is_saved_by_it_and_wrappers_are_removed(
    tmp_path: Path,
) -> None:
    compiled = torch.compile(pretrained_model(), backend="eager")
    train([CheckpointCallback(tmp_path / "whole", compiled, save_steps=4)], steps=4)
    names = {path.name for path in (tmp_path / "whole" / "checkpoint-4").iterdir()}
    assert {"config.json", "model.safetensors", "loop_state.json"} <= names
    compiled = torch.compile(torch.nn.Linear(2, 1), backend="eager")
    train([CheckpointCallback(tmp_path / "plain", compiled, save_steps=4)], steps=4)
    weights = torch.load(tmp_path / "plain" / "checkpoint-4" / "model.pt")
    assert set(weights) == {"weight", "bias"}


# peft 0.21 reads a name that transformers 5.23 has given up.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_of_a_lora_model_the_adapter_alone_is_saved(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        pretrained_model(), peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    )
    train([CheckpointCallback(tmp_path, adapted, save_steps=4)], steps=4)
    names = {path.name for path in (tmp_path / "checkpoint-4").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert "model.safetensors" not in names


@pytest.mark.parametrize(("limit", "kept"), [(1, {4, 8}), (2, {4, 8}), (3, {4, 6, 8})])
def test_rotation_keeps_the_best_and_the_newest(tmp_path: Path, limit: int, kept: set[int]) -> None:
    callback = CheckpointCallback(
        tmp_path,
        torch.nn.Linear(2, 1),
        save_steps=2,
        save_total_limit=limit,
        monitor="val_loss",
    )
    train([callback], losses=LOSSES)
    assert saved(tmp_path) == kept
    assert callback.best == tmp_path / "checkpoint-4"


def test_rotation_to_one_keeps_no_other_where_the_newest_is_the_best(tmp_path: Path) -> None:
    callback = CheckpointCallback(
        tmp_path, torch.nn.Linear(2, 1), save_steps=1, save_total_limit=1, monitor="val_loss"
    )
    for step, value in enumerate((0.5, 0.4, 0.3), start=1):
        callback.on_step_end(step, {"val_loss": value})
        assert saved(tmp_path) == {step}


@pytest.mark.parametrize(
    ("monitor", "mode", "kept"),
    [("val_loss", "auto", {2, 4}), ("val_loss", "max", {2}), ("loss", "min", {3, 6})],
)
def test_with_best_only_what_improves_the_metric_is_saved(
    tmp_path: Path, monitor: str, mode: str, kept: set[int]
) -> None:
    callback = CheckpointCallback(
        tmp_path,
        torch.nn.Linear(2, 1),
        save_steps=3,
        save_best_only=True,
        monitor=monitor,
        mode=mode,
    )
    train([callback], losses=LOSSES)
    assert saved(tmp_path) == kept


@pytest.mark.parametrize(("monitor", "best"), [("accuracy", 2), ("eval_perplexity", 1)])
def test_the_name_of_a_metric_shows_which_values_are_better(
    tmp_path: Path, monitor: str, best: int
) -> None:
    callback = CheckpointCallback(
        tmp_path,
        torch.nn.Linear(2, 1),
        save_steps=1,
        save_total_limit=1,
        save_best_only=True,
        monitor=monitor,
    )
    for step, value in enumerate((0.3, 0.8, float("nan"), 0.5), start=1):
        callback.on_step_end(step, {monitor: value})
    assert saved(tmp_path) == {best}


def test_its_saves_are_published_with_metrics_and_what_rotation_removed(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    lineside = LoopCallback("loop", run_id="mine")
    out = tmp_path / "out"
    callback = CheckpointCallback(
        out, torch.nn.Linear(2, 1), save_steps=3, save_total_limit=2, run=lineside
    )
    train([callback, lineside])
    events = saves(spool_events())
    assert [(event.step, data_of(event)["checkpoint"]) for event in events] == [
        (step, str(out / f"checkpoint-{step}")) for step in (3, 6, 8)
    ]
    assert data_of(events[0])["metrics"] == {"loss": 1 / 3, "lr": pytest.approx(0.1)}
    assert data_of(events[2])["checkpoints"] == {"folder": str(out), "steps": [6, 8]}
    assert state_of(out / "checkpoint-8")["run"] == "mine"


def test_a_resumed_run_rotates_its_own_earlier_checkpoints_and_no_others(
    home: Path, tmp_path: Path
) -> None:
    def trained(run: str, first: int, steps: int) -> None:
        lineside = LoopCallback("loop", run_id=run)
        callback = CheckpointCallback(
            tmp_path / "out",
            torch.nn.Linear(2, 1),
            save_steps=2,
            save_total_limit=2,
            run=lineside,
        )
        train([callback, lineside], first=first, steps=steps)

    trained("another", 101, 102)
    trained("mine", 1, 4)
    (tmp_path / "out" / "checkpoint-1").mkdir()
    trained("mine", 5, 8)
    assert saved(tmp_path / "out") == {1, 6, 8, 102}


def test_after_the_run_has_ended_a_save_is_still_made_and_the_order_is_reported(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lineside = LoopCallback("loop")
    callback = CheckpointCallback(
        tmp_path / "out", torch.nn.Linear(2, 1), save_steps=5, run=lineside
    )
    train([lineside, callback])
    assert saved(tmp_path / "out") == {5, 8}
    assert "checkpoint-8 is not published" in capsys.readouterr().err


class FailsOnce(torch.nn.Linear):
    failures = 1

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        return super().state_dict(*args, **kwargs)


def test_a_save_that_fails_leaves_nothing_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    train([CheckpointCallback(out, FailsOnce(2, 1), save_steps=4)])
    assert saved(out) == {8}
    error = capsys.readouterr().err
    assert "no checkpoint of step 4, training goes on" in error
    assert "No space left on device" in error


def test_what_a_killed_process_left_unfinished_is_removed_and_never_a_checkpoint(
    tmp_path: Path,
) -> None:
    from transformers.trainer_utils import get_last_checkpoint

    script = (
        "import os, sys, torch\n"
        "from lineside.emitter import CheckpointCallback\n"
        "class Killed(torch.nn.Linear):\n"
        "    def save_pretrained(self, folder):\n"
        "        open(os.path.join(folder, 'half'), 'w').close()\n"
        "        os._exit(9)\n"
        "CheckpointCallback(sys.argv[1], Killed(2, 1), save_steps=1).on_step_end(1)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    assert get_last_checkpoint(str(tmp_path)) is None
    CheckpointCallback(tmp_path, torch.nn.Linear(2, 1)).on_train_begin()
    assert list(tmp_path.iterdir()) == []


def test_only_rank_0_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    train([CheckpointCallback(tmp_path, torch.nn.Linear(2, 1), save_steps=2)])
    assert saved(tmp_path) == set()


def test_a_model_that_is_spread_over_ranks_is_not_saved_by_rank_0_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class FullyShardedDataParallel(torch.nn.Linear):
        def state_dict(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("waits for the other ranks")

    monkeypatch.setenv("WORLD_SIZE", "2")
    model = torch.nn.Sequential(FullyShardedDataParallel(2, 1))
    train([CheckpointCallback(tmp_path, model, save_steps=8)])
    assert saved(tmp_path) == set()
    assert "FullyShardedDataParallel is spread over ranks: save it" in capsys.readouterr().err


def test_what_a_trainer_passes_wrongly_raises_nothing(tmp_path: Path) -> None:
    callback = CheckpointCallback(tmp_path, torch.nn.Linear(2, 1), save_steps=1)
    callback.on_epoch_begin(None)  # type: ignore[arg-type]
    callback.on_step_end("x", 3)  # type: ignore[arg-type]
    callback.on_epoch_end("y", None)  # type: ignore[arg-type]
    callback.on_train_end()
    assert saved(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"save_steps": 0}, "save_steps is 0: expected at least 1"),
        ({"save_total_limit": 0}, "save_total_limit is 0: expected at least 1"),
        ({"mode": "lowest"}, "mode is 'lowest': expected one of auto, min, max"),
        ({"save_best_only": True}, "give one, as monitor='val_loss'"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CheckpointCallback(tmp_path, torch.nn.Linear(2, 1), **arguments)


def test_a_model_that_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected save_pretrained or state_dict"):
        CheckpointCallback(tmp_path, object())


def test_its_import_loads_no_torch() -> None:
    script = (
        "import sys, lineside.emitter as e; e.CheckpointCallback; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
