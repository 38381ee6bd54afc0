"""Hosted trackers have what the same callbacks log in-process, once, also after kill -9."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from time import sleep

import pytest

from tests.trackers.cases import CASES, Case
from tests.trackers.comparison import Record, differences, result
from tests.trackers.harness import TRAINING_SECONDS, Twins
from tests.trackers.table import ONCE, RESULT, Table

pytestmark = pytest.mark.timeout(900)

SEED = 13
NAMES = [case.name for case in CASES]
by_case = pytest.mark.parametrize("case", CASES, ids=NAMES)


class Pair(Twins):
    """Twins of all ``CASES`` in one training: in-process below ``left``, hosted below ``right``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.left, self.right = folder / "in-process", folder / "hosted"
        for one in (self.left, self.right):
            one.mkdir()

    @property
    def variables(self) -> Mapping[str, str]:
        """Where the callbacks of the training write."""
        return {name: value for case in CASES for name, value in case.variables(self.left).items()}

    def start(self) -> None:
        self.start_host([case.entry(self.right) for case in CASES])

    def records(self, case: Case) -> tuple[Record, Record]:
        """What the tracker has in-process and hosted."""
        right = self.checkpoints.parent if case.is_in_working_folder else self.right
        return case.read(self.left), case.read(right)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A training with accumulation, evaluations, saves, and more of both after it."""
    with Pair(tmp_path_factory.mktemp("whole")) as pair:
        pair.start()
        pair.train("whole", NAMES, pair.variables)
        pair.wait_hosted(*NAMES)
        yield pair


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A training during which the processes of all callbacks are killed again and again."""
    rng = Random(SEED)
    with Pair(tmp_path_factory.mktemp("killed")) as pair:
        pair.start()
        training = pair.start_training("slow", NAMES, pair.variables)
        kills = 0
        while training.is_alive():
            sleep(rng.uniform(2.0, 6.0))
            kills += pair.kill_workers()
        assert training.wait(TRAINING_SECONDS) == 0, training.log_text()[-6000:]
        assert kills > len(CASES)
        pair.wait_hosted(*NAMES)
        yield pair


@by_case
def test_a_hosted_tracker_has_what_it_would_have_in_process(
    case: Case, whole: Pair, table: Table
) -> None:
    in_process, hosted = whole.records(case)
    assert in_process.points
    found = differences(in_process, hosted)
    table.check(case.name, RESULT, result(found, case.explained), case.package)


@by_case
def test_after_kills_the_tracker_has_one_run_with_each_value_once(
    case: Case, killed: Pair, table: Table
) -> None:
    in_process, hosted = killed.records(case)
    assert len(in_process.points[case.loss]) == 60
    assert hosted.details["runs"] == 1
    assert not hosted.repeated()
    found = differences(in_process, hosted)
    explained = dict.fromkeys(case.explained, "")
    assert result(found, explained) == "equal"
    table.check(case.name, ONCE, "yes", case.package)
