"""Arguments that are made again equal those of the training."""

from __future__ import annotations

import copy
import dataclasses
import enum
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Seq2SeqTrainingArguments, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from lineside.emitter.redaction.text import REDACTED
from lineside.emitter.training.facts.arguments import (
    argument_facts,
    argument_properties,
    class_facts,
)
from lineside.subscribers.callback_host.rebuild.arguments import rebuild_arguments
from lineside.subscribers.callback_host.rebuild.live_objects import LiveObjectNeeded
from tests.subscribers.callback_host.hook_notes import PROPERTIES, on_wire


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Schedule:
    warm: int = 3
    name: str = "line"


@dataclasses.dataclass
class OwnArguments(TrainingArguments):
    colour: Colour = Colour.RED
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    folder: str = "x"
    sizes: list[int] = dataclasses.field(default_factory=lambda: [1, 2])

    @property
    def twice(self) -> int:
        return 2 * int(self.max_steps)

    def to_dict(self) -> dict[str, Any]:
        own = {"colour": self.colour.value, "schedule": self.schedule.warm}
        return dict(super().to_dict()) | own


def facts_of(args: Any, **changes: Any) -> dict[str, Any]:
    facts = {
        "args": argument_facts(args),
        "args_class": class_facts(type(args)),
        "args_properties": argument_properties(args),
    }
    return on_wire(facts | changes)


def rebuilt(args: Any, **changes: Any) -> Any:
    return rebuild_arguments(facts_of(args, **changes))


SIMPLE: dict[str, Any] = {"report_to": "none", "use_cpu": True}
CASES: dict[str, Any] = {
    "plain": lambda out: TrainingArguments(out, **SIMPLE),
    "many": lambda out: TrainingArguments(
        out,
        **SIMPLE,
        eval_strategy="steps",
        eval_steps=0.25,
        save_strategy="epoch",
        lr_scheduler_type="cosine",
        lr_scheduler_kwargs={"num_cycles": 2},
        optim="adafactor",
        debug="underflow_overflow",
        hub_token="hf_" + "a" * 34,
        accelerator_config={"split_batches": True, "gradient_accumulation_kwargs": {"a": 1}},
        run_name="one",
        metric_for_best_model="eval_loss",
        logging_nan_inf_filter=False,
        max_grad_norm=float("inf"),
    ),
    "seq2seq": lambda out: Seq2SeqTrainingArguments(
        out, **SIMPLE, predict_with_generate=True, generation_config=GenerationConfig(num_beams=3)
    ),
    "trl": lambda out: pytest.importorskip("trl").SFTConfig(
        out,
        **SIMPLE,
        bf16=False,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": torch.bfloat16},
        packing=True,
    ),
    "own": lambda out: OwnArguments(out, **SIMPLE, folder="y"),
}

# TRL sets what transformers has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is:FutureWarning")


@pytest.mark.parametrize("case", CASES)
def test_every_field_and_conversion_equals_the_trainings(case: str, tmp_path: Path) -> None:
    theirs = CASES[case](str(tmp_path))

    ours = rebuilt(theirs)

    assert [one.name for one in dataclasses.fields(ours)] == [
        one.name for one in dataclasses.fields(theirs)
    ]
    for field in dataclasses.fields(theirs):
        value = getattr(theirs, field.name)
        if field.name.endswith("_token") and value is not None:
            value = REDACTED
        if value == {"dtype": torch.bfloat16}:
            value = {"dtype": "bfloat16"}  # a text in place of torch's object
        if isinstance(value, GenerationConfig):
            value = value.to_dict()  # a map in place of the object
        assert getattr(ours, field.name) == value, field.name
        assert type(getattr(ours, field.name)) is type(value), field.name
    for name in PROPERTIES:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.to_dict() == theirs.to_dict()
    assert ours.to_json_string() == theirs.to_json_string()
    assert ours.to_sanitized_dict() == theirs.to_sanitized_dict()
    if case == "seq2seq":
        theirs.generation_config = theirs.generation_config.to_dict()
    assert str(ours) == str(theirs)
    assert repr(ours) == repr(theirs)
    assert copy.deepcopy(ours).to_dict() == theirs.to_dict()


@pytest.mark.parametrize("case", CASES)
def test_the_class_has_its_name_and_is_an_instance_of_it(case: str, tmp_path: Path) -> None:
    theirs = CASES[case](str(tmp_path))

    ours = rebuilt(theirs)

    assert isinstance(ours, type(theirs))
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(type(ours), name) == getattr(type(theirs), name)


def test_a_class_that_cannot_be_imported_keeps_its_name_and_fields(tmp_path: Path) -> None:
    theirs = OwnArguments(str(tmp_path), **SIMPLE)
    described = class_facts(OwnArguments)
    described |= {"module": "__main__", "mro": ["__main__.OwnArguments", *described["mro"][1:]]}

    ours = rebuilt(theirs, args_class=described)

    assert type(ours).__name__ == "OwnArguments"
    assert type(ours).__module__ == "__main__"
    assert isinstance(ours, TrainingArguments)
    assert [one.name for one in dataclasses.fields(ours)] == [
        one.name for one in dataclasses.fields(theirs)
    ]
    assert ours.folder == "x"
    assert ours.colour == "red"
    assert ours.to_dict()["schedule"] == {"warm": 3, "name": "line"}
    assert not hasattr(ours, "twice")
    with pytest.raises(LiveObjectNeeded, match=r"OwnArguments\.twice .* `where: training`"):
        _ = ours.twice


def test_arguments_for_a_gpu_are_made_on_a_machine_without_one(tmp_path: Path) -> None:
    theirs = TrainingArguments(str(tmp_path), **SIMPLE)
    theirs.bf16 = theirs.tf32 = True
    theirs.use_cpu = False

    ours = rebuilt(
        theirs,
        args_properties={
            "device": "cuda:1",
            "n_gpu": 1,
            "world_size": 8,
            "parallel_mode": "distributed",
            "should_save": True,
        },
    )

    assert (ours.bf16, ours.tf32) == (True, True)
    assert ours.device == torch.device("cuda:1")
    assert (ours.n_gpu, ours.world_size, ours.parallel_mode.name) == (1, 8, "DISTRIBUTED")


def test_a_callback_may_change_the_arguments(tmp_path: Path) -> None:
    ours = rebuilt(TrainingArguments(str(tmp_path), **SIMPLE, run_name="one"))

    ours.run_name = None
    ours.eval_strategy = IntervalStrategy.STEPS

    assert ours.to_dict()["run_name"] is None
    assert ours.to_dict()["eval_strategy"] == "steps"


def test_a_run_without_arguments_has_those_of_the_class() -> None:
    ours = rebuild_arguments({})

    assert isinstance(ours, TrainingArguments)
    assert ours.logging_steps == 500


WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["accelerate"] = None
from lineside.subscribers.callback_host.rebuild.arguments import rebuild_arguments
args = rebuild_arguments(json.load(sys.stdin))
texts = (args.to_json_string(), str(args), str(args.to_sanitized_dict()), str(args.device))
print(json.dumps([*texts, type(args.accelerator_config).__name__, args.n_gpu, args.world_size]))
"""


def test_arguments_are_the_same_where_torch_is_not_installed(tmp_path: Path) -> None:
    theirs = CASES["many"](str(tmp_path))
    theirs.hub_token = REDACTED

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input=json.dumps(facts_of(theirs)),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert json.loads(done.stdout) == [
        theirs.to_json_string(),
        str(theirs),
        str(theirs.to_sanitized_dict()),
        "cpu",
        "AcceleratorConfig",
        0,
        1,
    ]
