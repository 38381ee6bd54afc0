"""The order of attempts follows starts and resumes, not clocks or the order of recording."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import pytest

from lineside.store.status.attempt_order import order_attempts


@dataclass(frozen=True)
class Start:
    attempt: str
    started_at: float
    resumed_attempt: str | None = None


@pytest.mark.parametrize(
    ("starts", "order"),
    [
        ([Start("a", 1.0), Start("b", 2.0)], "ab"),
        ([Start("b", 1.0), Start("a", 1.0)], "ab"),
        # The clock of the second machine is behind.
        ([Start("a", 100.0), Start("b", 50.0, "a")], "ab"),
        ([Start("a", 100.0), Start("b", 50.0, "a"), Start("c", 40.0, "b")], "abc"),
        ([Start("a", 100.0), Start("b", 50.0, "a"), Start("c", 150.0, "b")], "abc"),
        ([Start("z", 99.0), Start("a", 100.0), Start("b", 50.0, "a"), Start("c", 101.0)], "zabc"),
        # Resumed twice from the same checkpoint.
        ([Start("a", 1.0), Start("b", 2.0, "a"), Start("c", 3.0, "a")], "abc"),
        # Resumed from an unknown attempt, or from an invalid one.
        ([Start("a", 2.0, "x"), Start("b", 1.0)], "ba"),
        ([Start("a", 1.0, "b"), Start("b", 2.0, "a")], "ba"),
        ([Start("a", 1.0, "a")], "a"),
        ([Start("a", 1.0, "c"), Start("b", 3.0, "a"), Start("c", 2.0, "b")], "bca"),
        (
            [Start("a", 9.0, "b"), Start("b", 2.0, "a"), Start("c", 3.0, "b"), Start("d", 9.5)],
            "abcd",
        ),
    ],
)
def test_attempts_are_sorted_by_start_and_resumed_checkpoint(
    starts: list[Start], order: str
) -> None:
    for mixed in itertools.permutations(starts):
        assert "".join(start.attempt for start in order_attempts(mixed)) == order


@pytest.mark.parametrize("first", [None, "n19999"])
def test_a_long_chain_of_attempts_is_sorted_quickly(first: str | None) -> None:
    """Each attempt resumes the one before; the first resumes none, or an invalid one.

    The clock of the first is ahead, or all clocks are equal.
    """
    starts = [Start(f"n{n:05}", 1.0, f"n{n - 1:05}" if n else first) for n in range(20_000)]
    began = time.process_time()
    assert len(order_attempts(reversed(starts))) == len(starts)
    if first is None:
        assert order_attempts([Start("n00000", 9.0), *starts[:0:-1]]) == [
            Start("n00000", 9.0),
            *starts[1:],
        ]
    assert time.process_time() - began < 5.0
