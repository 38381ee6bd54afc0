"""A training that resumes, its losses to the last bit, and its checkpoint out of an archive.

Run as a script, ``torchrun resumed_training.py LEGS``, each rank trains every leg of the JSON file
and writes what it measured to ``<output>/rank<N>.json``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from lineside.emitter.redaction.text import redact_text
from lineside.emitter.redaction.values import mask_names, mask_texts
from lineside.store.archive.location import ArchiveLocation, open_archive
from lineside.store.archive.manifest import CheckpointFacts, Manifest
from lineside.store.archive.source_file import of_folder
from lineside.subscribers.archiver.files.redaction import Redaction
from lineside.subscribers.archiver.files.scrub import scrub
from tests.support.tiny_trainer import trainer

STEPS, SAVED = 6, 3
TOKEN = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"
FULL, SHARDED, LORA = "full", "sharded", "lora"


@dataclass(frozen=True)
class Trained:
    """``losses`` of each step in hexadecimal notation, and a digest of the weights at the end."""

    losses: list[str]
    weights: str


@dataclass(frozen=True)
class Leg:
    """A training into ``output``, from its beginning or from the checkpoint ``resume``."""

    output: str
    resume: str = ""
    kind: str = FULL

    def train(self) -> Trained:
        losses: list[str] = []

        class Measured(Trainer):
            def training_step(self, *args: Any, **kwargs: Any) -> Any:
                loss = super().training_step(*args, **kwargs)
                losses.append(loss.item().hex())
                return loss

        made = trainer(
            Path(self.output),
            kind=Measured,
            max_steps=STEPS,
            save_strategy="steps",
            save_steps=SAVED,
            learning_rate=1e-2,
            hub_token=TOKEN,
        )
        if self.kind == LORA:
            import peft

            config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
            made.model = peft.get_peft_model(made.model, config)
        if self.kind == SHARDED:
            save = functools.partial(made.model.save_pretrained, max_shard_size="4KB")
            made.model.save_pretrained = save
        made.train(resume_from_checkpoint=self.resume or None)
        digest = hashlib.sha256()
        for name, weights in sorted(made.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(weights.detach().contiguous().view(torch.uint8).numpy().tobytes())
        return Trained(losses, digest.hexdigest())


def out_of_archive(checkpoint: Path, folder: Path) -> Path:
    """``checkpoint`` as it comes out of an archive, to which it went without its secrets."""
    archive = open_archive(ArchiveLocation(str(folder / "archive")))
    facts = CheckpointFacts("run", "20260101T000000.000-0000", SAVED, str(checkpoint), 0.0)
    scrubbed = scrub(of_folder(checkpoint), Redaction(redact_text, mask_names, mask_texts))
    assert not scrubbed.left_out
    key, _, _ = archive.write_checkpoint(facts, scrubbed.files, lambda _: None, threading.Event())
    manifest: Manifest = archive.read_manifest(key)
    target = folder / "restored" / checkpoint.name
    target.parent.mkdir()
    archive.restore(manifest, target)
    return target


def main() -> None:
    torch.distributed.init_process_group("gloo")
    rank = os.environ["RANK"]
    for leg in json.loads(Path(sys.argv[1]).read_text()):
        trained = Leg(**leg).train()
        Path(leg["output"], f"rank{rank}.json").write_text(json.dumps(asdict(trained)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
