"""Twenty runs at once, with a dashboard page open."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.faults.conftest import CheckAll
from tests.faults.producer_process import notes_file, read_lines
from tests.faults.stack import Stack
from tests.faults.visitor import Visitor
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fault

PROCESSES, THREADS = 4, 5


@pytest.mark.long
def test_twenty_runs_with_an_open_page_meet_no_lock_and_lose_nothing(
    stack: Stack, rng: Random, check_all: CheckAll
) -> None:
    stack.start()
    names = [[f"run-{p}-{t}" for t in range(THREADS)] for p in range(PROCESSES)]
    runs = [run for group in names for run in group]
    producers = [stack.produce(*group, pause=0.02, rare=50) for group in names]
    history = stack.history()
    wait_until(lambda: len(history.runs(limit=100).items) == len(runs), "all runs are listed")
    with Visitor(stack.serve(), runs) as page:
        time.sleep(rng.uniform(4.0, 6.0))
        for producer in producers:
            assert producer.finish() == 0
        noted = {run: read_lines(notes_file(stack.home, run)) for run in runs}
        check_all({run: [(line.kind, line.step) for line in noted[run]] for run in runs})
        wait_until(lambda: page.changes > 1, "the page gets changes")
    assert not page.errors
    assert page.answers.keys() == {200}, page.answers
    for name, text in stack.logs().items():
        assert "locked" not in text, f"{name}: {text[-2000:]}"
        assert "Traceback" not in text, f"{name}: {text[-2000:]}"
    assert {history.run(run).status for run in runs} == {"finished"}
