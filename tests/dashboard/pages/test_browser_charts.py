"""Charts of long and of resumed runs in Chromium."""

from __future__ import annotations

import random
from statistics import fmean
from typing import Any

import pytest

from tests.dashboard.conftest import Harness
from tests.dashboard.pages.browsing import LOSS, drawn, expect, visit
from tests.dashboard.synthetic import Training

pytestmark = pytest.mark.browser


def record_losses(harness: Harness, training: Training, losses: list[float]) -> None:
    """Log a loss at each step."""
    stream, feeder = training.stream, harness.feeder
    events = [
        feeder.event(stream, "log", training.began + step / 100, step, {"logs": {"loss": loss}})
        for step, loss in enumerate(losses, 1)
    ]
    feeder.feed(stream, events)


def trace(page: Any, index: int) -> dict[str, Any]:
    """What plotly draws of a trace of the loss."""
    script = f"""plot => {{
      const {{ x, y, fill, line }} = plot.data[{index}];
      return {{ x: Array.from(x), y: Array.from(y), fill, color: line?.color }};
    }}"""
    found: dict[str, Any] = page.eval_on_selector(LOSS, script)
    return found


def wait_for(page: Any, condition: str) -> None:
    """Wait until ``condition`` holds for ``data``, the traces of the loss."""
    page.wait_for_function(
        f'() => {{ const data = document.querySelector("{LOSS}")?.data; return {condition}; }}'
    )


def test_the_smoothed_curve_of_a_long_run_is_its_mean_at_every_zoom(
    harness: Harness, site: str, page: Any
) -> None:
    noise = random.Random(1)
    losses = [1.0 + noise.expovariate(1.0) for _ in range(6000)]
    training = harness.begin("long", steps=6000)
    record_losses(harness, training, losses)
    training.heartbeat(harness.feeder, training.began + 60, 6000)
    visit(page, f"{site}/runs/long")
    assert len(drawn(page, "loss")) < 1000
    band = trace(page, 1)
    assert band["fill"] == "toself"
    values = [value for value in band["y"] if value is not None]
    assert (min(values), max(values)) == (min(losses), max(losses))
    means = [value for value in drawn(page, "loss") if value is not None]
    assert fmean(means) == pytest.approx(fmean(losses), abs=0.05)

    page.get_by_label("Smoothing").fill("0.95")
    wait_for(page, "data?.[2]?.fill === 'toself'")
    whole = trace(page, 1)
    late = [value for at, value in zip(whole["x"], whole["y"], strict=True) if at > 1000]
    assert max(abs(value - fmean(losses)) for value in late) < 0.45
    page.evaluate(
        f"""Plotly.relayout(document.querySelector("{LOSS}"), {{ "xaxis.range": [3000, 3300] }})"""
    )
    wait_for(page, "data[0].x[0] > 2990 && data[0].x.at(-1) < 3310")
    zoomed = trace(page, 1)
    assert (zoomed["x"][0], zoomed["x"][-1]) == (3000, 3300)
    known = dict(zip(whole["x"], whole["y"], strict=True))
    inside = [
        (at, value) for at, value in zip(zoomed["x"], zoomed["y"], strict=True) if at in known
    ]
    assert len(inside) >= 35
    assert [value for _, value in inside] == [known[at] for at, _ in inside]


def test_a_resumed_run_opens_on_the_stitched_curve_with_superseded_parts_faint(
    harness: Harness, site: str, page: Any
) -> None:
    first = harness.begin(upto=30)
    first.train(harness.feeder)
    again = harness.begin(attempt="20261121T093000-aaaa", resumed=(first.attempt, 20), seed=2)
    again.end(harness.feeder, again.train(harness.feeder))
    visit(page, f"{site}/runs/tiny-1")
    stitched = page.get_by_role("button", name="Stitched")
    expect(stitched).to_have_attribute("aria-pressed", "true")
    drawn(page, "loss")
    assert trace(page, 0)["x"] == [5, 10, 15, 20, 25, 30, 35, 40]
    faint = trace(page, 1)
    assert (faint["x"], "0.3)" in faint["color"]) == ([25, 30], True)
    assert trace(page, 2)["x"] == [20, 40]  # evaluations

    page.get_by_role("button", name="Attempt 1").click()
    expect(stitched).to_have_attribute("aria-pressed", "false")
    wait_for(page, "data[0].x.length === 6")
    page.get_by_role("button", name="Attempt 2").click()
    wait_for(page, "data[1].x.length === 4")
    assert trace(page, 0)["x"] == [5, 10, 15, 20, 25, 30]
    for name in ("Attempt 2", "Attempt 1"):
        page.get_by_role("button", name=name).click()
    expect(stitched).to_have_attribute("aria-pressed", "true")
    wait_for(page, "data[0].x.length === 8")


def test_a_diverged_part_that_was_superseded_does_not_stretch_the_chart(
    harness: Harness, site: str, page: Any
) -> None:
    first = harness.begin("diverged")
    record_losses(harness, first, [2.0] * 20 + [1e6] * 10)
    again = harness.begin(
        "diverged", attempt="20261121T093000-aaaa", resumed=(first.attempt, 20), upto=40
    )
    again.end(harness.feeder, again.train(harness.feeder))
    visit(page, f"{site}/runs/diverged")
    drawn(page, "loss")
    low, high = page.eval_on_selector(LOSS, "plot => plot.layout.yaxis.range")
    assert high - low < 20


def test_the_cursor_shows_the_newest_value_of_a_step_that_was_counted_again(
    harness: Harness, site: str, page: Any
) -> None:
    training = harness.begin("again", steps=10)
    stream, feeder = training.stream, harness.feeder
    for epoch in range(3):
        for step in range(1, 11):
            at = training.began + 10 * epoch + step
            values = {"loss": 100.0 * epoch + step, "score": 0.5}
            feeder.record(stream, "log", at, step, {"logs": values})
    visit(page, f"{site}/runs/again")
    drawn(page, "loss")
    drawn(page, "score")
    for step in range(2, 10):
        x, y = page.eval_on_selector(
            "figure[data-metric='score'] .plot",
            """(plot, step) => {
              const { left, top } = plot.getBoundingClientRect();
              const { xaxis, yaxis } = plot._fullLayout;
              return [left + xaxis._offset + xaxis.d2p(step), top + yaxis._offset + yaxis.d2p(0.5)];
            }""",
            step,
        )
        page.mouse.move(x, y)
        value = page.locator("figure[data-metric='loss'] .value")
        expect(value).to_have_text(f"step {step} · {200 + step}")


def test_a_constant_value_does_not_stand_at_zero(harness: Harness, site: str, page: Any) -> None:
    training = harness.begin("constant", steps=10)
    record_losses(harness, training, [1e-4] * 10)
    visit(page, f"{site}/runs/constant")
    drawn(page, "loss")
    low, high = page.eval_on_selector(LOSS, "plot => plot._fullLayout.yaxis.range")
    assert 0 < low < 1e-4 < high < 2e-4
