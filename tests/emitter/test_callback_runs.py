"""The run, attempt and name of the callback's events."""

from __future__ import annotations

import copy
import json
import pickle  # noqa: TID251 - hyperparameter searches pickle callbacks
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, TrainerCallback

from lineside.emitter import LinesideCallback
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import close_all, data_of, kinds, only
from tests.support.tiny_trainer import Tokens, trainer

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}


def resume(made: Trainer) -> None:
    made.train(resume_from_checkpoint=True)
    close_all()


def run_of(stream: str) -> str:
    return stream.split("/")[0]


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
    assert kinds(lazily)[:4] == ["run_start", "model", "init_end", "prediction_step"]
    assert kinds(first)[:3] == ["run_start", "model", "train_begin"]
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
    assert kinds(only(spool_events())) == [
        "run_start",
        "model",
        "init_end",
        "prediction_step",
        "predict",
    ]


def test_an_evaluation_without_a_step_opens_a_run_too(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback())
    made.callback_handler.on_evaluate(made.args, made.state, made.control, {"eval_loss": 1.0})
    assert kinds(only(spool_events())) == ["run_start", "model", "init_end", "evaluate"]


def test_a_resumed_training_is_a_new_attempt_of_the_same_run(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    trainer(tmp_path, LinesideCallback(name="N", project="P"), **SAVING).train()
    close_all()
    resume(trainer(tmp_path, LinesideCallback(), max_steps=6, **SAVING))
    (first, before), (second, after) = spool_events().items()
    assert first.split("/")[:2] == second.split("/")[:2]
    start = data_of(after[0])
    assert (start["name"], start["project"]) == ("N", "P")
    run, _, attempt = first.split("/")
    assert start["resumed_from"] == {"run": run, "attempt": attempt, "step": 4}
    assert (after[0].step, after[2].kind, after[3].step) == (4, "init_end", 4)
    assert max(event.step for event in after) == 6
    assert kinds(before)[-2:] == ["train_end", "run_end"]


def test_resuming_works_with_and_without_the_callback(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    trainer(tmp_path, **SAVING).train()
    resume(trainer(tmp_path, LinesideCallback(), max_steps=6, **SAVING))
    resume(trainer(tmp_path, max_steps=8, **SAVING))
    resume(trainer(tmp_path, LinesideCallback(), max_steps=10, **SAVING))
    (first, before), (second, after) = spool_events().items()
    nobodys = {"run": None, "attempt": None}
    assert data_of(before[0])["resumed_from"] == {**nobodys, "step": 4}
    assert data_of(after[0])["resumed_from"] == {**nobodys, "step": 8}
    assert run_of(first) != run_of(second), "steps 7 and 8 belong to no run"


def test_callback_states_are_restored_without_a_warning(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes: dict[str, Any] = {**SAVING, "restore_callback_states_from_checkpoint": True}
    trainer(tmp_path, LinesideCallback(), **changes).train()
    made = trainer(tmp_path, LinesideCallback(), max_steps=6, **changes)
    resume(made)
    assert made.state.global_step == 6
    assert "callbacks not included" not in caplog.text


def test_equal_trainings_write_equal_states_and_folders_with_and_without_the_callback(
    home: Path, tmp_path: Path
) -> None:
    saving = {**SAVING, "logging_steps": 10, "skip_memory_metrics": True}
    for name, callbacks in {"with": [LinesideCallback()], "without": []}.items():
        trainer(tmp_path / name, *callbacks, **saving).train()
    written, plain = tmp_path / "with", tmp_path / "without"
    names = [{path.name for path in folder.iterdir()} for folder in (written, plain)]
    assert names[0] == names[1]
    state = Path("checkpoint-2") / "trainer_state.json"
    assert (written / state).read_text() == (plain / state).read_text()


def test_a_checkpoint_belongs_to_the_run_that_wrote_it_last(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    """Two runs use one folder; the second ends before it has replaced all checkpoints."""
    trainer(tmp_path, LinesideCallback(name="first"), seed=1, **SAVING).train()
    trainer(tmp_path, LinesideCallback(name="second"), seed=2, max_steps=2, **SAVING).train()
    for step in (2, 4):
        made = trainer(tmp_path / "other", LinesideCallback(), max_steps=5)
        made.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    close_all()
    first, second, after_2, after_4 = spool_events()
    assert (run_of(after_2), run_of(after_4)) == (run_of(second), run_of(first))


def test_a_checkpoint_with_the_mark_of_an_earlier_version_continues_its_run(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    trainer(tmp_path, **SAVING).train()
    path = tmp_path / "checkpoint-4" / "trainer_state.json"
    state = json.loads(path.read_text())
    mark = {"run_id": "old-run", "attempt": "a", "name": "Old", "project": "P"}
    state["stateful_callbacks"]["lineside"] = mark
    path.write_text(json.dumps(state))
    resume(trainer(tmp_path, LinesideCallback(), max_steps=6, **SAVING))
    [(stream, events)] = spool_events().items()
    assert run_of(stream) == "old-run"
    assert data_of(events[0])["resumed_from"] == {"run": "old-run", "attempt": "a", "step": 4}
    newest = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert "lineside" not in newest["stateful_callbacks"]


def test_a_checkpoint_without_a_save_hook_is_resumed_as_its_run(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    """A checkpoint at a SIGTERM calls no hook, and a kill may come before the hook."""

    class Saving(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 2:
                made._save_checkpoint(made.model, trial=None)

    made = trainer(tmp_path, LinesideCallback(), Saving(), max_steps=3)
    made.train()
    resume(trainer(tmp_path, LinesideCallback(), max_steps=4))
    first, second = spool_events()
    assert run_of(first) == run_of(second)


def test_one_callback_in_several_trainers_publishes_a_run_for_each(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    shared = LinesideCallback()
    folds = []
    for fold in range(3):
        made = trainer(tmp_path / str(fold), shared, run_name=f"fold{fold}", max_steps=2)
        made.train()
        made.evaluate()
        folds.append(made)
    folds[0].train()
    folds[1].evaluate()
    close_all()
    streams = spool_events()
    starts = [data_of(events[0])["name"] for events in streams.values()]
    assert starts == ["fold0", "fold1", "fold2", "fold0"]
    runs = [run_of(stream) for stream in streams]
    assert len(set(runs)) == 3
    assert runs[3] == runs[0]
    counts = [kinds(events).count("evaluate") for events in streams.values()]
    assert counts == [1, 2, 1, 0]


def test_a_trainer_inside_a_hook_of_another_has_its_own_run(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    class Training(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if args.run_name == "outer" and state.global_step == 3:
                trainer(tmp_path / "inner", shared, run_name="inner", max_steps=1).train()

    shared = LinesideCallback()
    changes: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 3, "run_name": "outer"}
    trainer(tmp_path, shared, Training(), **changes).train()
    close_all()
    outer, inner = spool_events().values()
    assert data_of(inner[0])["name"] == "inner"
    assert kinds(outer).count("step_end") == 4
    assert kinds(inner).count("step_end") == 1
    assert [kinds(events)[-2:] for events in (outer, inner)] == [["train_end", "run_end"]] * 2


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
    assert data_of(last[0])["name"] == f"gpt2 {run_of(unnamed).rpartition('-')[2]}"


class DPOTrainer(Trainer):
    """A Trainer with another name."""


def test_a_run_without_a_name_is_called_after_trainer_and_model(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback(), kind=DPOTrainer, max_steps=1)
    made.model.config._name_or_path = "org/Llama-3"
    made.train()
    made.train()
    (stream, events), (_, again) = spool_events().items()
    assert stream.startswith("dpo-llama-3-")
    name = f"DPO Llama-3 {run_of(stream).rpartition('-')[2]}"
    assert [data_of(attempt[0])["name"] for attempt in (events, again)] == [name, name]
    assert data_of(events[0])["trainer"] == {"class": "DPOTrainer"}


def test_tags_group_notes_and_config_are_facts_of_the_run(
    home: Path, tmp_path: Path, spool_events: ReadSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    described: dict[str, Any] = {
        "tags": ["paper", 7],
        "group": "ablation",
        "notes": "of https://me:pw@host",
        "config": {"beta": 0.1, "api_key": "mine"},
    }
    trainer(tmp_path, LinesideCallback(**described), max_steps=1).train()
    close_all()
    for name, value in {"TAGS": " a, b,", "GROUP": "G", "NOTES": "N"}.items():
        monkeypatch.setenv(f"LINESIDE_{name}", value)
    trainer(tmp_path, copy.copy(LinesideCallback(**described)), max_steps=1).train()
    given, overridden = (data_of(events[0]) for events in spool_events().values())
    assert (given["tags"], given["group"]) == (["paper", "7"], "ablation")
    assert given["notes"] == "of https://me:<redacted>@host"
    assert given["config"] == {"beta": 0.1, "api_key": "<redacted>"}
    assert (overridden["tags"], overridden["group"], overridden["notes"]) == (["a", "b"], "G", "N")
    assert overridden["config"] == given["config"]
    with pytest.raises(TypeError, match="tag"):
        LinesideCallback(tag="x")  # type: ignore[call-arg]


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
