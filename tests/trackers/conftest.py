"""Fixtures of the tests that compare hosted callbacks with those in the training process.

They need the environment of `make test-trackers`; elsewhere nothing here is collected.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.trackers.harness import Twins
from tests.trackers.table import Table

collect_ignore_glob = [] if find_spec("mlflow") and find_spec("wandb") else ["test_*.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-table",
        action="store_true",
        help="write the results into docs/reference/trackers.md instead of comparing them",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            # The trackers' packages warn of much that is not ours.
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Table:
    """The table of results, to compare with or to write."""
    return Table(request.config.getoption("--write-table", default=False))


@pytest.fixture
def twins(tmp_path: Path) -> Iterator[Twins]:
    """A broker, and trainings that log in-process and hosted."""
    with Twins(tmp_path) as made:
        yield made
