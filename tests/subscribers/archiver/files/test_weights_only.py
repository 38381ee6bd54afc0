"""What inference needs of a checkpoint, and nothing of what only training needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import GPT2LMHeadModel

from lineside.store.archive.source_file import of_folder
from lineside.store.archive.whole import missing_files
from lineside.subscribers.archiver.files.weights_only import weights_only
from tests.support.tiny_trainer import trainer

STATE = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
DEEPSPEED = {
    *("latest", "zero_to_fp32.py", "global_step1/mp_rank_00_model_states.pt"),
    "global_step1/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
}


def remaining(folder: Path) -> set[str]:
    return {file.path for file in weights_only(of_folder(folder))}


def test_the_rest_of_a_trainers_checkpoint_is_whole_and_loads(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
    folder = tmp_path / "checkpoint-1"
    names = {file.name for file in folder.iterdir()}
    assert names >= STATE
    assert remaining(folder) == names - STATE
    for name in STATE:
        (folder / name).unlink()
    assert missing_files(folder, 1) == []
    assert GPT2LMHeadModel.from_pretrained(folder).num_parameters() > 0


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"model.safetensors", *DEEPSPEED}, {"model.safetensors"}),
        ({"adapter_model.safetensors", *DEEPSPEED}, {"adapter_model.safetensors"}),
        ({"config.json", *DEEPSPEED}, {"config.json", *DEEPSPEED}),
        (
            {"pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata", "optimizer_0/__0_0.distcp"},
            {"pytorch_model_fsdp_0/.metadata"},
        ),
        (
            {"pytorch_model_fsdp_0_rank1.bin", "optimizer_0_rank1.bin", "scheduler.pt"},
            {"pytorch_model_fsdp_0_rank1.bin"},
        ),
        ({"pytorch_model_fsdp.bin", "optimizer.bin"}, {"pytorch_model_fsdp.bin"}),
        (
            {"model.safetensors", "random_states_0.pkl", "sampler.bin", "scheduler_1.bin"},
            {"model.safetensors"},
        ),
        ({"model.pt", "notes.txt"}, {"model.pt", "notes.txt"}),
    ],
)
def test_layouts_keep_their_weights(files: set[str], left: set[str], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert remaining(tmp_path) == left
