"""The facts of a model: its class, counts, text and parameters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lineside.emitter.spool.sanitize import Sanitizer
from lineside.emitter.training.facts.model import model_facts, model_structure


def published(facts: dict[str, Any]) -> Any:
    """The facts as ``SpoolWriter`` writes them."""
    return Sanitizer().clean(facts)


def test_a_model_is_counted_and_described() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    model.transformer.wte.weight.requires_grad_(False)
    facts = model_facts(model)
    assert facts["class"] == "GPT2LMHeadModel"
    assert facts["mro"][:3] == ["GPT2LMHeadModel", "GPT2PreTrainedModel", "PreTrainedModel"]
    assert facts["config"]["n_embd"] == 8
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["parameters"] - facts["trainable_parameters"] == 32 * 8
    assert "peft" not in facts


def test_a_model_of_plain_torch_is_described() -> None:
    assert model_facts(torch.nn.Linear(2, 3)) == {
        "class": "Linear",
        "module": "torch.nn.modules.linear",
        "mro": ["Linear", "Module"],
        "parameters": 9,
        "trainable_parameters": 9,
    }


class FullyShardedDataParallel(torch.nn.Linear):
    """FSDP 1 knows a model by this name."""


def test_the_parameters_of_a_shard_are_not_counted() -> None:
    assert "parameters" not in model_facts(FullyShardedDataParallel(1, 1))


def test_sharded_and_packed_parameters_are_counted_in_full() -> None:
    class Params4bit(torch.nn.Parameter):
        pass

    packed = Params4bit(torch.zeros(8, dtype=torch.uint8), requires_grad=False)
    sharded = torch.nn.Parameter(torch.zeros(0))
    sharded.ds_numel = 1_000
    model = SimpleNamespace(parameters=lambda: iter([packed, sharded]))
    facts = model_facts(model)
    assert (facts["parameters"], facts["trainable_parameters"]) == (16 + 1_000, 1_000)


def test_peft_adapters_are_described() -> None:
    adapter = SimpleNamespace(to_dict=lambda: {"r": 8, "target_modules": {"q", "v"}})
    facts = model_facts(SimpleNamespace(peft_config={"default": adapter}, config={"a": 1}))
    assert sorted(facts["peft"]["default"]["target_modules"]) == ["q", "v"]
    assert facts["config"] == {"a": 1}


def test_a_model_is_printed_and_its_parameters_are_listed() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    model.transformer.wte.weight.requires_grad_(False)
    structure = published(model_structure(model))
    assert structure["text"] == repr(model)
    assert structure["config_json"] == model.config.to_json_string()
    assert structure["table"] == [
        [name, list(one.shape), "float32", one.requires_grad]
        for name, one in model.named_parameters()
    ]
    assert structure["table"][0] == ["transformer.wte.weight", [32, 8], "float32", False]


def test_a_large_model_is_listed_as_far_as_an_event_holds_it() -> None:
    rows = 2_500
    names = [f"layers.{number}.mlp.down_proj.weight" for number in range(rows)]
    weight = torch.nn.Parameter(torch.zeros(3, 2))
    model = SimpleNamespace(named_parameters=lambda: [(name, weight) for name in names])
    sanitizer = Sanitizer()
    structure = sanitizer.clean(model_structure(model))
    assert [row[0] for row in structure["table"]] == names[:2_000]
    assert structure["table_rows"] == rows
    assert not sanitizer.lossy


def test_a_long_print_is_cut_at_64_kibibytes() -> None:
    class Wide(torch.nn.Module):
        def __repr__(self) -> str:
            return "Linear\n" * 20_000

    text = published(model_structure(Wide()))["text"]
    assert text.startswith("Linear\n" * 9_000)
    assert len(text) < 65_536 + 100


def test_a_model_without_configuration_or_parameters_is_printed() -> None:
    assert model_structure(torch.nn.Identity()) == {"text": "Identity()", "table": []}
    assert "table" not in model_structure(FullyShardedDataParallel(1, 1))


def test_a_secret_in_a_model_is_not_published() -> None:
    class Client(torch.nn.Module):
        def extra_repr(self) -> str:
            return "endpoint='https://me:hunter2hunter2@host', api_key='hunter2hunter2'"

    model = Client()
    config = GPT2Config(secrets={"inner": "hunter2hunter2"}, api_key="hunter2hunter2")
    model.config = config
    structure = published(model_structure(model))
    assert "hunter2" not in str(structure)
    assert "api_key" in structure["config_json"]
