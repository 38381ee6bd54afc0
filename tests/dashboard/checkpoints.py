"""Records states of checkpoints, and archives one, for tests of the API and the pages."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from lineside.bus.protocol.checkpoints import STATES
from lineside.bus.protocol.events import Stream
from lineside.store.archive.archive import Archive
from lineside.store.archive.location import ArchiveLocation, open_archive
from lineside.store.archive.manifest import CheckpointFacts
from lineside.store.archive.progress import no_progress
from lineside.store.archive.source_file import of_folder
from tests.dashboard.conftest import Harness
from tests.dashboard.synthetic import Training


def record_state(
    harness: Harness, training: Training, step: int, state: str, **changes: Any
) -> None:
    """Record that the archiver reports ``state`` of the checkpoint that was saved at ``step``."""
    data = {
        "checkpoint": f"/data/{training.run}/checkpoint-{step}",
        "attempt": training.attempt,
        "step": step,
        "state": state,
        "bytes": 1_200_000_000,
        "files": 14,
        "done": 0,
        "sent": 0,
        "stored": 0,
        **changes,
    }
    kind = "checkpoint_progress" if state == "copying" else "checkpoint_state"
    stream = Stream(training.run, "archiver", training.attempt)
    harness.feeder.record(stream, kind, time.time(), step, data)


def record_hold(harness: Harness, training: Training, step: int, **changes: Any) -> None:
    """Record that training holds the checkpoint that it saved at ``step``."""
    folder = f"/data/{training.run}"
    data = {
        "checkpoint": f"{folder}/checkpoint-{step}",
        "hold": f"{folder}/_lineside/checkpoint-{step}",
        "why": None,
        "bytes": 1_200_000_000,
        "files": 14,
        "evicted": [],
        **changes,
    }
    harness.feeder.record(training.stream, "checkpoint_held", time.time(), step, data)


def record_every_state(harness: Harness, training: Training, **changes: Any) -> None:
    """Record a checkpoint in each state, of the steps 2, 4, 6, ..."""
    for place, state in enumerate(STATES, 1):
        record_state(harness, training, 2 * place, state, done=480_000_000, **changes)


def archived(folder: Path, training: Training, step: int, files: dict[str, bytes]) -> Archive:
    """An archive in ``folder`` that has ``files`` as the checkpoint of ``step``."""
    source = folder / "source"
    for name, body in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(body)
    archive = open_archive(ArchiveLocation(str(folder / "archive")))
    path = f"/data/{training.run}/checkpoint-{step}"
    facts = CheckpointFacts(training.run, training.attempt, step, path, training.began)
    archive.write_checkpoint(facts, of_folder(source), no_progress, threading.Event())
    return archive


def address_of(archive: Archive, run: str) -> str:
    """The address of the newest manifest of ``run``."""
    return f"{archive.url}/{archive.entries(run)[0]}"
