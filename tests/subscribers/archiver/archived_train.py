"""A training for the archiver: ``archived_train.py OUTPUT STEPS [PAUSE]``.

It saves every step, keeps one checkpoint, and notes the digests of each as the last callback.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lineside.emitter import LinesideCallback
from lineside.store.archive.whole import missing_files
from tests.support.tiny_trainer import trainer

STATE_FILE = "trainer_state.json"  # the Trainer writes it last


class NotesDigests(TrainerCallback):
    def __init__(self, file: Path, pause: float) -> None:
        self.file = file
        self.pause = pause

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        found = {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }
        with self.file.open("a") as file:
            file.write(json.dumps([state.global_step, found]) + "\n")
        time.sleep(self.pause)


def newest_whole(output: Path) -> str | None:
    """The checkpoint to resume from: a training killed in a save has left a part of one."""
    found = sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [str(p) for p in found if (p / STATE_FILE).exists() and not missing_files(p, 1)]
    return whole[-1] if whole else None


def main() -> None:
    warnings.filterwarnings("ignore")
    output, steps, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    trainer(
        output,
        LinesideCallback(run_id="run"),
        NotesDigests(output.with_suffix(".jsonl"), pause),
        max_steps=steps,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
    ).train(resume_from_checkpoint=newest_whole(output))


if __name__ == "__main__":
    main()
