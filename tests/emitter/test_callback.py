"""The callback in real Trainers: every event, every value, and never in the way."""

from __future__ import annotations

import copy
import io
import math
import os
import pickle  # noqa: TID251 - hyperparameter searches pickle callbacks
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lineside.bus.events import CONTROL_BITS, LIFECYCLE_KINDS, Event
from lineside.emitter import LinesideCallback
from lineside.emitter import exit as ending
from lineside.emitter.page import (
    FLAGS,
    HOOK_ERRORS,
    HOOKS,
    PHASE,
    PHASES,
    TRAIN_ENDED,
    TRAINING,
    Page,
)
from tests.emitter.conftest import ReadSpool
from tests.emitter.training import Tokens, Witness, trainer

STATEFUL = ("train_begin", "train_end", "save", "evaluate", "predict", "epoch_begin", "epoch_end")


def only(streams: dict[str, list[Event]]) -> list[Event]:
    [events] = streams.values()
    return events


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def data_of(event: Event) -> dict[str, Any]:
    assert event.data is not None
    return dict(event.data)


def close_all() -> None:
    for run in list(ending._ending.open):
        run.close("exit")


def open_page() -> Page:
    [publisher] = ending._ending.open
    page = Page.open(publisher._spool.folder.path)  # type: ignore[attr-defined]
    assert page is not None
    return page


def test_every_event_is_published_as_it_was(home: Path, tmp_path: Path, spooled: ReadSpool) -> None:
    witness = Witness()
    made = trainer(
        tmp_path / "out",
        witness,
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
    start, *events, end = only(spooled())
    assert (start.kind, end.kind) == ("run_start", "run_end")
    assert [event.seq for event in (start, *events, end)] == list(range(len(events) + 2))
    assert kinds(events) == [note["kind"] for note in witness.seen]
    assert set(kinds(events)) >= set(LIFECYCLE_KINDS) - {"push_begin"}
    for event, note in zip(events, witness.seen, strict=True):
        seen = (note["kind"], note["step"], note["epoch"], note["control"])
        assert (event.kind, event.step, event.epoch, event.control) == seen
        data = dict(event.data or {})
        assert data.get("logs") == note["logs"]
        assert data.get("metrics") == note["metrics"]
        assert ("state" in data) == (event.kind in STATEFUL)
        if "state" in data:
            assert data["state"]["best_metric"] == note["best_metric"]
            assert data["state"]["total_flos"] == note["total_flos"]
            assert data["state"]["max_steps"] == made.state.max_steps or event.kind == "init_end"
        if event.kind == "save":
            assert data["checkpoint"] == str(tmp_path / "out" / f"checkpoint-{event.step}")
    facts, counters = data_of(start), data_of(end)["counters"]
    assert facts["model"]["class"] == "GPT2LMHeadModel"
    assert facts["args"]["gradient_accumulation_steps"] == 2
    assert facts["loaders"]["train"]["dataset_length"] == 24
    assert facts["source"] == "trainer"
    assert facts["resumed_from"] is None
    assert counters["emitted"] == len(events) + 2
    assert counters["hooks"] == len(events) - 1  # init_end came before there was anything to count
    assert (counters["dropped"], counters["hook_errors"], counters["encode_failures"]) == (0, 0, 0)


class Diverging(Trainer):
    """Logs what a bad day logs."""

    def log(self, logs: dict[str, Any], *given: Any, **more: Any) -> None:
        step = self.state.global_step
        logs["loss"] = [math.nan, math.inf, -math.inf, torch.tensor(0.5), 0.0][step % 5]
        logs["there"] = torch.tensor(1.0, device="meta")
        super().log(logs, *given, **more)


def test_odd_numbers_survive_and_tensors_become_numbers(
    home: Path, tmp_path: Path, spooled: ReadSpool
) -> None:
    trainer(tmp_path, LinesideCallback(), kind=Diverging).train()
    close_all()
    events = only(spooled())
    losses = [data_of(event)["logs"]["loss"] for event in events if event.kind == "log"]
    assert losses[:3] == [math.inf, -math.inf, 0.5]
    logs = data_of(next(event for event in events if event.kind == "log"))["logs"]
    assert "device=meta" in logs["there"]["!"]
    assert data_of(events[-1])["counters"]["encode_failures"] == len(losses)


def test_logs_are_taken_before_later_callbacks_change_them(
    home: Path, tmp_path: Path, spooled: ReadSpool
) -> None:
    """The Printer, which every Trainer has without a progress bar, pops total_flos."""
    trainer(tmp_path, LinesideCallback()).train()
    close_all()
    last = [data_of(event)["logs"] for event in only(spooled()) if event.kind == "log"][-1]
    assert "total_flos" in last


def test_a_second_train_is_a_new_attempt_of_the_same_run(
    home: Path, tmp_path: Path, spooled: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback())
    made.evaluate()
    made.train()
    made.train()
    made.evaluate()
    close_all()
    streams = spooled()
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
    home: Path, tmp_path: Path, spooled: ReadSpool
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
    streams = spooled()
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


def test_trials_of_a_hyperparameter_search_are_runs_of_their_own(
    home: Path, tmp_path: Path, spooled: ReadSpool, searching: None
) -> None:
    made = trainer(tmp_path, LinesideCallback(name="search"), max_steps=2)
    for rate in (0.1, 0.2):
        made.train(trial={"learning_rate": rate})
    made.train()
    close_all()
    streams = spooled()
    runs = [stream.split("/")[0] for stream in streams]
    base = runs[2]
    assert runs == [f"{base}-trial-0", f"{base}-trial-1", base]
    starts = [data_of(events[0]) for events in streams.values()]
    assert [start["name"] for start in starts] == ["search trial-0", "search trial-1", "search"]
    assert [data_of(events[-1])["how"] for events in streams.values()] == ["exit"] * 3
    assert starts[0]["state"]["trial_params"] == {"learning_rate": 0.1}


def test_a_trial_is_named_by_its_search_if_it_names_them(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spooled: ReadSpool,
    searching: None,
) -> None:
    monkeypatch.setenv("LINESIDE_RUN_NAME", "mine")
    made = trainer(tmp_path, LinesideCallback(), max_steps=1)
    made.hp_name, made._trial = (lambda trial: "lr=0.1"), {"learning_rate": 0.1}
    made.train(trial={"learning_rate": 0.1})
    assert data_of(only(spooled())[0])["name"] == "mine lr=0.1"


def test_evaluate_and_predict_open_a_run_but_no_init_end_does(
    home: Path, tmp_path: Path, spooled: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback())
    made.log({"early": 1.0})
    made.callback_handler.on_save(made.args, made.state, made.control)
    trainer(tmp_path, *made.callback_handler.callbacks[-2:-1])
    assert spooled() == {}
    made.predict(Tokens(4))
    assert kinds(only(spooled())) == ["run_start", "init_end", "prediction_step", "predict"]


def test_an_evaluation_without_a_step_opens_a_run_too(
    home: Path, tmp_path: Path, spooled: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback())
    made.callback_handler.on_evaluate(made.args, made.state, made.control, {"eval_loss": 1.0})
    assert kinds(only(spooled())) == ["run_start", "init_end", "evaluate"]


def test_a_resumed_training_is_a_new_attempt_of_the_same_run(
    home: Path, tmp_path: Path, spooled: ReadSpool
) -> None:
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, LinesideCallback(name="N", project="P"), **saving).train()
    close_all()
    trainer(tmp_path, LinesideCallback(), max_steps=6, **saving).train(resume_from_checkpoint=True)
    close_all()
    (first, before), (second, after) = spooled().items()
    assert first.split("/")[:2] == second.split("/")[:2]
    start = data_of(after[0])
    assert (start["name"], start["project"]) == ("N", "P")
    run, _, attempt = first.split("/")
    assert start["resumed_from"] == {"run": run, "attempt": attempt, "step": 4}
    assert (after[0].step, after[1].kind, after[2].step) == (4, "init_end", 4)
    assert max(event.step for event in after) == 6
    assert kinds(before)[-2:] == ["train_end", "run_end"]


def test_resuming_works_with_and_without_the_callback(
    home: Path, tmp_path: Path, spooled: ReadSpool
) -> None:
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, **saving).train()
    trainer(tmp_path, LinesideCallback(), max_steps=6, **saving).train(resume_from_checkpoint=True)
    trainer(tmp_path, max_steps=8, **saving).train(resume_from_checkpoint=True)
    close_all()
    trainer(tmp_path, LinesideCallback(), max_steps=10, **saving).train(resume_from_checkpoint=True)
    (first, before), (second, after) = spooled().items()
    assert data_of(before[0])["resumed_from"] == {"run": None, "attempt": None, "step": 4}
    assert first.split("/")[0] == second.split("/")[0], "the mark outlived a training without us"
    assert data_of(after[0])["resumed_from"]["attempt"] == first.split("/")[2]


def test_callback_states_can_be_restored_beside_the_mark(home: Path, tmp_path: Path) -> None:
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
    home: Path, tmp_path: Path, spooled: ReadSpool
) -> None:
    given = LinesideCallback(name="Mine", project="P", run_id="run-7")
    trainer(tmp_path, given, run_name="other", max_steps=1).train()
    close_all()
    [(stream, events)] = spooled().items()
    assert stream.split("/")[0] == "run-7"
    assert (data_of(events[0])["name"], data_of(events[0])["project"]) == ("Mine", "P")
    trainer(tmp_path, LinesideCallback(), run_name="My Run", max_steps=1).train()
    close_all()
    trainer(tmp_path, LinesideCallback(), max_steps=1).train()
    _, (named, events), (unnamed, last) = spooled().items()
    assert named.startswith("my-run-")
    assert data_of(events[0])["name"] == "My Run"
    assert unnamed.startswith("gpt2-")
    assert data_of(last[0])["name"] == unnamed.split("/")[0]


@pytest.mark.parametrize(
    "twin_of",
    [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],  # noqa: S301
)
def test_a_copy_carries_its_configuration_only(
    home: Path, tmp_path: Path, spooled: ReadSpool, searching: None, twin_of: Any
) -> None:
    original = LinesideCallback(name="N", run_id="r")
    made = trainer(tmp_path, original, max_steps=1)
    made.train()
    count = len(only(spooled()))
    twin = twin_of(original)
    twin.on_step_end(made.args, made.state, made.control)
    assert len(only(spooled())) == count
    trainer(tmp_path, twin, max_steps=1).train(trial={"learning_rate": 0.1})
    streams = spooled()
    assert len(streams) == 2
    trial = [stream for stream in streams if "-trial-" in stream]
    assert len(trial) == 1
    assert trial[0].startswith("r-trial-")
    assert not trial[0].startswith("r-trial-0/"), "two copies must not both be trial 0"


def test_two_callbacks_on_one_trainer_are_one_run(
    home: Path, tmp_path: Path, spooled: ReadSpool, capsys: pytest.CaptureFixture[str]
) -> None:
    made = trainer(tmp_path, LinesideCallback())
    made.add_callback(LinesideCallback())
    made.evaluate()
    made.train()
    close_all()
    streams = list(spooled().values())
    assert len(streams) == 2
    assert kinds(streams[1]).count("step_end") == 4
    assert "the second does nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"LINESIDE_DISABLED": "1"}, "off, as LINESIDE_DISABLED says"),
        ({"LINESIDE_SPOOL": "/dev/null/x"}, "off: folder='/dev/null/x' cannot be used"),
        ({"LINESIDE_RUN_ID": "a b"}, "off: LINESIDE_RUN_ID='a b' cannot be used"),
    ],
)
def test_training_goes_on_without_it(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spooled: ReadSpool,
    env: dict[str, str],
    said: str,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    made = trainer(tmp_path, LinesideCallback(), eval_strategy="steps", eval_steps=2)
    made.train()
    made.train()
    made.evaluate()
    error = capsys.readouterr().err
    assert made.state.global_step == 4
    assert spooled() == {}
    assert error.count("lineside:") == 1
    assert said in error


class Panic(BaseException):
    """No Exception, as Rust's panics are."""


def test_errors_inside_stay_inside_and_are_counted(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spooled: ReadSpool,
) -> None:
    class Breaking(TrainerCallback):
        def on_epoch_begin(self, *given: Any, **more: Any) -> None:
            [publisher] = ending._ending.open

            def fail(*given: Any) -> bool:
                raise Panic

            monkeypatch.setattr(publisher._spool, "write", fail)  # type: ignore[attr-defined]

        def on_step_begin(self, args: Any, state: Any, *given: Any, **more: Any) -> None:
            if state.global_step == 3:
                monkeypatch.undo()
                monkeypatch.setenv("LINESIDE_HOME", str(home))

    made = trainer(tmp_path, Breaking(), LinesideCallback())
    made.train()
    page = open_page()
    monkeypatch.setattr(ending._ending, "budget", 0.0)
    close_all()
    errors = page.words[HOOK_ERRORS]
    page.close()
    assert made.state.global_step == 4
    assert errors == 1 + 3 * 5
    assert data_of(only(spooled())[-1])["counters"]["hook_errors"] == errors
    assert capsys.readouterr().err.count("a hook failed") == 1


def test_errors_before_a_run_is_open_stay_inside(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback, broken = LinesideCallback(), object()
    for hook in LIFECYCLE_KINDS:
        getattr(callback, f"on_{hook}")(broken, broken, broken)
    assert "lineside:" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_through_every_hook(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def interrupt(*given: Any) -> None:
        raise stop

    callback = LinesideCallback()
    made = trainer(tmp_path, callback, max_steps=1)
    made.train()
    given = (made.args, made.state, made.control)
    with monkeypatch.context() as patch:
        patch.setattr(callback._attempts, "hook", interrupt)
        more: dict[str, dict[str, Any]] = {"log": {"logs": {"a": 1}}, "evaluate": {"metrics": {}}}
        for kind in ("step_end", "log", "epoch_end", "evaluate"):
            with pytest.raises(stop):
                getattr(callback, f"on_{kind}")(*given, **more.get(kind, {}))


def test_odd_flags_and_states_do_not_lose_events(
    home: Path, tmp_path: Path, spooled: ReadSpool
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
    *_, step_begin, log, evaluate = only(spooled())
    assert log.data == {"logs": {}}
    assert data_of(evaluate)["metrics"] == {}
    assert (step_begin.kind, step_begin.epoch) == ("step_begin", None)
    assert step_begin.control == 1 << CONTROL_BITS.index("should_log")


def test_the_page_follows_the_training(home: Path, tmp_path: Path) -> None:
    pages: list[Page] = []

    def look() -> tuple[str, int]:
        if not ending._ending.open:
            return "", 0
        pages.append(open_page())
        return PHASES[pages[-1].words[PHASE]], pages[-1].words[FLAGS]

    callback = LinesideCallback()
    witness = Witness(look)
    made = trainer(
        tmp_path,
        callback,
        witness,
        max_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
    )
    made.train()
    made.evaluate()
    assert [(note["kind"], *note["look"]) for note in witness.seen] == [
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
        ("train_end", "finished", TRAIN_ENDED),
        ("prediction_step", "evaluating", TRAIN_ENDED),
        ("log", "evaluating", TRAIN_ENDED),
        ("evaluate", "finished", TRAIN_ENDED),
    ]
    assert pages[-1].words[HOOKS] == len(witness.seen) - 1
    for page in pages:
        page.close()


def test_workers_of_a_dataloader_publish_nothing(
    home: Path, tmp_path: Path, spooled: ReadSpool
) -> None:
    witness = Witness()
    trainer(tmp_path, witness, LinesideCallback(), dataloader_num_workers=2).train()
    close_all()
    _, *events, _ = only(spooled())
    assert kinds(events) == [note["kind"] for note in witness.seen]


def test_a_training_that_fails_tells_why(home: Path, tmp_path: Path, spooled: ReadSpool) -> None:
    script = tmp_path / "fails.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from pathlib import Path
            from lineside.emitter import LinesideCallback, exit
            from tests.emitter.training import Trainer, trainer

            class Failing(Trainer):
                def training_step(self, *given, **more):
                    if self.state.global_step == 2:
                        raise RuntimeError("the data ran out")
                    return super().training_step(*given, **more)

            exit._ending.budget = 0.0
            trainer(Path(sys.argv[1]), LinesideCallback(), kind=Failing).train()
            """
        )
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    end = only(spooled())[-1]
    assert data_of(end)["how"] == "exception"
    assert data_of(end)["error"]["message"] == "the data ran out"
    assert "the data ran out" in done.stderr


def test_the_callback_is_saved_with_no_trainer_state_that_cannot_be_read(
    home: Path, tmp_path: Path
) -> None:
    made = trainer(tmp_path, LinesideCallback(), save_strategy="steps", save_steps=2)
    made.train()
    state = TrainerState.load_from_json(str(tmp_path / "checkpoint-4" / "trainer_state.json"))
    assert set(state.stateful_callbacks["lineside"]) == {"run_id", "attempt", "name", "project"}
    torch.save(made.args, io.BytesIO())
