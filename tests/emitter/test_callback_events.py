"""The callback in real Trainers: events, values and the status page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from lineside.bus.protocol.event_kinds import LIFECYCLE_KINDS
from lineside.bus.protocol.events import CONTROL_BITS
from lineside.emitter import LinesideCallback
from lineside.emitter.spool import status_page as page_module
from lineside.emitter.spool import status_reader
from lineside.emitter.spool.status_page import (
    CLOSED,
    FLAGS,
    HOOKS,
    PHASE,
    PHASES,
    TRAIN_ENDED,
    TRAINING,
)
from lineside.emitter.training import shutdown
from tests.emitter.conftest import ReadSpool
from tests.emitter.spool.spools import PageOnDisk
from tests.emitter.streams import close_all, data_of, kinds, only, open_page, open_publisher
from tests.support.tiny_trainer import HookLog, Tokens, trainer

STEPPING = ("training", "waiting")
STATEFUL = ("train_begin", "train_end", "save", "evaluate", "predict", "epoch_begin", "epoch_end")


# transformers warns if two checkpoints are saved within the resolution of the clock.
@pytest.mark.filterwarnings("ignore:mtime may not be reliable:UserWarning")
def test_every_hook_is_published_with_its_values(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    hook_log = HookLog()
    made = trainer(
        tmp_path / "out",
        hook_log,
        LinesideCallback(),
        max_steps=6,
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        save_total_limit=1,
        load_best_model_at_end=True,
    )
    made.train()
    made.evaluate()
    made.predict(Tokens(4))
    if hasattr(made.callback_handler, "on_push_begin"):
        made.callback_handler.on_push_begin(made.args, made.state, made.control)
    close_all()
    published = only(spool_events())
    start, structure, *_, end = published
    assert (start.kind, structure.kind, end.kind) == ("run_start", "model", "run_end")
    assert [event.seq for event in published] == list(range(len(published)))
    events = [event for event in published[2:-1] if event.kind != "model"]
    assert kinds(events) == [note["kind"] for note in hook_log.seen]
    assert set(kinds(events)) >= set(LIFECYCLE_KINDS) - {"push_begin"}
    for event, note in zip(events, hook_log.seen, strict=True):
        seen = (note["kind"], note["step"], note["epoch"], note["control"])
        assert (event.kind, event.step, event.epoch, event.control) == seen
        data = dict(event.data or {})
        assert data.get("logs") == note["logs"]
        assert data.get("metrics") == note["metrics"]
        assert ("state" in data) == (event.kind in (*STATEFUL, "log"))
        if "state" in data:
            assert data["state"]["best_metric"] == note["best_metric"]
            assert data["state"]["total_flos"] == note["total_flos"]
            is_whole = event.kind != "log"
            assert not is_whole or data["state"]["max_steps"] == made.state.max_steps
        if event.kind == "save":
            assert data["checkpoint"] == str(tmp_path / "out" / f"checkpoint-{event.step}")
    facts, counters = data_of(start), data_of(end)["counters"]
    assert facts["model"]["class"] == "GPT2LMHeadModel"
    assert facts["args"]["gradient_accumulation_steps"] == 2
    assert facts["loaders"]["train"]["dataset_length"] == 24
    assert facts["source"] == "trainer"
    assert facts["resumed_from"] is None
    assert counters["emitted"] == len(published)
    assert counters["hooks"] == len(events) - 1  # init_end came before there was anything to count
    assert (counters["dropped"], counters["hook_errors"], counters["encode_failures"]) == (0, 0, 0)


class Diverging(Trainer):
    """Logs what a bad day logs."""

    def log(self, logs: dict[str, Any], *given: Any, **more: Any) -> None:
        step = self.state.global_step
        logs["loss"] = [math.nan, math.inf, -math.inf, torch.tensor(0.5), 0.0][step % 5]
        logs["there"] = torch.tensor(1.0, device="meta")
        super().log(logs, *given, **more)


def test_nan_and_infinity_survive_and_tensors_become_numbers(
    home: Path, tmp_path: Path, spool_events: ReadSpool, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(tmp_path, LinesideCallback(), kind=Diverging).train()
    close_all()
    events = only(spool_events())
    losses = [data_of(event)["logs"]["loss"] for event in events if event.kind == "log"]
    assert losses[:3] == [math.inf, -math.inf, 0.5]
    logs = data_of(next(event for event in events if event.kind == "log"))["logs"]
    assert "device=meta" in logs["there"]["!"]
    assert data_of(events[-1])["counters"]["encode_failures"] == len(losses)
    printed = capsys.readouterr().err
    assert printed.count("log numbers, such as loss.item()") == 1
    assert "<torch.Tensor shape=torch.Size([]) dtype=torch.float32 device=meta>" in printed


def test_logs_are_copied_before_later_callbacks_change_them(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    """The Printer, which every Trainer has without a progress bar, pops total_flos."""
    trainer(tmp_path, LinesideCallback()).train()
    close_all()
    last = [data_of(event)["logs"] for event in only(spool_events()) if event.kind == "log"][-1]
    assert "total_flos" in last


def test_unusual_flags_and_states_lose_no_events(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    callback = LinesideCallback()
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    state, control = TrainerState(epoch=None), TrainerControl()
    state.stateful_callbacks = None
    callback.on_train_begin(args, state, control)
    control.should_save, control.should_log = None, 1
    callback.on_step_begin(args, state, control)
    callback.on_log(args, state, control)
    callback.on_evaluate(args, state, control)
    *_, step_begin, log, evaluate = only(spool_events())
    assert data_of(log)["logs"] == {}
    assert data_of(evaluate)["metrics"] == {}
    assert (step_begin.kind, step_begin.epoch) == ("step_begin", None)
    assert step_begin.control == 1 << CONTROL_BITS.index("should_log")


def test_the_status_page_follows_the_training(home: Path, tmp_path: Path) -> None:
    pages: list[PageOnDisk] = []

    def look() -> tuple[str, int]:
        if not shutdown._state.open:
            return "", 0
        pages.append(open_page())
        return PHASES[pages[-1].fields[PHASE]], pages[-1].fields[FLAGS]

    callback = LinesideCallback()
    hook_log = HookLog(look)
    made = trainer(
        tmp_path,
        callback,
        hook_log,
        max_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
    )
    made.train()
    made.evaluate()
    assert [(note["kind"], *note["look"]) for note in hook_log.seen] == [
        ("init_end", "", 0),
        ("train_begin", "waiting", TRAINING),
        ("epoch_begin", "waiting", TRAINING),
        *(
            step
            for after in ("waiting", "evaluating")
            for step in (
                ("step_begin", "training", TRAINING),
                ("pre_optimizer_step", "training", TRAINING),
                ("optimizer_step", "training", TRAINING),
                ("step_end", after, TRAINING),
                ("log", after, TRAINING),
            )
        ),
        ("prediction_step", "evaluating", TRAINING),
        ("log", "evaluating", TRAINING),
        ("evaluate", "saving", TRAINING),
        ("save", "waiting", TRAINING),
        ("epoch_end", "waiting", TRAINING),
        ("log", "waiting", TRAINING),
        ("train_end", "finished", TRAIN_ENDED | CLOSED),
        ("prediction_step", "evaluating", TRAIN_ENDED),
        ("log", "evaluating", TRAIN_ENDED),
        ("evaluate", "finished", TRAIN_ENDED | CLOSED),
    ]
    assert pages[-1].fields[HOOKS] == len(hook_log.seen) - 1


def test_workers_of_a_dataloader_publish_nothing(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    hook_log = HookLog()
    trainer(tmp_path, hook_log, LinesideCallback(), dataloader_num_workers=2).train()
    close_all()
    _, _, *events, _ = only(spool_events())
    assert kinds(events) == [note["kind"] for note in hook_log.seen]


class Looking(Trainer):
    """Notes what can be seen from outside while it trains, evaluates and saves."""

    seen: ClassVar[list[tuple[str, int]]] = []

    def look(self) -> None:
        fields = status_reader.read_page(open_publisher()._spool.folder.path)
        assert fields is not None
        phase = fields.phase_name
        self.seen.append(("stepping" if phase in STEPPING else phase, fields.step))

    def training_step(self, *args: Any, **options: Any) -> Any:
        self.look()
        return super().training_step(*args, **options)

    def evaluate(self, *args: Any, **options: Any) -> Any:
        self.look()
        return super().evaluate(*args, **options)

    def _save_checkpoint(self, *args: Any, **options: Any) -> Any:
        self.look()
        return super()._save_checkpoint(*args, **options)


@pytest.mark.parametrize("kind", ["ext4", "overlay"])
def test_a_long_phase_is_visible_from_its_start_even_in_an_unmapped_page(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(page_module, "filesystem", lambda _: kind)
    monkeypatch.setattr(Looking, "seen", [])
    every_step = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps"}
    trainer(tmp_path / "out", LinesideCallback(), kind=Looking, save_steps=2, **every_step).train()
    # The first step is seen a second later.
    assert Looking.seen[1:] == [
        ("evaluating", 1),
        ("stepping", 1),
        ("evaluating", 2),
        ("saving", 2),
        ("stepping", 2),
        ("evaluating", 3),
        ("stepping", 3),
        ("evaluating", 4),
        ("saving", 4),
    ]
