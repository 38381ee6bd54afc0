"""A resumed training goes on in the same run of the tracker, and a failed one is closed as such."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trackers import stores
from tests.trackers.cases import CASES, Case
from tests.trackers.harness import Twins

pytestmark = pytest.mark.timeout(900)

NAMES = [case.name for case in CASES]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    """An attempt of 8 steps, and one that went on from step 4 to 12."""
    folder = tmp_path_factory.mktemp("resumed")
    with Twins(folder) as twins:
        twins.start_host([case.entry(folder) for case in CASES])
        twins.train("half")
        twins.train("resumed")
        twins.wait_hosted(*NAMES, attempts=2)
        yield twins


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_resumed_training_goes_on_in_the_same_run(case: Case, resumed: Twins) -> None:
    folder = resumed.checkpoints.parent if case.is_in_working_folder else resumed.folder
    record = case.read(folder)
    assert record.details["runs"] == 1
    assert not record.repeated()
    losses = sorted(step for step, _ in record.points[case.loss])
    if case.name == "tensorboard":  # it drops what the first attempt logged behind step 4
        assert losses == list(range(1, 13))
    elif case.name == "mlflow":
        assert losses == sorted([*range(1, 9), *range(5, 13)])
    else:  # these count the rows
        assert len(set(losses)) == 16


def test_a_failed_training_is_closed_as_failed_and_its_errors_are_on_the_run(
    tmp_path: Path,
) -> None:
    cases = [case for case in CASES if case.name in ("wandb", "mlflow")]
    live = {"WANDB_WATCH": "all", "WANDB_LOG_MODEL": "checkpoint"}
    with Twins(tmp_path) as twins:
        twins.start_host([case.entry(tmp_path) for case in cases])
        twins.train("failing", variables=live, exit_code=1)
        twins.wait_hosted("wandb", "mlflow")
        errors = twins.errors()
    mlflow = stores.mlflow(f"sqlite:///{tmp_path}/mlflow.db")
    wandb = stores.wandb(tmp_path)
    assert mlflow.details["status"] == "FAILED"
    assert wandb.details["status"] == 1
    assert [step for step, _ in mlflow.points["loss"]] == [1, 2]
    assert [value for _, value in wandb.points["train/global_step"]] == [1, 2]
    assert any("WANDB_WATCH=all" in error and "where: training" in error for error in errors)
    assert any("checkpoint-2" in error for error in errors)
