"""Which steps of each attempt count, by the checkpoints from which later ones resumed."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from lineside.store.status.lineage import last_counted_steps


@dataclass(frozen=True)
class Steps:
    attempt: str
    step: int | None
    resumed_attempt: str | None = None
    resumed_step: int | None = None


def counted(*attempts: Steps, **first_steps: int) -> list[float]:
    return last_counted_steps(attempts, first_steps)


def test_all_steps_of_a_single_attempt_count() -> None:
    assert counted(Steps("a", 5), a=1) == [inf]
    assert counted() == []


def test_of_the_resumed_attempt_the_steps_up_to_the_checkpoint_count() -> None:
    assert counted(Steps("a", 130), Steps("b", 180, "a", 100), a=1, b=101) == [100, inf]
    assert counted(Steps("a", 130), Steps("b", None, "a", 100), a=1) == [100, inf]


def test_each_resume_limits_all_attempts_before_it() -> None:
    a, b = Steps("a", 130), Steps("b", 180, "a", 100)
    assert counted(a, b, Steps("c", 200, "b", 150)) == [100, 150, inf]
    assert counted(a, b, Steps("c", 200, "b", 60)) == [60, 60, inf]


def test_an_attempt_that_was_not_resumed_is_left_out() -> None:
    a, b = Steps("a", 130), Steps("b", 150, "a", 50)
    assert counted(a, b, Steps("c", 200, "a", 100)) == [100, -inf, inf]


def test_a_checkpoint_without_an_attempt_is_of_the_attempt_before() -> None:
    assert counted(Steps("a", 130), Steps("b", 180, None, 100)) == [100, inf]


def test_a_checkpoint_of_another_run_continues_no_attempt() -> None:
    assert counted(Steps("a", 130), Steps("b", 180, "elsewhere", 100)) == [-inf, inf]


def test_an_attempt_from_the_first_step_on_repeats_all_before() -> None:
    assert counted(Steps("a", 130), Steps("b", 3), a=1, b=1) == [0, inf]


def test_a_loop_that_continues_without_a_checkpoint_keeps_the_steps_before() -> None:
    assert counted(Steps("a", 130), Steps("b", 300), a=0, b=120) == [119, inf]


def test_an_attempt_without_a_step_of_its_own_repeats_nothing() -> None:
    assert counted(Steps("a", 130), Steps("b", None), a=1) == [inf, inf]
    assert counted(Steps("a", 130), Steps("b", 0), a=1, b=0) == [inf, inf]


def test_attempts_that_resumed_each_other_end_the_search() -> None:
    assert counted(Steps("a", 9, "b", 5), Steps("b", 9, "a", 4)) == [4, inf]
