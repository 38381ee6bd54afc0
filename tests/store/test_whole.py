"""A checkpoint's folder is whole, or what it lacks is named."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lineside.store.archive.whole import SENTINEL, missing_files
from tests.support.tiny_trainer import model, trainer

pytestmark = [
    # peft 0.21 reads a name that transformers 5.23 has given up.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # dcp.save in a process without ranks.
    pytest.mark.filterwarnings("ignore:.*torch.distributed:UserWarning"),
]

WEIGHTS, STATE = "model.safetensors", "trainer_state.json"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints that a Trainer wrote, by their kind."""
    output = tmp_path_factory.mktemp("written")
    found = {}
    for kind in ("plain", "sharded", "only_model", *(["adapter"] if find_spec("peft") else [])):
        made = trainer(
            output / kind,
            max_steps=1,
            save_strategy="steps",
            save_steps=1,
            save_only_model=kind == "only_model",
        )
        if kind == "sharded":
            save = functools.partial(made.model.save_pretrained, max_shard_size="4KB")
            made.model.save_pretrained = save
        if kind == "adapter":
            import peft

            config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
            made.model = peft.get_peft_model(made.model, config)
        made.train()
        found[kind] = output / kind / "checkpoint-1"
    return found


@pytest.fixture
def distributed(tmp_path: Path) -> Path:
    """A checkpoint of torch.distributed.checkpoint of two files."""
    weights = {"weight": torch.ones(64, 4), "bias": torch.ones(3), "step": 5}
    writer = dcp.FileSystemWriter(tmp_path / "dcp", single_file_per_rank=False, thread_count=2)
    dcp.save(weights, storage_writer=writer, no_dist=True)
    return tmp_path / "dcp"


@pytest.fixture
def copy(written: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    def copied(kind: str) -> Path:
        if kind == "adapter":
            pytest.importorskip("peft", reason="`make compat` has it: it slows each import")
        return Path(shutil.copytree(written[kind], tmp_path / "checkpoint-1"))

    return copied


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def states(folder: Path, *names: str, **content: object) -> None:
    """Files as DeepSpeed's engine writes them with torch.save."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        torch.save({"optimizer_state_dict": content, "ds_version": "0.17"}, folder / name)


@pytest.mark.parametrize("kind", ["plain", "sharded", "only_model", "adapter"])
def test_what_a_trainer_saved_is_whole(kind: str, copy: Callable[[str], Path]) -> None:
    folder = copy(kind)
    assert missing_files(folder, 1) == []
    assert missing_files(folder, 0) == []


@pytest.mark.parametrize("kind", ["plain", "sharded", "adapter"])
def test_each_file_that_is_cut_short_or_empty_is_named(
    kind: str, copy: Callable[[str], Path]
) -> None:
    folder = copy(kind)
    checked = [
        file
        for file in folder.iterdir()
        if file.suffix in {".safetensors", ".bin", ".pt", ".pth"}
        or file.name in {STATE, "config.json", "adapter_config.json"}
        or file.name.endswith(".index.json")
    ]
    assert len(checked) >= 6
    for file in checked:
        content = file.read_bytes()
        for damage in (content[: len(content) // 2], content.rstrip()[:-1], b""):
            file.write_bytes(damage)
            assert any(name.startswith(f"{file.name} (") for name in missing_files(folder, 1))
        file.write_bytes(content)
    assert missing_files(folder, 1) == []


def test_the_bytes_that_are_there_and_that_were_to_be_are_named(
    copy: Callable[[str], Path],
) -> None:
    folder = copy("plain")
    size = (folder / WEIGHTS).stat().st_size
    cut(folder / WEIGHTS)
    assert missing_files(folder, 1) == [f"{WEIGHTS} (cut short, {size - 40:,} of {size:,} bytes)"]


def test_a_save_that_did_not_end_is_not_whole(copy: Callable[[str], Path]) -> None:
    folder = copy("plain")
    (folder / SENTINEL).write_text("Checkpoint started at step 1 and in progress...")
    assert missing_files(folder, 1) == [f"{SENTINEL} (the save did not end)"]


@pytest.mark.parametrize(
    ("kind", "removed", "named"),
    [
        ("plain", STATE, STATE),
        ("only_model", STATE, STATE),
        ("plain", "rng_state.pth", "rng_state.pth"),
        ("plain", WEIGHTS, "the weights"),
        ("only_model", WEIGHTS, "the weights"),
        ("sharded", "model-00002-of-00003.safetensors", "model-00002-of-00003.safetensors"),
        ("adapter", "adapter_model.safetensors", "the weights"),
    ],
)
def test_a_file_that_is_not_there_is_named(
    kind: str, removed: str, named: str, copy: Callable[[str], Path]
) -> None:
    folder = copy(kind)
    (folder / removed).unlink()
    assert missing_files(folder, 1) == [named]


def test_a_rank_whose_random_state_is_not_there_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("plain")
    shutil.copy(folder / "rng_state.pth", folder / "rng_state_1.pth")
    (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    assert missing_files(folder, 2) == []
    assert missing_files(folder, 3) == ["rng_state_2.pth"]
    (folder / "rng_state_0.pth").unlink()
    assert missing_files(folder, 2) == ["rng_state_0.pth"]
    (folder / "rng_state_1.pth").unlink()
    assert missing_files(folder, 2) == ["rng_state_0.pth", "rng_state_1.pth"]


def test_a_distributed_checkpoint_needs_its_metadata_and_the_shards_that_it_names(
    distributed: Path,
) -> None:
    shards = sorted(distributed.glob("*.distcp"))
    assert len(shards) == 3
    assert missing_files(distributed, 1) == []
    cut(shards[0])
    shards[1].unlink()
    cut_short = f"{shards[0].name} (cut short, {shards[0].stat().st_size:,} bytes)"
    assert missing_files(distributed, 1) == [shards[1].name, cut_short]
    metadata = distributed / ".metadata"
    cut(metadata)
    assert f".metadata (cut short, {metadata.stat().st_size:,} bytes)" in missing_files(
        distributed, 1
    )
    metadata.unlink()
    assert missing_files(distributed, 1) == [".metadata", cut_short]


def test_a_trainers_checkpoint_of_fsdp_needs_the_shards_of_weights_and_optimizer(
    distributed: Path, copy: Callable[[str], Path]
) -> None:
    folder = copy("plain")
    for name in (WEIGHTS, "optimizer.pt", "config.json", "generation_config.json"):
        (folder / name).unlink()
    for name in ("pytorch_model_fsdp_0", "optimizer_0"):
        shutil.copytree(distributed, folder / name)
    assert missing_files(folder, 1) == []
    for file in (folder / "optimizer_0").iterdir():
        file.unlink()
    (folder / "pytorch_model_fsdp_0" / "__0_1.distcp").unlink()
    assert missing_files(folder, 1) == [
        "optimizer_0/.metadata",
        "pytorch_model_fsdp_0/__0_1.distcp",
    ]


def test_ranks_that_each_write_a_file_all_have_to_have_written(tmp_path: Path) -> None:
    names = [f"{kind}_0_rank{rank}.bin" for kind in ("optimizer", "model_fsdp") for rank in (0, 1)]
    names = [name.replace("model", "pytorch_model") for name in names]
    states(tmp_path, *names, "rank0-of-2-optimizer.pt", "rank1-of-2-optimizer.pt")
    assert missing_files(tmp_path, 2) == []
    for name in ("optimizer_0_rank1.bin", "rank0-of-2-optimizer.pt"):
        (tmp_path / name).unlink()
    assert missing_files(tmp_path, 2) == ["optimizer_0_rank1.bin", "rank0-of-2-optimizer.pt"]


ZERO_1 = ["mp_rank_00_model_states.pt"] + [
    f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(3)
]
ZERO_3 = [
    f"zero_pp_rank_{rank}_mp_rank_00_{kind}_states.pt"
    for rank in range(3)
    for kind in ("model", "optim")
]


@pytest.mark.parametrize(("names", "count"), [(ZERO_1, [3, 3]), (ZERO_3, 3)])
def test_a_checkpoint_of_deepspeed_needs_the_states_of_all_ranks(
    names: list[str], count: object, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint-5"
    states(folder / "global_step5", *names, partition_count=count)
    (folder / "latest").write_text("global_step5")
    (folder / STATE).write_text("{}")
    for rank in range(3):
        torch.save({}, folder / f"rng_state_{rank}.pth")
    assert missing_files(folder, 3) == []
    for name in names:
        removed = folder / "global_step5" / name
        content = removed.read_bytes()
        removed.unlink()
        [missing] = missing_files(folder, 3)
        assert missing in {f"global_step5/{name}", "global_step5/*_model_states.pt"}
        removed.write_bytes(content)
    (folder / "latest").unlink()
    assert missing_files(folder, 3) == ["latest"]
    (folder / "latest").write_text("global_step6")
    assert missing_files(folder, 3) == ["global_step6/*_model_states.pt"]


def test_ranks_that_share_their_states_write_fewer_files(tmp_path: Path) -> None:
    """MiCS partitions among the ranks of a node, and each node writes the same names."""
    names = [f"zero_pp_rank_0_mp_rank_00_{kind}_states.pt" for kind in ("model", "optim")]
    states(tmp_path / "global_step1", *names, partition_count=1)
    (tmp_path / "latest").write_text("global_step1")
    assert missing_files(tmp_path, 8) == []


def state_dict(folder: Path) -> None:
    torch.save({"model": model().state_dict(), "step": 3}, folder / "model.pt")


def older_trainer(folder: Path) -> None:
    for name in ("pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({}, folder / name, _use_new_zipfile_serialization=False)
    torch.save({}, folder / "training_args.bin")
    (folder / STATE).write_text("{}")
    (folder / "vocab.txt").touch()


def older_shards(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": {"w": "pytorch_model-00001-of-00001.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def final_model(folder: Path) -> None:
    """``trainer.save_model(folder)`` of a loop's own."""
    save_file({"w": torch.ones(2)}, folder / WEIGHTS)
    torch.save({}, folder / "training_args.bin")


def accelerate_state(folder: Path) -> None:
    save_file({"w": torch.ones(2)}, folder / WEIGHTS)
    for name in ("optimizer.bin", "scheduler.bin", "sampler.bin"):
        torch.save({}, folder / name)
    (folder / "random_states_0.pkl").write_bytes(b"\x80\x02N.")


def modules(folder: Path) -> None:
    """Sentence Transformers keeps its modules in folders."""
    (folder / "0_Transformer").mkdir()
    save_file({"w": torch.ones(2)}, folder / "0_Transformer" / WEIGHTS)
    (folder / "modules.json").write_text("[]")
    torch.save({}, folder / "training_args.bin")
    (folder / STATE).write_text("{}")


def engine_of_a_loop(folder: Path) -> None:
    """``engine.save_checkpoint(folder, save_latest=False)``."""
    states(folder / "mine", "mp_rank_00_model_states.pt")


def other_files(folder: Path) -> None:
    (folder / "latest").write_text("step_5.pt")
    (folder / "optimizer_1").mkdir()
    (folder / "notes.pt.txt").touch()
    (folder / "data.bin").write_bytes(b"raw")
    (folder / "weights.index.json").write_text("[]")
    dcp.save({"w": torch.ones(2)}, checkpoint_id=folder / "sub", no_dist=True)


LAYOUTS = [
    *(state_dict, older_trainer, older_shards, final_model, accelerate_state, modules),
    *(engine_of_a_loop, other_files),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_other_layouts_are_whole_if_what_they_have_is(
    layout: Callable[[Path], None], tmp_path: Path
) -> None:
    layout(tmp_path)
    assert missing_files(tmp_path, 1) == []


def test_an_empty_folder_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1" / "global_step1").mkdir(parents=True)
    assert missing_files(tmp_path / "checkpoint-1", 1) == ["every file (the folder is empty)"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        missing_files(tmp_path / "gone", 1)


GARBAGE = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"PK\x03\x04" + bytes(30) + b"PK\x05\x06" + bytes(18),
            b'\x13\0\0\0\0\0\0\0{"a":[1,Infinity,0]}',
            b'\x26\0\0\0\0\0\0\0{"a":{"data_offsets":[0,Infinity],"b":0}}',
            b'{"weight_map": {"a": 1, "b": "x", "c": ["../y"]}}',
            b'{"weight_map": 5}',
            b"[" * 2000,
            b"__0_0.distcp.",
        ]
    ),
)


@given(content=GARBAGE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_garbage_in_a_file_is_no_crash(content: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir(exist_ok=True)
    for name in (
        *(STATE, "config.json", "model.safetensors.index.json", WEIGHTS, "optimizer.pt", "latest"),
        *("zero_pp_rank_0_mp_rank_00_optim_states.pt", ".metadata", "__0_0.distcp"),
    ):
        (folder / name).write_bytes(content)
    assert all(isinstance(name, str) for name in missing_files(folder, 2))
