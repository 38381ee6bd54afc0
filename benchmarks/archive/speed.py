"""A checkpoint of 1 GB into a local S3 server, against ``rclone copy`` of the same.

Both take turns, and each round has its own ratio, of which the median counts. The server is rclone
as well, and keeps what it gets in memory.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import obstore

from benchmarks.table import Row
from lineside.store.archive.location import ArchiveLocation, open_archive
from lineside.store.archive.manifest import CheckpointFacts
from lineside.store.archive.source_file import of_folder
from tests.support.object_stores import (
    BUCKET,
    KEY_ID,
    REGION,
    SECRET,
    ObjectServer,
    rclone,
    rclone_server,
)

ROUNDS = 5
_MIB = 1 << 20
# As those of a model with Adam: the states of the optimizer are twice the weights.
_FILES = {"model.safetensors": 341, "optimizer.pt": 683, "rng_state.pth": 0}
_LEAST = 70.0


def measure() -> list[Row]:
    """The speed of a write into an archive, in percent of that of ``rclone copy``."""
    memory = Path("/dev/shm")  # noqa: S108
    folder = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    ratios, ours = [], []
    with tempfile.TemporaryDirectory(dir=folder) as name, rclone_server(Path(name)) as server:
        checkpoint = _checkpoint(Path(name) / "checkpoint-1000")
        for number in range(ROUNDS):
            ways = {
                "ours": lambda: _archive(server.server, checkpoint),
                "rclone": lambda: _rclone_copy(server.server, checkpoint),
            }
            took = {}
            for way in sorted(ways, reverse=number % 2 == 1):
                took[way] = _seconds(ways[way])
                _empty(server.server)
            ratios.append(100 * took["rclone"] / took["ours"])
            ours.append(took["ours"])
    return [
        Row(
            "a checkpoint of 1 GB into a local S3 server, against rclone copy",
            statistics.median(ratios),
            "% of its speed",
            _LEAST,
            at_least=True,
            note=f"{ROUNDS} rounds of {min(ratios):.0f} to {max(ratios):.0f} %; "
            f"ours {statistics.median(ours):.1f} s, with the manifest read back",
        )
    ]


def _checkpoint(folder: Path) -> Path:
    folder.mkdir()
    for name, size in _FILES.items():
        with (folder / name).open("wb") as file:
            for _ in range(size):
                file.write(os.urandom(_MIB))
    return folder


def _archive(server: ObjectServer, checkpoint: Path) -> None:
    archive = open_archive(ArchiveLocation(f"s3://{BUCKET}/archive", server.options()))
    facts = CheckpointFacts("bench", "1", 1000, str(checkpoint), time.time())
    archive.write_checkpoint(facts, of_folder(checkpoint), lambda _: None, threading.Event())


def _rclone_copy(server: ObjectServer, checkpoint: Path) -> None:
    options = {
        "provider": "Rclone",
        "endpoint": server.endpoint,
        "region": REGION,
        "access-key-id": KEY_ID,
        "secret-access-key": SECRET,
    }
    given = [f"--s3-{name}={value}" for name, value in options.items()]
    ways = [str(checkpoint), f":s3:{BUCKET}/copy"]
    subprocess.run([rclone(), "copy", "--config=/dev/null", *given, *ways], check=True)


def _empty(server: ObjectServer) -> None:
    objects = server.objects("")
    for entry in obstore.list(objects).collect():
        obstore.delete(objects, entry["path"])


def _seconds(way: Callable[[], None]) -> float:
    started = time.monotonic()
    way()
    return time.monotonic() - started
