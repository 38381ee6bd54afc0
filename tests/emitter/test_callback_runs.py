"""The run, attempt and name of the callback's events."""

from __future__ import annotations

import copy
import io
import pickle  # noqa: TID251 - hyperparameter searches pickle callbacks
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerState

from lineside.emitter import LinesideCallback
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import close_all, data_of, kinds, only
from tests.support.tiny_trainer import Tokens, trainer


def test_a_second_train_is_a_new_attempt_of_the_same_run(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback())
    made.evaluate()
    made.train()
    made.train()
    made.evaluate()
    close_all()
    streams = spool_events()
    assert len({stream.split("/")[0] for stream in streams}) == 1
    lazily, first, second = streams.values()
    assert kinds(lazily)[:3] == ["run_start", "init_end", "prediction_step"]
    assert kinds(first)[:2] == ["run_start", "train_begin"]
    assert kinds(second)[-2:] == ["evaluate", "run_end"]
    assert [data_of(events[-1])["how"] for events in streams.values()] == [
        "restarted",
        "restarted",
        "exit",
    ]


class Greedy(Trainer):
    """Runs out of memory until the batch is small enough."""

    def training_step(self, model: Any, inputs: Any, *given: Any) -> Any:
        if len(inputs["input_ids"]) > 2:
            raise RuntimeError("CUDA out of memory.")
        return super().training_step(model, inputs, *given)


def test_the_batch_size_finder_makes_attempts_of_one_run(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    made = trainer(
        tmp_path,
        LinesideCallback(),
        kind=Greedy,
        auto_find_batch_size=True,
        per_device_train_batch_size=4,
    )
    made.train()
    close_all()
    streams = spool_events()
    assert len({stream.split("/")[0] for stream in streams}) == 1
    *failed, last = streams.values()
    assert failed
    for events in failed:
        assert "train_end" not in kinds(events)
        assert data_of(events[-1])["how"] == "restarted"
    assert kinds(last)[-2:] == ["train_end", "run_end"]


@pytest.fixture
def searching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials may be plain dicts, as with Ray and W&B, which are not installed."""
    monkeypatch.setattr("transformers.integrations.hp_params", dict)


def test_each_trial_of_a_hyperparameter_search_is_a_run(
    home: Path, tmp_path: Path, spool_events: ReadSpool, searching: None
) -> None:
    made = trainer(tmp_path, LinesideCallback(name="search"), max_steps=2)
    for rate in (0.1, 0.2):
        made.train(trial={"learning_rate": rate})
    made.train()
    close_all()
    streams = spool_events()
    runs = [stream.split("/")[0] for stream in streams]
    base = runs[2]
    assert runs == [f"{base}-trial-0", f"{base}-trial-1", base]
    starts = [data_of(events[0]) for events in streams.values()]
    assert [start["name"] for start in starts] == ["search trial-0", "search trial-1", "search"]
    assert [data_of(events[-1])["how"] for events in streams.values()] == ["exit"] * 3
    assert starts[0]["state"]["trial_params"] == {"learning_rate": 0.1}


def test_a_trial_has_the_name_that_its_search_gives_it(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spool_events: ReadSpool,
    searching: None,
) -> None:
    monkeypatch.setenv("LINESIDE_RUN_NAME", "mine")
    made = trainer(tmp_path, LinesideCallback(), max_steps=1)
    made.hp_name, made._trial = (lambda trial: "lr=0.1"), {"learning_rate": 0.1}
    made.train(trial={"learning_rate": 0.1})
    assert data_of(only(spool_events())[0])["name"] == "mine lr=0.1"


def test_evaluate_and_predict_open_a_run_and_init_end_does_not(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback())
    made.log({"early": 1.0})
    made.callback_handler.on_save(made.args, made.state, made.control)
    trainer(tmp_path, *made.callback_handler.callbacks[-2:-1])
    assert spool_events() == {}
    made.predict(Tokens(4))
    assert kinds(only(spool_events())) == ["run_start", "init_end", "prediction_step", "predict"]


def test_an_evaluation_without_a_step_opens_a_run_too(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback())
    made.callback_handler.on_evaluate(made.args, made.state, made.control, {"eval_loss": 1.0})
    assert kinds(only(spool_events())) == ["run_start", "init_end", "evaluate"]


def test_a_resumed_training_is_a_new_attempt_of_the_same_run(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, LinesideCallback(name="N", project="P"), **saving).train()
    close_all()
    trainer(tmp_path, LinesideCallback(), max_steps=6, **saving).train(resume_from_checkpoint=True)
    close_all()
    (first, before), (second, after) = spool_events().items()
    assert first.split("/")[:2] == second.split("/")[:2]
    start = data_of(after[0])
    assert (start["name"], start["project"]) == ("N", "P")
    run, _, attempt = first.split("/")
    assert start["resumed_from"] == {"run": run, "attempt": attempt, "step": 4}
    assert (after[0].step, after[1].kind, after[2].step) == (4, "init_end", 4)
    assert max(event.step for event in after) == 6
    assert kinds(before)[-2:] == ["train_end", "run_end"]


def test_resuming_works_with_and_without_the_callback(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, **saving).train()
    trainer(tmp_path, LinesideCallback(), max_steps=6, **saving).train(resume_from_checkpoint=True)
    trainer(tmp_path, max_steps=8, **saving).train(resume_from_checkpoint=True)
    close_all()
    trainer(tmp_path, LinesideCallback(), max_steps=10, **saving).train(resume_from_checkpoint=True)
    (first, before), (second, after) = spool_events().items()
    assert data_of(before[0])["resumed_from"] == {"run": None, "attempt": None, "step": 4}
    assert first.split("/")[0] == second.split("/")[0], (
        "the identity survives a training without Lineside"
    )
    assert data_of(after[0])["resumed_from"]["attempt"] == first.split("/")[2]


def test_callback_states_can_be_restored_beside_the_identity(home: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 2,
        "restore_callback_states_from_checkpoint": True,
    }
    trainer(tmp_path, LinesideCallback(), **changes).train()
    made = trainer(tmp_path, LinesideCallback(), max_steps=6, **changes)
    made.train(resume_from_checkpoint=True)
    assert made.state.global_step == 6


def test_names_come_from_the_callback_then_the_arguments(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    given = LinesideCallback(name="Mine", project="P", run_id="run-7")
    trainer(tmp_path, given, run_name="other", max_steps=1).train()
    close_all()
    [(stream, events)] = spool_events().items()
    assert stream.split("/")[0] == "run-7"
    assert (data_of(events[0])["name"], data_of(events[0])["project"]) == ("Mine", "P")
    trainer(tmp_path, LinesideCallback(), run_name="My Run", max_steps=1).train()
    close_all()
    trainer(tmp_path, LinesideCallback(), max_steps=1).train()
    _, (named, events), (unnamed, last) = spool_events().items()
    assert named.startswith("my-run-")
    assert data_of(events[0])["name"] == "My Run"
    assert unnamed.startswith("gpt2-")
    assert data_of(last[0])["name"] == unnamed.split("/")[0]


@pytest.mark.parametrize(
    "twin_of",
    [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],  # noqa: S301
)
def test_a_copy_carries_only_its_configuration(
    home: Path, tmp_path: Path, spool_events: ReadSpool, searching: None, twin_of: Any
) -> None:
    original = LinesideCallback(name="N", run_id="r")
    made = trainer(tmp_path, original, max_steps=1)
    made.train()
    count = len(only(spool_events()))
    twin = twin_of(original)
    twin.on_step_end(made.args, made.state, made.control)
    assert len(only(spool_events())) == count
    trainer(tmp_path, twin, max_steps=1).train(trial={"learning_rate": 0.1})
    streams = spool_events()
    assert len(streams) == 2
    trial = [stream for stream in streams if "-trial-" in stream]
    assert len(trial) == 1
    assert trial[0].startswith("r-trial-")
    assert not trial[0].startswith("r-trial-0/"), "two copies must not both be trial 0"


def test_two_callbacks_on_one_trainer_are_one_run(
    home: Path, tmp_path: Path, spool_events: ReadSpool, capsys: pytest.CaptureFixture[str]
) -> None:
    made = trainer(tmp_path, LinesideCallback())
    made.add_callback(LinesideCallback())
    made.evaluate()
    made.train()
    close_all()
    streams = list(spool_events().values())
    assert len(streams) == 2
    assert kinds(streams[1]).count("step_end") == 4
    assert "the second does nothing" in capsys.readouterr().err


def test_the_saved_trainer_state_is_readable(home: Path, tmp_path: Path) -> None:
    made = trainer(tmp_path, LinesideCallback(), save_strategy="steps", save_steps=2)
    made.train()
    state = TrainerState.load_from_json(str(tmp_path / "checkpoint-4" / "trainer_state.json"))
    assert set(state.stateful_callbacks["lineside"]) == {"run_id", "attempt", "name", "project"}
    torch.save(made.args, io.BytesIO())
