"""What a callback can read of model, processing class, optimizer and loaders, and what not."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedModel

from lineside.bus.errors import LinesideError
from lineside.bus.protocol.events import Event, Stream
from lineside.emitter.training.facts.data import loader_facts
from lineside.emitter.training.facts.model import model_facts, model_structure
from lineside.subscribers.callback_host.rebuild.live_objects import LiveObjectNeeded
from lineside.subscribers.callback_host.rebuild.model import model_stand_in
from lineside.subscribers.callback_host.rebuild.run_image import RunImage
from lineside.subscribers.callback_host.rebuild.stand_ins import (
    OptimizerStandIn,
    SchedulerStandIn,
    loader_stand_in,
    processing_stand_in,
)
from tests.subscribers.callback_host.hook_notes import on_wire
from tests.support.tiny_trainer import Tokens, model


def described(live: torch.nn.Module) -> Any:
    """In place of ``live``."""
    structure = on_wire(model_structure(live), "model")
    return model_stand_in(on_wire({"model": model_facts(live)}), structure)


def test_a_model_is_described_as_it_prints_converts_and_counts() -> None:
    live = model()
    live.transformer.wte.requires_grad_(False)
    ours = described(live)

    assert type(ours).__name__ == ours.__class__.__name__ == "GPT2LMHeadModel"
    assert type(ours).__module__ == "transformers.models.gpt2.modeling_gpt2"
    assert str(ours) == str(live)
    assert ours.config.to_dict() == live.config.to_dict()
    assert ours.config.to_json_string() == live.config.to_json_string()
    assert ours.config.n_embd == 8
    assert ours.num_parameters() == live.num_parameters()
    assert ours.num_parameters(only_trainable=True) == live.num_parameters(only_trainable=True)
    assert ours.dtype == torch.float32


def test_the_parameters_have_all_but_values() -> None:
    live = model()
    live.transformer.wte.requires_grad_(False)

    ours = dict(described(live).named_parameters())

    theirs = dict(live.named_parameters())
    assert list(ours) == list(theirs)
    for name, parameter in theirs.items():
        other = ours[name]
        assert (other.shape, other.dtype) == (parameter.shape, parameter.dtype)
        assert (other.numel(), other.dim()) == (parameter.numel(), parameter.dim())
        assert (other.size(0), other.requires_grad) == (parameter.size(0), parameter.requires_grad)
    assert sum(p.numel() for p in described(live).parameters() if p.requires_grad) == sum(
        p.numel() for p in live.parameters() if p.requires_grad
    )


def test_a_table_that_is_not_whole_is_not_summed_up() -> None:
    live = model()
    structure = model_structure(live)
    facts = {"model": model_facts(live)}
    ours = model_stand_in(facts, structure | {"table": structure["table"][:3], "table_rows": 28})

    with pytest.raises(LiveObjectNeeded, match="parameters"):
        sum(p.numel() for p in ours.parameters())
    assert ours.num_parameters() == live.num_parameters()


def test_a_model_is_an_instance_of_its_class_where_that_is_loaded() -> None:
    ours = described(model())
    assert isinstance(ours, (PreTrainedModel,))
    assert isinstance(ours, torch.nn.Module)

    class Own(torch.nn.Linear):
        pass

    own = described(Own(2, 2))
    assert isinstance(own, torch.nn.Module)
    assert not isinstance(own, PreTrainedModel)
    assert own.__class__.__name__ == type(own).__name__ == "Own"


def test_labels_have_numbers_as_in_training() -> None:
    config = GPT2Config(
        vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=2, id2label={0: "no", 1: "yes"}
    )
    live = GPT2ForSequenceClassification(config)

    assert described(live).config.id2label == live.config.id2label
    assert described(live).config.to_dict() == live.config.to_dict()


def test_adapters_of_peft_are_dataclasses_with_their_settings() -> None:
    class PeftModel(torch.nn.Linear):
        pass

    adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["c_attn"], "lora_dropout": 0.0}
    facts = {"model": {**model_facts(PeftModel(2, 2)), "peft": {"default": adapter}}}
    facts["model"] |= {"peft_parameters": [3, 9]}

    ours = model_stand_in(facts, {})

    assert dataclasses.asdict(ours.peft_config["default"]) == adapter
    assert ours.peft_config["default"].to_dict() == adapter
    assert (ours.peft_config["default"].r, ours.get_nb_trainable_parameters()) == (2, (3, 9))


def test_odd_data_is_taken_as_missing() -> None:
    image = RunImage()
    stream = Stream("run", "rank0", "20260101T000000.000-0000")
    odd = {"logs": 3, "state": [], "metrics": "x", "learning_rates": {}, "log_history": 1}
    kinds = ("run_start", "model", "init_end", "train_begin", "log", "evaluate")
    for seq, kind in enumerate(kinds):
        image.observe(stream, Event(seq, 0.0, 0, kind, data=odd | {"loaders": 1, "args": 2}))
        assert image.keywords(Event(seq, 0.0, 0, kind, data=odd))["model"] is None

    assert image.state.log_history == [{"step": 0}]
    assert image.args.to_dict() == {}


def test_a_callback_may_write_tags_and_another_configuration() -> None:
    ours = described(model())
    assert getattr(ours, "model_tags", None) is None
    ours.model_tags = ["trackio"]
    ours.config = {"a": 1}

    again = copy.deepcopy(ours)

    assert (again.model_tags, again.config) == (["trackio"], {"a": 1})


NEEDS_TRAINING: dict[str, Callable[[Any], object]] = {
    r"GPT2LMHeadModel\(\)": lambda live: live(1),
    r"GPT2LMHeadModel\.state_dict\(\)": lambda live: live.state_dict(),
    r"GPT2LMHeadModel\.save_pretrained\(\)": lambda live: live.save_pretrained("x"),
    r"GPT2LMHeadModel\.register_forward_hook\(\)": lambda live: live.register_forward_hook(print),
    r"GPT2LMHeadModel\.generate\(\)": lambda live: live.generate(),
    r"GPT2LMHeadModel\.base_model\.wte": lambda live: live.base_model.wte,
    r"GPT2LMHeadModel\.training": lambda live: bool(live.training),
    r"GPT2LMHeadModel\.transformer": lambda live: live.transformer,
    r"Parameter\.grad\.norm": lambda live: next(live.parameters()).grad.norm(),
    r"Parameter\.mean\(\)": lambda live: next(live.parameters()).mean(),
    r"Parameter\.data\.std": lambda live: next(live.parameters()).data.std(),
}


@pytest.mark.parametrize("what", NEEDS_TRAINING)
def test_what_needs_the_live_model_is_an_error_that_names_the_way_out(what: str) -> None:
    ours = described(model())

    with pytest.raises(LiveObjectNeeded, match=rf"{what}.* `where: training`"):
        NEEDS_TRAINING[what](ours)


def test_what_a_model_has_can_be_looked_up_and_what_it_lacks_is_missing() -> None:
    live = model()
    ours = described(live)

    for name in ("generate", "save_pretrained", "state_dict", "config", "num_parameters"):
        assert hasattr(ours, name)
    for name in ("peft_config", "module", "get_nb_trainable_parameters", "hf_device_map"):
        assert hasattr(ours, name) == hasattr(live, name)
    plain = described(torch.nn.Linear(2, 2))
    for name in ("generate", "num_parameters", "config", "save_pretrained"):
        assert not hasattr(plain, name)
    with pytest.raises(LiveObjectNeeded):
        getattr(ours, "generate", print)()


def test_loaders_have_their_lengths_and_no_data() -> None:
    live = torch.utils.data.DataLoader(Tokens(6), batch_size=4)
    ours = loader_stand_in(on_wire(loader_facts(live)))

    assert (len(ours), ours.batch_size, ours.num_workers) == (2, 4, 0)
    assert (len(ours.dataset), type(ours.dataset).__name__) == (6, "Tokens")
    with pytest.raises(LiveObjectNeeded, match="batches of DataLoader"):
        next(iter(ours))
    with pytest.raises(LiveObjectNeeded, match="rows of Tokens"):
        ours.dataset[0]


def test_a_loader_of_a_stream_has_no_length() -> None:
    class Stream(torch.utils.data.IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(())

    ours = loader_stand_in(on_wire(loader_facts(torch.utils.data.DataLoader(Stream()))))

    with pytest.raises(TypeError, match="has no len"):
        len(ours)


def test_learning_rates_are_read_as_in_training_once_they_are_known() -> None:
    optimizer = OptimizerStandIn()
    scheduler = SchedulerStandIn(optimizer)
    with pytest.raises(LiveObjectNeeded, match="param_groups"):
        optimizer.param_groups[0]
    with pytest.raises(LiveObjectNeeded, match="param_groups"):
        scheduler.get_last_lr()

    optimizer.set_rates([0.1, 0.2])

    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert scheduler.get_last_lr() == [0.1, 0.2]
    with pytest.raises(LiveObjectNeeded, match="momentum"):
        optimizer.param_groups[0]["momentum"]
    with pytest.raises(LiveObjectNeeded, match="state_dict"):
        optimizer.state_dict()


def test_a_tokenizer_has_its_sizes_and_tokenizes_nothing() -> None:
    ours = processing_stand_in({"processing": {"class": "BertTokenizer", "vocab_size": 30}})

    assert (type(ours).__name__, ours.vocab_size, bool(ours)) == ("BertTokenizer", 30, True)
    with pytest.raises(LiveObjectNeeded, match=r"BertTokenizer\.decode\(\)"):
        ours.decode([1])
    with pytest.raises(LiveObjectNeeded, match=r"BertTokenizer\(\)"):
        ours("text")
    assert processing_stand_in({"processing": {"class": "NoneType"}}) is None


def test_the_error_is_one_of_lineside() -> None:
    assert issubclass(LiveObjectNeeded, LinesideError)
    assert not issubclass(LiveObjectNeeded, AttributeError)
