"""Step times of a training whose checkpoints go to a slow S3, beside one that only saves.

A real Trainer saves every few steps and keeps one checkpoint, so that rotation removes what is
still being archived. The whole way runs on the same cores: hold, shipper, broker, archiver and a
server. Both ways take turns, and each round has its own ratio, of which the median counts.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.table import Row
from benchmarks.trackers.hosting import Hosting
from benchmarks.trackers.runs import Times, measure_command, training
from lineside.store.archive.location import ArchiveLocation, open_archive
from tests.support.object_stores import BUCKET, SlowLink, rclone_server

ROUNDS = 5
STEPS, SAVE_STEPS = 600, 20
BYTES_PER_SECOND = 1 << 20
_RUN = "bench"
_LIMIT = 1.1


def measure() -> list[Row]:
    """The mean time of a step, saves included, over that without an archive."""
    ratios, plain = [], []
    for number in range(ROUNDS):
        ways = (False, True) if number % 2 else (True, False)
        took = {is_archived: _train(is_archived) for is_archived in ways}
        ratios.append(took[True].step / took[False].step)
        plain.append(took[False].step)
    ratios.sort()
    return [
        Row(
            f"a step of a training that saves every {SAVE_STEPS} and is archived in a slow S3",
            statistics.median(ratios),
            "x",
            _LIMIT,
            note=f"{ROUNDS} rounds of {ratios[0]:.2f} to {ratios[-1]:.2f}; without an archive "
            f"{statistics.median(plain):.1f} ms",
        )
    ]


def _train(is_archived: bool) -> Times:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if not is_archived:
            return _times(folder)
        with (
            rclone_server(folder) as server,
            SlowLink(server.server.port, BYTES_PER_SECOND) as link,
        ):
            options = server.server.options(link.endpoint)
            url = f"s3://{BUCKET}/archive"
            took = _times(folder, {"url": url, "options": options})
            if not open_archive(ArchiveLocation(url, server.server.options())).entries(_RUN):
                raise RuntimeError("no checkpoint was archived while the training ran")
            return took


def _times(folder: Path, archive: dict[str, Any] | None = None) -> Times:
    with Hosting(folder / "home", {}, archive=archive) as hosting:
        command = training(
            folder / "work", lineside=True, steps=STEPS, logging_steps=10, save_steps=SAVE_STEPS
        )
        env = {**hosting.environment, "LINESIDE_RUN_ID": _RUN}
        return measure_command([sys.executable, *command], folder / "work", env)
