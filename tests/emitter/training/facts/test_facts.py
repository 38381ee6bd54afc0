"""The facts of a run: complete as far as possible, without secrets, without side effects."""

from __future__ import annotations

import enum
import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Seq2SeqTrainingArguments, TrainerState, TrainingArguments

from lineside.emitter.redaction.text import REDACTED
from lineside.emitter.spool.sanitize import Sanitizer
from lineside.emitter.training.checkpoints.folder import checkpoint_path
from lineside.emitter.training.error_facts import error_facts, one_line
from lineside.emitter.training.facts.arguments import (
    argument_facts,
    argument_properties,
    class_facts,
    reported_trackers,
)
from lineside.emitter.training.facts.collect import collect
from lineside.emitter.training.facts.data import loader_facts, processing_facts
from lineside.emitter.training.facts.environment import tracker_environment
from lineside.emitter.training.facts.optimizer import learning_rates
from lineside.emitter.training.facts.process import identity_facts, process_facts, version_facts
from lineside.emitter.training.facts.trainer import (
    history_facts,
    resumed_from,
    state_facts,
    trainer_facts,
)
from lineside.emitter.training.identity import Identity, RankInfo


class Strategy(enum.Enum):
    STEPS = "steps"


@dataclass
class Arguments:
    lr: float = 0.1
    hub_token: str | None = None
    strategy: Strategy = Strategy.STEPS
    model_init_kwargs: dict[str, Any] | None = None
    hidden: int = field(default=1, init=False)


class Endless(torch.utils.data.IterableDataset[int]):
    def __iter__(self) -> Any:
        raise AssertionError("a dataset must not be iterated")


class Panic(BaseException):
    """No Exception."""


def fail() -> None:
    raise Panic


def interrupt() -> None:
    raise KeyboardInterrupt


def open_database(user: str) -> None:
    raise ValueError(f"cannot open postgres://{user}@db")


def published(facts: dict[str, Any]) -> Any:
    """The facts as ``SpoolWriter`` writes them."""
    return Sanitizer().clean(facts)


def test_a_part_that_fails_is_left_out() -> None:
    assert collect({"a": fail, "b": lambda: 1, "c": lambda: None}) == {"b": 1}
    with pytest.raises(KeyboardInterrupt):
        collect({"a": interrupt})


def test_process_facts_have_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--hub_token", "mine"])
    monkeypatch.setenv("HF_TOKEN", "mine")
    facts = published(process_facts())
    assert facts["argv"] == ["train.py", "--hub_token", REDACTED]
    assert (facts["pid"], facts["cwd"]) == (os.getpid(), str(Path.cwd()))
    assert "mine" not in str(facts)


def test_versions_are_those_of_loaded_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    facts = version_facts()
    assert facts["torch"] == torch.__version__
    assert "lineside" in facts
    assert "peft" not in facts


def test_arguments_are_redacted_and_not_changed() -> None:
    nested = {"token": "mine", "dtype": torch.bfloat16}
    args = Arguments(hub_token="mine", model_init_kwargs=nested)  # noqa: S106
    facts = published(argument_facts(args))
    assert facts == {
        "lr": 0.1,
        "hub_token": REDACTED,
        "strategy": "steps",
        "model_init_kwargs": {"token": REDACTED, "dtype": "bfloat16"},
    }
    assert nested == {"token": "mine", "dtype": torch.bfloat16}


def test_an_argument_that_cannot_be_read_takes_no_other_with_it(tmp_path: Path) -> None:
    class Unreadable:
        @property
        def to_dict(self) -> Any:
            raise RuntimeError

    class Arguments(TrainingArguments):
        def __getattribute__(self, name: str) -> Any:
            if name == "seed" and vars(self).get("is_made"):
                raise RuntimeError
            return super().__getattribute__(name)

    args = Arguments(str(tmp_path), report_to="none", use_cpu=True)
    names = set(argument_facts(args))
    args.__dict__["is_made"], args.hub_token = True, Unreadable()
    assert set(argument_facts(args)) == names - {"seed", "hub_token"}
    assert argument_facts(args)["resume_from_checkpoint"] is None


def test_real_training_arguments_are_read_in_full(tmp_path: Path) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), hub_token="mine", use_cpu=True)  # noqa: S106
    facts = published(argument_facts(args))
    expected = args.to_dict()
    assert facts.keys() == expected.keys()
    differing = {name for name in facts if facts[name] != expected[name]}
    assert differing <= {name for name in expected if name.endswith("_token")}
    assert facts["hub_token"] == REDACTED


def test_arguments_that_are_no_dataclass_are_read() -> None:
    assert argument_facts(SimpleNamespace(a=1)) == {"a": 1}


def test_loaders_are_described_and_never_iterated() -> None:
    known = torch.utils.data.DataLoader([1, 2, 3], batch_size=2)
    assert loader_facts(known) == {
        "class": "DataLoader",
        "length": 2,
        "batch_size": 2,
        "workers": 0,
        "dataset": "list",
        "dataset_length": 3,
    }
    endless = loader_facts(torch.utils.data.DataLoader(Endless(), batch_size=2))
    assert endless == {"class": "DataLoader", "batch_size": 2, "workers": 0, "dataset": "Endless"}


def test_a_processing_class_is_described() -> None:
    tokenizer = SimpleNamespace(vocab_size=32, padding_side="left", model_max_length=int(1e30))
    assert processing_facts(tokenizer) == {
        "class": "SimpleNamespace",
        "vocab_size": 32,
        "padding_side": "left",
        "model_max_length": 1e30,
    }


def test_only_special_tokens_that_are_set_are_read() -> None:
    tokenizer = SimpleNamespace(special_tokens_map={"eos_token": "</s>"}, eos_token_id=2)
    facts = published(processing_facts(tokenizer))
    assert facts == {"class": "SimpleNamespace", "eos_token": "</s>", "eos_token_id": 2}


def test_arguments_that_are_objects_are_read_by_name(tmp_path: Path) -> None:
    generation = GenerationConfig(max_new_tokens=7)
    args = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, generation_config=generation
    )
    sent = published(argument_facts(args))["generation_config"]
    assert sent == generation.to_dict()
    assert sent["max_new_tokens"] == 7


def test_state_facts_leave_out_the_log_history() -> None:
    state = TrainerState(best_metric=math.inf, trial_params={"lr": 0.1}, log_history=[{"a": 1.0}])
    facts = state_facts(state)
    assert facts["best_metric"] == math.inf
    assert facts["trial_params"] == {"lr": 0.1}
    assert not {"log_history", "stateful_callbacks"} & facts.keys()
    assert state_facts(SimpleNamespace(max_steps=3)) == {"max_steps": 3}


def test_the_checkpoint_that_a_run_resumes_from_is_described() -> None:
    assert resumed_from(TrainerState(), {}) is None
    at_5 = TrainerState(global_step=5)
    assert resumed_from(at_5, {}) == {"run": None, "attempt": None, "step": 5}
    kept = Identity("r", "a", "n", "p", RankInfo()).checkpoint_state()
    assert resumed_from(at_5, kept) == {"run": "r", "attempt": "a", "step": 5}


def test_a_checkpoint_is_named_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = SimpleNamespace(output_dir="out")
    state = TrainerState(global_step=4)
    assert checkpoint_path(args, state) == str(tmp_path / "out" / "checkpoint-4")
    state.is_hyper_param_search = True
    assert checkpoint_path(args, state) == str(tmp_path / "out" / "checkpoint-4")
    for number, trial in enumerate(["run-0", "run-1", "_lineside"]):  # a hold is none
        folder = tmp_path / "out" / trial / "checkpoint-4"
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    expected = tmp_path / "out" / "run-1" / "checkpoint-4"
    assert checkpoint_path(args, state) == str(expected)


def test_error_facts_have_the_traceback_and_no_secrets() -> None:
    with pytest.raises(ValueError, match="cannot open") as raised:
        open_database("me:pw")
    facts, line = error_facts(raised.value), one_line(raised.value)
    assert facts is not None
    assert facts["type"] == "ValueError"
    assert facts["message"] == f"cannot open postgres://me:{REDACTED}@db"
    assert "raise ValueError" in facts["traceback"]
    assert "pw@" not in str(facts)
    assert line.startswith("ValueError: cannot open")
    assert error_facts(None) is None


def test_an_error_that_cannot_be_printed_is_described_by_its_class() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    facts = error_facts(Broken())
    assert facts is not None
    assert facts["message"] == ""
    assert facts["type"].endswith("Broken")


def test_other_ranks_leave_out_facts_that_are_equal_on_all() -> None:
    state = TrainerState()
    given = {"model": torch.nn.Linear(1, 1), "processing_class": None, "train_dataloader": None}
    leading = trainer_facts(Arguments(), state, given, {}, None, is_rank_0=True)
    other = trainer_facts(Arguments(), state, given, {}, None, is_rank_0=False)
    assert {"environment", "args", "args_class", "model", "loaders"} <= leading.keys()
    assert other.keys() == {"process", "versions", "state", "resumed_from"}
    assert leading["loaders"] == {}


def test_the_identity_is_part_of_the_facts() -> None:
    identity = Identity("r", "a", "n", "p", RankInfo(2, 4, 1))
    assert identity_facts(identity) == {
        "name": "n",
        "project": "p",
        "producer": "rank2",
        "rank": 2,
        "world_size": 4,
        "local_rank": 1,
    }


def test_arguments_of_a_scripts_own_class_are_described(tmp_path: Path) -> None:
    @dataclass
    class Own(TrainingArguments):
        wandb_api_key: str = "hunter2hunter2"
        endpoint: str = "https://me:hunter2hunter2@host"

    args = Own(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=3)
    kind = class_facts(type(args))
    assert kind["module"] == __name__
    assert kind["name"].endswith("Own")
    assert kind["mro"][1] == "transformers.training_args.TrainingArguments"
    computed = argument_properties(args)
    assert computed["train_batch_size"] == 3
    assert (computed["device"], computed["parallel_mode"]) == ("cpu", "not_parallel")
    assert computed["should_save"] is True
    assert published(computed) == computed
    assert "hunter2" not in str(published(argument_facts(args)))


def test_values_of_arguments_that_are_objects_are_published_as_values(tmp_path: Path) -> None:
    args = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr": 1e-6},
        accelerator_config={"split_batches": True},
        eval_strategy="steps",
        eval_steps=5,
        report_to=["none"],
    )
    facts = published(argument_facts(args))
    assert facts["lr_scheduler_type"] == "cosine_with_min_lr"
    assert facts["lr_scheduler_kwargs"] == {"min_lr": 1e-6}
    assert facts["accelerator_config"]["split_batches"] is True
    assert facts["eval_strategy"] == "steps"
    assert reported_trackers(args) == []


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"WANDB_PROJECT": "p", "HOME": "/root", "OPENAI_API_KEY": "x"}, {"WANDB_PROJECT": "p"}),
        ({"WANDB_API_KEY": "x", "DAGSHUB_USER_TOKEN": "x", "MLFLOW_TRACKING_PASSWORD": "x"}, {}),
        (
            {"MLFLOW_TRACKING_URI": "https://me:pw@host:5000/x?y=1"},
            {"MLFLOW_TRACKING_URI": "https://host:5000/x?y=1"},
        ),
        ({"MLFLOW_TAGS": '{"team": "a", "api_key": "hunter2hunter2"}'}, {}),
        ({"WANDB_NOTES": "hf_" + "aB3" * 12}, {}),
        ({"WANDB_HTTP_PROXY": "me:hunter2@proxy:80", "WANDB_X_EXTRA_HTTP_HEADERS": "{}"}, {}),
        ({"WANDB_HTTP_PROXY": "//me:hunter2@proxy:80"}, {"WANDB_HTTP_PROXY": "//proxy:80"}),
        ({"MLFLOW_TRACKING_URI": "mssql:///?odbc_connect=UID%3Dme%3BPWD%3Dhunter2"}, {}),
        ({"WANDB_NOTES": "x" * 5_000, "WANDB_SERVICE": "2-1-unix-/tmp/s"}, {}),
        ({"DISABLE_MLFLOW_INTEGRATION": "TRUE"}, {"DISABLE_MLFLOW_INTEGRATION": "TRUE"}),
    ],
)
def test_variables_of_trackers_are_sent_without_secrets(
    given: dict[str, str], sent: dict[str, str]
) -> None:
    assert tracker_environment(given) == sent
    assert published(sent) == sent


def test_of_a_long_history_the_newest_logs_are_kept() -> None:
    entries = [{"loss": float(step), "step": step} for step in range(10_000)]
    sanitizer = Sanitizer()
    facts = sanitizer.clean(history_facts(TrainerState(log_history=entries)))
    assert facts["log_history"] == entries[-len(facts["log_history"]) :]
    assert len(facts["log_history"]) > 5_000
    assert facts["log_history_left_out"] == 10_000 - len(facts["log_history"])
    assert not sanitizer.lossy
    assert history_facts(TrainerState(log_history=[])) == {}


def test_rates_of_groups_are_read_as_far_as_they_are_in_host_memory() -> None:
    groups: list[dict[str, Any]] = [{"lr": 0.1}, {"lr": torch.tensor(0.1)}, {"lr": 0.2}]
    assert learning_rates(SimpleNamespace(param_groups=groups)) == [0.1, None, 0.2]
    assert len(learning_rates(SimpleNamespace(param_groups=[{"lr": 0.1}] * 500))) == 64
    assert learning_rates(None) == []
    assert learning_rates(SimpleNamespace(param_groups=[{}])) == []
