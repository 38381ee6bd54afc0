"""``lineside run --take-over``: a script trains without its trackers, which lose nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Child, environment
from tests.trackers import stores
from tests.trackers.comparison import Record
from tests.trackers.harness import OFFLINE, ROOT, RUN, TRAINING_SECONDS, Twins

SCRIPT = Path(__file__).with_name("unchanged_script.py")
TRACKERS = ("tensorboard", "mlflow", "wandb")
TAKE_OVER = ("-m", "lineside.cli", "run", "--take-over", "--", "python")


def train(twins: Twins, folder: Path, launcher: Sequence[str] = ()) -> dict[str, Any]:
    """Run the script, whose trackers write below ``folder``; what it printed."""
    folder.mkdir()
    env = environment(
        twins.home,
        **{
            "LINESIDE_BROKER": twins.broker.address,
            "LINESIDE_RUN_ID": RUN,
            "LINESIDE_SAMPLER": "0",
            **OFFLINE,
            "PYTHONPATH": str(ROOT),
            "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "WANDB_DIR": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
    )
    command = [*launcher, str(SCRIPT), str(twins.checkpoints), *TRACKERS]
    child = Child(command, env, folder / "training.log", cwd=folder)
    child.start()
    assert child.wait(TRAINING_SECONDS) == 0, child.log_text()[-6000:]
    facts: dict[str, Any] = json.loads(child.log_text().rpartition("FACTS ")[2].splitlines()[0])
    return {**facts, "log": child.log_text()}


def values(record: Record) -> dict[str, list[tuple[int, Any]]]:
    """The points without those that measure time."""
    return {
        name: points
        for name, points in record.points.items()
        if not name.endswith(("runtime", "per_second"))
    }


def without_repeats(
    points_of: dict[str, list[tuple[int, Any]]],
) -> dict[str, list[tuple[int, Any]]]:
    return {
        name: [point for at, point in enumerate(points) if point not in points[:at]]
        for name, points in points_of.items()
    }


@pytest.mark.timeout(900)
def test_an_unchanged_script_imports_no_tracker_and_each_has_the_same_values(
    twins: Twins, tmp_path: Path
) -> None:
    before, after = tmp_path / "in-process", tmp_path / "taken-over"
    plain = train(twins, before)
    twins.start_host([])
    taken = train(twins, after, TAKE_OVER)
    twins.wait_hosted(*TRACKERS)
    assert {"wandb", "mlflow", "tensorboard", "comet_ml"} <= set(plain["imported"])
    assert taken["imported"] == []
    assert taken["available"] == plain["available"]
    assert f"{', '.join(TRACKERS)} run outside of this process: the callback host" in taken["log"]
    assert taken["setup"] < plain["setup"] / 2
    for name, read in {
        "tensorboard": lambda folder: stores.tensorboard(folder / "tensorboard"),
        "mlflow": lambda folder: stores.mlflow(f"sqlite:///{folder}/mlflow.db"),
        "wandb": stores.wandb,
    }.items():
        left, right = values(read(before)), values(read(after))
        if name == "mlflow":  # it keeps one of equal points of the same millisecond
            left, right = without_repeats(left), without_repeats(right)
        assert left == right, name
        assert any("loss" in key for key in left), name


def test_no_rank_imports_a_tracker(twins: Twins, tmp_path: Path) -> None:
    launcher = (*TAKE_OVER, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    facts = train(twins, tmp_path / "ranks", launcher)
    assert facts["log"].count('"imported": []') == 2
