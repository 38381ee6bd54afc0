"""A changed learning rate, against every schedule of torch and transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torch_schedules
from transformers import get_scheduler

from lineside.emitter.control import learning_rate

Make = Callable[[Any], Any]

SCALABLE: dict[str, Make] = {
    "LambdaLR": lambda o: torch_schedules.LambdaLR(o, lambda step: 0.9**step),
    "StepLR": lambda o: torch_schedules.StepLR(o, 3),
    "MultiStepLR": lambda o: torch_schedules.MultiStepLR(o, [2, 6]),
    "ExponentialLR": lambda o: torch_schedules.ExponentialLR(o, 0.9),
    "MultiplicativeLR": lambda o: torch_schedules.MultiplicativeLR(o, lambda step: 0.95),
    "ConstantLR": lambda o: torch_schedules.ConstantLR(o, 0.5, 6),
    "LinearLR": lambda o: torch_schedules.LinearLR(o, 0.5, 1.0, 8),
    "PolynomialLR": lambda o: torch_schedules.PolynomialLR(o, 20, 2.0),
} | {
    name: (lambda o, name=name: get_scheduler(name, o, 2, 40))
    for name in ("linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt")
}
OTHERS: dict[str, Make] = {
    "CosineAnnealingLR": lambda o: torch_schedules.CosineAnnealingLR(o, 10, 0.01),
    "OneCycleLR": lambda o: torch_schedules.OneCycleLR(o, 1.0, 20),
    "ReduceLROnPlateau": torch_schedules.ReduceLROnPlateau,
    "SequentialLR": lambda o: torch_schedules.SequentialLR(
        o, [torch_schedules.ConstantLR(o), torch_schedules.ExponentialLR(o, 0.9)], [3]
    ),
}


def optimizer(rate: Any = 0.1) -> torch.optim.Optimizer:
    one, other = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    return torch.optim.AdamW([{"params": [one]}, {"params": [other], "lr": rate / 10}], lr=rate)


def run(made: Any, schedule: Any, steps: int) -> list[list[float]]:
    seen = []
    for _ in range(steps):
        made.step()
        schedule.step()
        seen.append([float(group["lr"]) for group in made.param_groups])
    return seen


@pytest.mark.parametrize("name", SCALABLE)
def test_the_rest_of_the_schedule_is_scaled(name: str) -> None:
    plain = optimizer()
    expected = run(plain, SCALABLE[name](plain), 12)
    made = optimizer()
    schedule = SCALABLE[name](made)
    run(made, schedule, 4)
    before = learning_rate.prepare(made, schedule, 0.5)()
    assert before == pytest.approx(expected[3][0])
    assert made.param_groups[0]["lr"] == pytest.approx(0.5)
    assert schedule.get_last_lr() == [group["lr"] for group in made.param_groups]
    factor = 0.5 / before
    for there, wanted in zip(run(made, schedule, 8), expected[4:], strict=True):
        assert there == pytest.approx([rate * factor for rate in wanted])


@pytest.mark.parametrize("name", SCALABLE)
def test_a_checkpoint_keeps_the_changed_rate(name: str) -> None:
    made = optimizer()
    schedule = SCALABLE[name](made)
    run(made, schedule, 4)
    learning_rate.prepare(made, schedule, 0.5)()
    again = optimizer()
    resumed = SCALABLE[name](again)
    again.load_state_dict(made.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for there, wanted in zip(run(again, resumed, 8), run(made, schedule, 8), strict=True):
        assert there == pytest.approx(wanted)


@pytest.mark.parametrize("name", OTHERS)
def test_a_schedule_that_may_not_keep_the_rate_is_refused(name: str) -> None:
    made = optimizer()
    schedule = OTHERS[name](made)
    there = [group["lr"] for group in made.param_groups]
    with pytest.raises(learning_rate.CannotChangeRate, match=name):
        learning_rate.prepare(made, schedule, 0.5)()
    assert [group["lr"] for group in made.param_groups] == there


def test_a_rate_of_zero_cannot_be_scaled() -> None:
    made = optimizer()
    schedule = torch_schedules.LambdaLR(made, lambda _: 0.0)
    with pytest.raises(
        learning_rate.CannotChangeRate, match="a learning rate of 0, which has no scale"
    ):
        learning_rate.prepare(made, schedule, 0.5)()


def test_a_rate_too_far_from_the_current_one_is_refused() -> None:
    made = optimizer()
    for group in made.param_groups:
        group["lr"] = 1e-308
    with pytest.raises(learning_rate.CannotChangeRate, match="cannot be reached from a rate of"):
        learning_rate.prepare(made, None, 100.0)


def test_a_tensor_rate_is_changed_in_place() -> None:
    made = optimizer(torch.tensor(0.1))
    tensor = made.param_groups[0]["lr"]
    learning_rate.prepare(made, None, 0.5)()
    assert made.param_groups[0]["lr"] is tensor
    assert float(tensor) == pytest.approx(0.5)


@pytest.mark.parametrize("odd", [None, object()])
def test_an_optimizer_without_a_rate_is_refused(odd: object) -> None:
    with pytest.raises(learning_rate.CannotChangeRate, match="has no parameter groups"):
        learning_rate.prepare(odd, None, 0.5)()
