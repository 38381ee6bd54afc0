"""When rules act, as a table of sequences; patience is compared with transformers' callback."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn, optim
from transformers import EarlyStoppingCallback, Trainer

from tests.subscribers.stopper.synthetic_run import SyntheticRun, make_rule_engine, triggered

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        # Any better value becomes the best; the second and third are no better.
        ({"patience": 2}, [3, 2, 2, 2], [4]),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.8, 2.6], [3]),
        ({"patience": 1}, [3, 2, 1], []),
        ({"patience": 1, "mode": "max"}, [3, 2, 1], [2]),
        ({"patience": 2}, [NAN, NAN, NAN], [3]),
        # A baseline is fixed: values that improve without beating it do not count.
        ({"patience": 3, "baseline": 1.0}, [5, 4, 3, 2], [3]),
        ({"patience": 2, "baseline": 1.0}, [5, 0.9, 5, 5], [4]),
        ({"patience": 2, "baseline": 1.0, "min_delta": 0.2}, [0.9, 0.9], [2]),
        ({"threshold": 0.5}, [3, 0.6, 0.5], [3]),
        ({"threshold": 0.5, "mode": "max"}, [0.1, NAN, 0.7], [3]),
        ({"divergence": 1.0}, [3, 2, 3, 3.1], [4]),
        ({"divergence": 1.0}, [3, NAN], [2]),
        ({"divergence": 1.0}, [NAN, 3, NAN], [1, 3]),
        ({"not_finite": 1}, [3, INF], [2]),
        ({"not_finite": 2}, [NAN, 3, NAN, NAN], [4]),
        # A rule that still holds is silent until its command has expired.
        ({"threshold": 3}, [3] * 65, [1, 61]),
        ({"threshold": 3, "cool_down": 1}, [3] * 5, [1, 3, 5]),
        ({"patience": 1, "cool_down": 2}, [3] * 8, [2, 5, 8]),
        ({"threshold": 3}, [3, 4, 3], [1, 3]),
        ({"patience": 1, "start_after": "2 evaluations"}, [3, 3, 3, 3], [4]),
        ({"patience": 1, "start_after": "2 steps"}, [3, 3, 3, 3], [4]),
        ({"patience": 1, "start_after": 2}, [1, 1, 3, 2], []),
    ],
)
def test_a_rule_acts_at_the_expected_values(
    rule: dict[str, Any], values: list[float], expected: list[int]
) -> None:
    assert triggered({"monitor": "eval_loss", "action": "alert", **rule}, values) == expected


_values = st.lists(
    st.sampled_from([0.5, 1.0, 1.25, 1.5, 2.0, NAN, INF, -INF]) | st.floats(-3, 3),
    min_size=1,
    max_size=25,
)


@given(
    values=_values,
    patience=st.integers(1, 5),
    delta=st.sampled_from([0.0, 0.25, 1.0]),
    is_greater=st.booleans(),
    on_start=st.booleans(),
)
def test_patience_equals_the_early_stopping_callback(
    values: list[float], patience: int, delta: float, is_greater: bool, on_start: bool
) -> None:
    """The callback of transformers, and the Trainer's method that updates the best metric."""
    args = SimpleNamespace(
        metric_for_best_model="eval_loss", greater_is_better=is_greater, save_strategy="no"
    )
    state = SimpleNamespace(best_metric=None, global_step=0)
    trainer = SimpleNamespace(args=args, state=state)
    callback = EarlyStoppingCallback(patience, delta)
    expected: list[int] = []
    for step, value in enumerate(values):
        control = SimpleNamespace(should_training_stop=False)
        metrics = {"eval_loss": value}
        callback.on_evaluate(args, state, control, metrics)
        if control.should_training_stop:
            expected = [step]
            break
        if step > 0 or not on_start:
            Trainer._determine_best_metric(trainer, metrics, None)

    mode = "max" if is_greater else "min"
    rule = {"monitor": "eval_loss", "patience": patience, "min_delta": delta, "mode": mode}
    first, *others = values
    script = SyntheticRun(make_rule_engine(rule), on_start=first if on_start else None)
    script.evaluate(*(others if on_start else values))
    steps = [trigger.step - (not on_start) for trigger in script.triggers]
    assert steps[:1] == expected


@given(
    values=st.lists(st.integers(0, 6).map(float), min_size=1, max_size=40),
    patience=st.integers(1, 4),
    cool_down=st.integers(0, 3),
)
def test_a_plateau_equals_torchs_reduce_lr_on_plateau(
    values: list[float], patience: int, cool_down: int
) -> None:
    """Torch counts from 0: its patience is one evaluation less."""
    optimizer = optim.SGD([nn.Parameter()], lr=1.0)
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience - 1, threshold=0.0, cooldown=cool_down, eps=0.0
    )
    rates = []
    for value in values:
        before = optimizer.param_groups[0]["lr"]
        scheduler.step(value)
        if optimizer.param_groups[0]["lr"] < before:
            rates.append(optimizer.param_groups[0]["lr"])
    script = SyntheticRun(
        make_rule_engine(
            {
                "monitor": "eval_loss",
                "patience": patience,
                "action": "set_lr",
                "factor": 0.5,
                "cool_down": cool_down,
            }
        )
    )
    script.train(learning_rate=1.0)
    script.evaluate(*values)
    assert [trigger.args["lr"] for trigger in script.triggers] == rates
