"""Charts in Chromium of producers beside the training."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lineside.bus.protocol.events import Stream
from tests.dashboard.conftest import Harness
from tests.dashboard.pages.browsing import expect, visit

pytestmark = pytest.mark.browser


def test_charts_of_an_evaluator_stand_apart_and_grow(
    harness: Harness, site: str, page: Any
) -> None:
    harness.train()
    evaluator = Stream("tiny-1", "evaluator", "20261121T090000-eeee")

    def report(step: int, loss: float) -> None:
        harness.feeder.record(evaluator, "metrics", time.time(), step, {"metrics": {"loss": loss}})

    report(5, 9.0)
    report(10, 8.0)
    visit(page, f"{site}/runs/tiny-1")
    chart = "figure[data-producer='evaluator'][data-metric='loss'] .plot"
    expect(page.locator("h3", has_text="From evaluator")).to_be_visible()
    page.locator(chart).scroll_into_view_if_needed()
    page.wait_for_function("chart => document.querySelector(chart).data", arg=chart)
    assert page.eval_on_selector(chart, "plot => plot.data[0].y") == [9.0, 8.0]
    expect(page.locator("#link-state")).to_have_text("Live")
    report(15, 7.0)
    page.wait_for_function(
        "chart => document.querySelector(chart).data[0].y.length === 3", arg=chart
    )
    loss = "figure[data-producer='rank0'][data-metric='loss'] .plot"
    assert page.eval_on_selector(loss, "plot => plot.data[0].y.length") == 8


def test_charts_of_a_subscriber_show_the_attempts_chosen(
    harness: Harness, site: str, page: Any
) -> None:
    first = harness.begin(upto=30)
    first.train(harness.feeder)
    again = harness.begin(attempt="20261121T093000-aaaa", resumed=(first.attempt, 20), seed=2)
    again.train(harness.feeder)
    # A subscriber's streams have the names of the attempts, those of a sampler do not.
    own, sampler = Stream("tiny-1", "quality", first.attempt), Stream("tiny-1", "sampler", "s1")
    for stream, step, metrics in (
        (own, 20, {"f1": 0.25}),
        (own, 10, {"f1": 0.5}),
        (own._replace(attempt=again.attempt), 30, {"f1": 0.75}),
        (sampler, 10, {"gpu": 80.0}),
        (sampler, 20, {"gpu": 90.0}),
    ):
        harness.feeder.record(stream, "metrics", time.time(), step, {"metrics": metrics})
    visit(page, f"{site}/runs/tiny-1")
    f1, gpu = (f"figure[data-metric='{name}'] .plot" for name in ("f1", "gpu"))
    curves = "plot => plot.data?.filter((trace) => trace.yaxis !== 'y2').map((trace) => trace.y)"
    page.locator(gpu).scroll_into_view_if_needed()
    page.wait_for_function("gpu => document.querySelector(gpu).data", arg=gpu)
    assert page.eval_on_selector(f1, curves) == [[0.5, 0.25, 0.75]]
    page.get_by_role("button", name="Attempt 2").click()
    page.locator(f1).scroll_into_view_if_needed()
    page.wait_for_function(f"f1 => ({curves})(document.querySelector(f1))[0].length === 1", arg=f1)
    assert page.eval_on_selector(f1, curves) == [[0.75]]
    page.get_by_role("button", name="Attempt 1").click()
    page.locator(gpu).scroll_into_view_if_needed()
    page.wait_for_function(f"f1 => ({curves})(document.querySelector(f1)).length === 2", arg=f1)
    assert page.eval_on_selector(f1, curves) == [[0.5, 0.25], [0.75]]
    assert page.eval_on_selector(gpu, curves) == [[80.0, 90.0]]


def test_a_chart_without_points_in_the_chosen_attempts_shows_a_message(
    harness: Harness, site: str, browser: Any
) -> None:
    first = harness.begin(upto=30)
    first.train(harness.feeder)
    again = harness.begin(attempt="20261121T093000-aaaa", resumed=(first.attempt, 20), seed=2)
    again.train(harness.feeder)
    own = Stream("tiny-1", "quality", first.attempt)
    for step in (10, 20):
        harness.feeder.record(own, "metrics", time.time(), step, {"metrics": {"f1": 0.5}})
    page = browser.new_page()  # whose console may report the curve that does not exist
    visit(page, f"{site}/runs/tiny-1")
    f1 = page.locator("figure[data-metric='f1'] .plot")
    page.get_by_role("button", name="Attempt 2").click()
    f1.scroll_into_view_if_needed()
    expect(f1.locator(".empty-text")).to_have_text("Not logged in the attempts shown.")
    expect(f1.locator(".empty-text")).to_be_visible()
    page.get_by_role("button", name="Attempt 1").click()
    f1.scroll_into_view_if_needed()
    expect(f1.locator(".js-line")).to_have_count(1)
    expect(f1.locator(".empty-text")).to_be_hidden()
    page.close()


def test_a_machines_metrics_are_a_section_drawn_over_time_in_units(
    harness: Harness, site: str, page: Any
) -> None:
    harness.train()
    sampler, began = Stream("tiny-1", "sampler-node-1", "20261121T090000-5555"), time.time() - 60
    for place in range(3):
        metrics = {
            "host/cpu_ratio": 0.5,
            "host/memory_used_bytes": 1.5e9 + place,
            "host/memory_total_bytes": 4e9,
            "gpu0/power_watts": 300.0 + place,
            "gpu10/power_watts": 310.0,
        }
        # Three samples at one step, as in a long evaluation.
        at = began + 10 * place
        harness.feeder.record(sampler, "metrics", at, 20, {"metrics": metrics})
    visit(page, f"{site}/runs/tiny-1")
    page.get_by_role("link", name="System").click()
    heading = page.locator("#system h3")
    expect(heading).to_have_text("System: node-1")
    expect(heading).to_be_in_viewport()
    assert page.locator("h3", has_text="System").all_inner_texts() == [
        "System: node-1",
        "System: node-1, GPU 0",
        "System: node-1, GPU 10",
    ]
    memory = page.locator("figure[data-metric='host/memory_used_bytes']")
    memory.scroll_into_view_if_needed()
    expect(memory.locator(".value")).to_have_text("1.5 GB")
    expect(memory.locator(".js-line")).to_have_count(1)
    x = memory.locator(".plot").evaluate("plot => plot.data[0].x")
    assert [round((at - x[0]) / 1000) for at in x] == [0, 10, 20]
    assert page.locator("figure[data-metric='host/memory_total_bytes']").count() == 0
    loss = page.locator("figure[data-producer='rank0'][data-metric='loss']")
    loss.scroll_into_view_if_needed()
    expect(loss.locator(".js-line")).to_have_count(1)
    assert loss.locator(".plot").evaluate("plot => plot.data[0].x[0]") == 5
