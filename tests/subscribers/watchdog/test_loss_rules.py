"""Losses that must and must not raise an alert."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from lineside.subscribers.watchdog.loss_track import LossTrack
from lineside.subscribers.watchdog.observation import RunObservation
from lineside.subscribers.watchdog.rules.loss import Divergence, LossSpike, NotFinite
from lineside.subscribers.watchdog.series import NonFinite
from tests.subscribers.watchdog.observing import NOW, findings, losses, observed, points, run

Noise = Callable[[random.Random], float]


def falling(count: int, start: float = 10.0, end: float = 2.0, half: int = 40) -> list[float]:
    """A loss that falls from ``start`` towards ``end``, half of the way in ``half`` values."""
    return [end + (start - end) * 0.5 ** (step / half) for step in range(count)]


def noisy(values: list[float], noise: Noise, seed: int = 1) -> list[float]:
    source = random.Random(seed)
    return [value * noise(source) for value in values]


def gauss(width: float) -> Noise:
    return lambda source: max(0.05, source.gauss(1, width))


def heavy(width: float) -> Noise:
    """Losses of single, very different examples."""
    return lambda source: source.lognormvariate(0, width)


HEALTHY = {
    "smooth": falling(400),
    "noisy": noisy(falling(400), gauss(0.2)),
    "heavy-tailed": noisy(falling(400), heavy(0.8)),
    "small": noisy(falling(300, 0.7, 0.02), heavy(0.7)),
    "long flat": noisy([2.0] * 600, gauss(0.05)),
    "a step down in the learning rate": noisy([3.0] * 150 + [2.0] * 150, gauss(0.05)),
    "another data set": noisy([2.0] * 150 + [2.6] * 150, gauss(0.05)),
    "reinforcement learning": [0.0] * 20 + noisy([0.001 * step for step in range(300)], gauss(0.5)),
    "negative": [-value for value in noisy(falling(300), gauss(0.3))],
    "constant": [0.5] * 300,
    "few values": noisy([10.0, 8.0, 60.0, 7.0, 6.0], gauss(0.1)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_loss_is_no_alert_at_any_of_its_values(name: str, seed: int) -> None:
    values = HEALTHY[name]
    if seed:
        source = random.Random(seed)
        values = [value * source.gauss(1, 0.02) for value in values]
    track = LossTrack()
    run = observed(losses={"loss": track})
    for index, point in enumerate(points(values)):
        track.add([point])
        assert findings(Divergence(), run) == [], f"value {index}"
        assert findings(LossSpike(), run) == [], f"value {index}"


def test_a_higher_loss_after_a_restart_of_the_learning_rate_is_no_divergence() -> None:
    rates = [1e-4] * 200 + [1e-3] * 20
    values = noisy(falling(200, 4.0, 1.0) + [2.2] * 20, gauss(0.03))
    assert findings(Divergence(), observed(losses={"loss": losses(values, rates)})) == []
    assert findings(Divergence(), observed(losses={"loss": losses(values, [1e-4] * 220)}))


def test_a_resumed_attempt_is_judged_by_its_own_values() -> None:
    lowest_of_the_attempt_before = 0.5
    values = noisy([2.4 * lowest_of_the_attempt_before] * 120, gauss(0.05))
    run = observed(losses={"loss": losses(values)})
    assert findings(Divergence(), run) == []
    assert findings(LossSpike(), run) == []


@pytest.mark.parametrize("noise", [gauss(0.01), gauss(0.2), heavy(0.5)])
def test_a_loss_that_climbs_back_has_diverged(noise: Noise) -> None:
    values = noisy(falling(200) + [2.0 * 1.08**step for step in range(25)], noise)
    [found] = findings(Divergence(), observed(losses={"loss": losses(values)}))
    assert found.subject == "loss"
    assert found.summary.startswith("loss is at ")
    assert found.action == "lineside stop run --no-save"


def test_a_loss_that_explodes_in_the_warm_up_of_the_learning_rate_has_diverged() -> None:
    values = falling(25, 11.0, 9.0, 10) + [40.0] * 30
    rates = [step * 1e-5 for step in range(55)]
    [found] = findings(Divergence(), observed(losses={"loss": losses(values, rates)}))
    assert "above where it began" in found.summary


def test_a_divergence_is_over_when_the_loss_is_back() -> None:
    track = losses(falling(200) + [9.0] * 20)
    run = observed(losses={"loss": track})
    assert findings(Divergence(), run)
    track.add(points([2.2] * 20, first=221))
    assert findings(Divergence(), run) == []


@pytest.mark.parametrize("noise", [gauss(0.02), gauss(0.15), heavy(0.3)])
def test_a_value_far_above_the_others_is_a_spike_until_three_are_usual(noise: Noise) -> None:
    before = noisy(falling(150), noise)
    track = losses([*before, 60.0])
    run = observed(losses={"loss": track})
    [found] = findings(LossSpike(), run)
    assert found.summary.startswith("loss rose to 60 at step 151, from 2.")
    track.add(points([2.5, 2.6], first=152))
    assert findings(LossSpike(), run)
    track.add(points([2.4], first=154))
    assert findings(LossSpike(), run) == []


def test_another_value_as_high_is_no_spike_and_neither_is_another_level() -> None:
    track = losses([*noisy([1.0] * 100, gauss(0.02)), 9.0, 1.0, 1.0, 1.0, 9.5, 9.0])
    assert findings(LossSpike(), observed(losses={"loss": track})) == []


def test_the_first_values_of_an_attempt_are_no_spike() -> None:
    assert findings(LossSpike(), observed(losses={"loss": losses([1.0] * 15 + [50.0])})) == []


def counted(*values: float) -> NonFinite:
    found = NonFinite()
    found.add(points(values))
    return found


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("loss", [1.0, math.nan], "loss is NaN since step 2"),
        ("eval_loss", [1.0, math.inf, math.inf], "eval_loss is inf since step 2"),
        ("train/kl_loss", [-math.inf], "train/kl_loss is -inf since step 1"),
        ("grad_norm", [1.0, *[math.nan] * 5], "grad_norm is NaN since step 2"),
        ("rewards/format/mean", [math.nan] * 5, "rewards/format/mean is NaN since step 1"),
    ],
)
def test_values_that_are_not_finite(name: str, values: list[float], text: str) -> None:
    [found] = findings(NotFinite(), observed(non_finite={name: counted(*values)}))
    assert (found.subject, found.summary) == (name, text)
    is_warning = name.startswith("rewards/")  # NaN where it does not apply
    assert found.severity == ("warning" if is_warning else None)
    assert found.action == ("lineside show run" if is_warning else "lineside stop run --no-save")


def test_a_gradient_of_nan_with_a_loss_of_zero_is_the_nan_that_trainer_hides() -> None:
    for loss, expected in ((0.0, 1), (2.0, 0)):
        hidden = RunObservation(run(metrics={"loss": loss}), NOW)
        hidden.non_finite["grad_norm"] = counted(1.0, math.nan)
        assert len(findings(NotFinite(), hidden)) == expected


def test_the_loss_of_a_training_by_reward_is_not_judged() -> None:
    track = losses([1e-4 * 1.2**step for step in range(60)] + [90.0])
    for metrics, expected in (({"loss": 90.0}, 1), ({"reward": 0.5}, 0)):
        trained = RunObservation(run(metrics=metrics), NOW, losses={"loss": track})
        found = [one for rule in (Divergence(), LossSpike()) for one in findings(rule, trained)]
        assert len(found) == expected


def test_the_rounding_of_a_small_loss_is_no_spike() -> None:
    track = losses([*falling(100), *[1e-4] * 100, 4e-4])
    assert findings(LossSpike(), observed(losses={"loss": track})) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("loss", [math.nan, 1.0]),
        ("grad_norm", [math.inf] * 4),
        ("grad_norm", [math.inf, 1.0] * 10),
        ("eval_pearson", [math.nan] * 2),
    ],
)
def test_a_finite_loss_and_the_first_gradients_of_fp16_are_sound(
    name: str, values: list[float]
) -> None:
    assert findings(NotFinite(), observed(non_finite={name: counted(*values)})) == []


@pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
def test_a_run_that_has_ended_has_no_alerts_about_its_values(status: str) -> None:
    track = losses(falling(200) + [90.0] * 20)
    run = observed(status, None, losses={"loss": track}, non_finite={"loss": counted(math.nan)})
    for rule in (Divergence(), LossSpike(), NotFinite()):
        assert findings(rule, run) == []
