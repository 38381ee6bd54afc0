"""A training resumes from a restored checkpoint exactly as from the one that it saved."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from lineside.store.archive.whole import missing_files
from tests.support import resumed_training
from tests.support.forked import TORCHRUN, ForkedScript
from tests.support.resumed_training import (
    FULL,
    LORA,
    SAVED,
    SHARDED,
    TOKEN,
    Leg,
    Trained,
    out_of_archive,
)
from tests.support.waiting import DEADLINE

# transformers warns if two checkpoints are saved within the resolution of the clock.
pytestmark = pytest.mark.filterwarnings("ignore:mtime may not be reliable:UserWarning")

FILES = {
    FULL: "model.safetensors",
    SHARDED: "model.safetensors.index.json",
    LORA: "adapter_model.safetensors",
}


@pytest.mark.parametrize("kind", [FULL, SHARDED, LORA])
# peft 0.21 reads a name that transformers 5.23 has given up.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_losses_and_weights_are_the_same_bit_for_bit(tmp_path: Path, kind: str) -> None:
    if kind == LORA:
        pytest.importorskip("peft", reason="`make compat` has peft, which each Trainer would load")
    whole = Leg(str(tmp_path / "whole"), kind=kind).train()
    original = tmp_path / "whole" / f"checkpoint-{SAVED}"
    assert (original / FILES[kind]).is_file()
    restored = out_of_archive(original, tmp_path)
    assert TOKEN.encode() in (original / "training_args.bin").read_bytes()
    assert TOKEN.encode() not in (restored / "training_args.bin").read_bytes()
    ours = Leg(str(tmp_path / "ours"), str(original), kind).train()
    theirs = Leg(str(tmp_path / "theirs"), str(restored), kind).train()
    assert theirs == ours == Trained(whole.losses[SAVED:], whole.weights)


def test_a_checkpoint_without_its_optimizer_would_not_be_the_same(tmp_path: Path) -> None:
    whole = Leg(str(tmp_path / "whole")).train()
    restored = out_of_archive(tmp_path / "whole" / f"checkpoint-{SAVED}", tmp_path)
    (restored / "optimizer.pt").unlink()
    theirs = Leg(str(tmp_path / "theirs"), str(restored)).train()
    assert theirs.losses[0] == whole.losses[SAVED]
    assert theirs.losses[1:] != whole.losses[SAVED + 1 :]


def test_two_ranks_continue_the_same_bit_for_bit(tmp_path: Path) -> None:
    [whole] = _on_two_ranks(tmp_path, Leg(str(tmp_path / "whole")))
    original = tmp_path / "whole" / f"checkpoint-{SAVED}"
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in original.iterdir()}
    assert missing_files(original, 2) == []
    restored = out_of_archive(original, tmp_path)
    ours, theirs = _on_two_ranks(
        tmp_path,
        Leg(str(tmp_path / "ours"), str(original)),
        Leg(str(tmp_path / "theirs"), str(restored)),
    )
    assert theirs == ours == [Trained(one.losses[SAVED:], one.weights) for one in whole]
    assert whole[0].losses != whole[1].losses  # each rank has data of its own


def _on_two_ranks(folder: Path, *legs: Leg) -> list[list[Trained]]:
    """For each of ``legs`` what the two ranks measured."""
    file = folder / "legs.json"
    file.write_text(json.dumps([asdict(leg) for leg in legs]))
    script = resumed_training.__file__
    with ForkedScript(
        [TORCHRUN, "--standalone", "--nproc-per-node=2", script, file],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as job:
        output, _ = job.communicate(timeout=DEADLINE)
    assert job.returncode == 0, output
    return [
        [Trained(**json.loads(Path(leg.output, f"rank{n}.json").read_text())) for n in (0, 1)]
        for leg in legs
    ]
