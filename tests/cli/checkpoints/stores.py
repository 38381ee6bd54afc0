"""Stores with the checkpoints of one run."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lineside.bus.client.reader import Batch
from lineside.bus.protocol.events import Event, Stream
from lineside.emitter.training.checkpoints import run_file
from lineside.store.database.engine import open_store
from lineside.store.recording.writer import Writer
from tests.cli.checkpoints.archives import ATTEMPT, RUN, SAVED_AT
from tests.cli.homes import Home


@dataclass
class RecordedRun:
    """Events of the run ``RUN`` as its training and the archiver publish them."""

    events: list[tuple[Stream, Event]] = field(default_factory=list)
    _seqs: dict[Stream, itertools.count[int]] = field(default_factory=dict)

    def add(
        self, producer: str, attempt: str, kind: str, step: int, data: Mapping[str, Any]
    ) -> None:
        stream = Stream(RUN, producer, attempt)
        seq = next(self._seqs.setdefault(stream, itertools.count()))
        event = Event(seq, SAVED_AT + step, 0, kind, step, None, 0, dict(data))
        self.events.append((stream, event))

    def start(self, attempt: str = ATTEMPT, **facts: Any) -> None:
        self.add("rank0", attempt, "run_start", 0, {"name": RUN, "world_size": 1, **facts})

    def save(
        self, path: Path, step: int, attempt: str = ATTEMPT, left: Sequence[int] | None = None
    ) -> None:
        """A save; ``left`` are the checkpoints that its folder still has, if one is gone."""
        data: dict[str, Any] = {"checkpoint": str(path), "state": {}}
        if left is not None:
            data["checkpoints"] = {"folder": str(path.parent), "steps": list(left)}
        self.add("rank0", attempt, "save", step, data)

    def state(self, path: Path, step: int, state: str, **more: Any) -> None:
        data = {"checkpoint": str(path), "attempt": ATTEMPT, "step": step, "state": state, **more}
        self.add("archiver", "20261129T060000.000-0000", "checkpoint_state", step, data)

    def record(self, home: Home) -> None:
        """Write the store of ``home``."""
        home.path.mkdir(mode=0o700, exist_ok=True)
        engine = open_store(f"sqlite:///{home.path}/store.db", create=True)
        batches = [
            Batch(offset, stream, (event,), ())
            for offset, (stream, event) in enumerate(self.events, 1)
        ]
        Writer(engine).apply("journal", batches)
        engine.dispose()


def trainer_checkpoint(folder: Path, step: int, attempt: str = ATTEMPT, run: str = RUN) -> Path:
    """A whole checkpoint of a Trainer below ``folder``, as this attempt of ``run`` writes it."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [5000], "data_offsets": [0, 5000]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + os.urandom(5000)
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    state_file = path / "trainer_state.json"
    state_file.write_text(json.dumps({"global_step": step}))
    run_file.write(state_file, folder, {"run_id": run, "attempt": attempt})
    return path
