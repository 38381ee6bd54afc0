"""Adds repetitions of fault tests and a table of their results to a pytest session, and ``rng``.

``LINESIDE_FAULT_REPEATS`` is the number of repetitions (``make faults N=20``).
"""

from __future__ import annotations

import os
import secrets
from collections import defaultdict
from random import Random

import pytest

SEED = int(os.environ.get("LINESIDE_FAULT_SEED", "0")) or secrets.randbelow(1 << 30)
REPEATS = int(os.environ.get("LINESIDE_FAULT_REPEATS", "1"))
_COLUMNS = ("runs", "failures", "events", "lost", "twice")
_PREFIX = "fault "

_table: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))


def repeats(times: int) -> range:
    """Count ``times`` under ``make faults`` with N > 1; in the suite each fault happens once."""
    return range(times if REPEATS > 1 else 1)


def count(node: pytest.Item, **columns: int) -> None:
    """Add to the test's row in the table."""
    # A report carries its properties from the process that ran the test.
    node.user_properties += [(_PREFIX + name, n) for name, n in columns.items()]


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> Random:
    """The source of random moments; its seed is shown when the test fails."""
    called = getattr(request.node, "callspec", None)
    seed = SEED + (called.params.get("repetition", 0) if called else 0)
    print(f"to repeat this one: LINESIDE_FAULT_SEED={seed}")
    return Random(seed)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if REPEATS > 1 and metafunc.definition.get_closest_marker("fault"):
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(REPEATS))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("fault"):
        count(item, runs=1)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    counted = [(name, n) for name, n in report.user_properties if name.startswith(_PREFIX)]
    if not counted:
        return
    row = _table[report.nodeid.rpartition("::")[2].partition("[")[0]]
    row["failures"] += report.failed
    if report.when == "call":
        for name, n in counted:
            assert isinstance(n, int)
            row[name.removeprefix(_PREFIX)] += n


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _table:
        return
    terminalreporter.section("faults")
    width = max(map(len, _table))
    terminalreporter.line(f"{'':{width}}" + "".join(f"{c:>10}" for c in _COLUMNS))
    for name, row in sorted(_table.items()):
        cells = "".join(f"{row.get(c, '-'):>10}" for c in _COLUMNS)
        terminalreporter.line(f"{name:{width}}{cells}")
