"""What the callback publishes so that another process can rebuild what a hook received."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from lineside.bus.protocol.events import Event
from lineside.emitter import LinesideCallback
from lineside.emitter.training.facts.trainer import TAKEN_OVER
from tests.emitter.conftest import ReadSpool
from tests.emitter.streams import close_all, data_of, only
from tests.support.tiny_trainer import Tokens, trainer


class LogReader(TrainerCallback):
    """Notes at each log what a callback in training can read."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []
        self.rates: list[list[float]] = []
        self.history: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.history = [dict(entry) for entry in state.log_history]

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        names = ("total_flos", "num_input_tokens_seen", "best_metric", "best_global_step")
        self.states.append({name: getattr(state, name) for name in names})
        self.rates.append([group["lr"] for group in kwargs["optimizer"].param_groups])


def of_kind(events: list[Event], kind: str) -> list[dict[str, Any]]:
    return [dict(event.data or {}) for event in events if event.kind == kind]


def test_a_run_begins_with_what_a_callback_beside_it_needs(
    home: Path, tmp_path: Path, spool_events: ReadSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "p")
    monkeypatch.setenv("WANDB_API_KEY", "hunter2hunter2")
    made = trainer(tmp_path, LinesideCallback(), LogReader())
    setattr(made.callback_handler, TAKEN_OVER, ("wandb", "mlflow"))
    made.train()
    start, model = only(spool_events())[:2]
    facts = data_of(start)
    assert facts["environment"]["WANDB_PROJECT"] == "p"
    assert "hunter2" not in str(facts)
    assert facts["callbacks"] == [
        f"{type(one).__module__}.{type(one).__qualname__}"
        for one in made.callback_handler.callbacks
    ]
    assert facts["args_class"]["module"] == TrainingArguments.__module__
    assert facts["args_properties"]["train_batch_size"] == 2
    assert (facts["report_to"], facts["taken_over"]) == ([], ["wandb", "mlflow"])
    assert facts["model"]["module"] == type(made.model).__module__
    assert data_of(model)["text"] == repr(made.model)
    assert len(data_of(model)["table"]) == len(list(made.model.parameters()))


def test_a_training_begins_whatever_its_history_holds(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    class History(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            state.log_history = [None, 3, {"loss": 1.0}]

    trainer(tmp_path, History(), LinesideCallback(), max_steps=1).train()
    close_all()
    [begin] = of_kind(only(spool_events()), "train_begin")
    assert "state" in begin
    assert "log_history" not in begin


def test_a_log_is_published_with_a_state_that_lacks_attributes(
    home: Path, tmp_path: Path, spool_events: ReadSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Older(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            monkeypatch.delattr(TrainerState, "best_global_step")
            del state.best_global_step

    made = trainer(tmp_path, Older(), LinesideCallback(), max_steps=1)
    made.train()
    close_all()
    logs = of_kind(only(spool_events()), "log")
    assert [one["state"]["best_global_step"] for one in logs] == [None] * len(
        made.state.log_history
    )


def test_a_log_carries_the_state_as_it_is_then(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    log_reader = LogReader()
    made = trainer(
        tmp_path,
        log_reader,
        LinesideCallback(),
        include_num_input_tokens_seen=True,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        metric_for_best_model="eval_loss",
    )
    made.train()
    logs = of_kind(only(spool_events()), "log")
    assert [data["state"] for data in logs] == log_reader.states
    seen = [state["num_input_tokens_seen"] for state in log_reader.states]
    assert seen[0] > 0
    assert seen == sorted(seen)
    assert log_reader.states[-1]["best_global_step"] in (2, 4)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_learning_rates_are_published_for_each_group(
    home: Path, tmp_path: Path, spool_events: ReadSpool, factor: float
) -> None:
    """Beside the one in the logs only if the groups have different ones, also from warm-up on."""
    log_reader = LogReader()
    made = trainer(tmp_path, log_reader, LinesideCallback())
    head, *rest = made.model.parameters()
    made.optimizer = torch.optim.SGD(
        [{"params": [head], "lr": 0.1}, {"params": rest, "lr": 0.1 * factor}]
    )
    made.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(made.optimizer, lambda step: step / 4)
    made.train()
    events = only(spool_events())
    assert data_of(events[3])["learning_rates"] == [0.0, 0.0]
    sent = [data.get("learning_rates") for data in of_kind(events, "log")]
    assert sent == (log_reader.rates if factor != 1.0 else [None] * len(log_reader.rates))
    assert of_kind(events, "epoch_end")[0]["learning_rates"] == log_reader.rates[-1]


def test_a_training_without_an_optimizer_that_can_be_read_has_no_rates(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback())
    made.callback_handler.on_evaluate(made.args, made.state, made.control, {"eval_loss": 1.0})
    [evaluation] = of_kind(only(spool_events()), "evaluate")
    assert "learning_rates" not in evaluation


def test_the_loader_of_an_evaluation_is_described_when_it_is_another_one(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback(), per_device_eval_batch_size=2)
    made.train()
    made.evaluate()
    made.evaluate()
    made.evaluate(Tokens(8))
    made.predict(Tokens(4))
    loaders = [data.get("eval_loader") for data in of_kind(only(spool_events()), "prediction_step")]
    lengths = [loader and loader["length"] for loader in loaders]
    assert lengths == [3, None, None, None, None, None, 4, None, None, None, 2, None]


def test_a_resumed_training_publishes_the_logs_before_it(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, LinesideCallback(), **saving).train()
    close_all()
    log_reader = LogReader()
    made = trainer(tmp_path, LinesideCallback(), log_reader, max_steps=6, **saving)
    made.train(resume_from_checkpoint=True)
    before, after = spool_events().values()
    [first], [second] = of_kind(before, "train_begin"), of_kind(after, "train_begin")
    assert "log_history" not in first
    assert len(log_reader.history) == 4
    assert second["log_history"] == log_reader.history
    assert "log_history_left_out" not in second


def test_the_configuration_is_published_again_when_it_has_changed(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    made = trainer(tmp_path, LinesideCallback(), save_strategy="steps", save_steps=2)
    made.train()
    made.model.config.task_specific_params = {"a": 1}
    made.predict(Tokens(2))
    events = only(spool_events())
    at = [number for number, event in enumerate(events) if event.kind == "model"]
    assert [events[number + 1].kind for number in at] == ["init_end", "save", "predict"]
    first, saved, predicted = of_kind(events, "model")
    assert "architectures" not in first["config_json"]
    assert '"architectures"' in saved["config_json"]
    assert predicted["config"]["task_specific_params"] == {"a": 1}
    assert predicted["config_json"] == made.model.config.to_json_string()


def test_the_optimizer_and_its_groups_are_described(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    trainer(tmp_path, LinesideCallback(), weight_decay=0.1).train()
    facts = data_of(only(spool_events())[0])["optimizer"]
    assert (facts["class"], facts["scheduler_class"]) == ("AdamW", "LambdaLR")
    assert [group["weight_decay"] for group in facts["groups"]] == [0.1, 0.0]
    assert list(facts["groups"][0]["betas"]) == [0.9, 0.999]
    assert "params" not in facts["groups"][0]


class Plain(torch.nn.Module):
    """A model without a configuration, and of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (input_ids * self.scale - labels).float().pow(2).mean()}


def test_a_model_without_a_configuration_trains_and_is_described(
    home: Path, tmp_path: Path, spool_events: ReadSpool
) -> None:
    given = trainer(tmp_path)
    made = Trainer(
        model_init=Plain,
        args=given.args,
        train_dataset=Tokens(),
        callbacks=[LinesideCallback()],
    )
    made.train()
    events = only(spool_events())
    assert data_of(events[0])["model"]["class"] == "Plain"
    assert data_of(events[1]) == {"text": "Plain()", "table": [["scale", [1], "float32", True]]}
