"""Widths, contrast and shifts of the pages in Chromium."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.protocol.alerts import SEVERITIES
from lineside.store.recording.writer import Writer
from tests.dashboard.alerts import record_alert
from tests.dashboard.checkpoints import record_every_state
from tests.dashboard.conftest import Harness
from tests.dashboard.pages.browsing import (
    LOSS,
    drawn,
    expect,
    open_page,
    record_command_states,
    visit,
)

pytestmark = pytest.mark.browser

LOW_CONTRAST = Path(__file__).with_name("contrast.js")
SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.shifted += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_enough_contrast(harness: Harness, site: str, browser: Any, scheme: str) -> None:
    record_every_state(harness, harness.train(save_every=2))
    live = harness.begin("live")
    record_command_states(harness, live)
    lost = harness.begin("lost")
    lost.end(
        harness.feeder, lost.train(harness.feeder, 1, 5), "exception", {"type": "E", "message": "m"}
    )
    for severity in SEVERITIES:
        record_alert(harness, severity, severity=severity)
        record_alert(harness, f"old {severity}", severity=severity, state="closed")
    with open_page(browser, color_scheme=scheme) as page:
        for url in ("/", "/runs/tiny-1", "/runs/lost", "/runs/live", "/alerts"):
            visit(page, site + url)
            assert page.evaluate(LOW_CONTRAST.read_text()) == []


@pytest.mark.parametrize("width", [390, 1440])
def test_the_layout_fits_the_width_and_does_not_shift(
    harness: Harness, site: str, browser: Any, width: int
) -> None:
    training = harness.train(name="a name that goes on and on " * 6, project="p" * 60)
    record_command_states(harness, training)
    record_every_state(harness, training, why="w" * 200)
    Writer(harness.engine).update_run(training.run, tags=["t" * 90], group="g" * 90)
    long = dict.fromkeys(("rule", "subject", "summary", "action"), "w" * 200)
    record_alert(harness, "long", details={"d" * 90: "w" * 300, "output": "o" * 300 + "\n"}, **long)
    with open_page(browser, viewport={"width": width, "height": 900}) as page:
        page.add_init_script(SHIFTS)
        for url in ("/", "/runs/tiny-1", "/alerts"):
            visit(page, site + url)
            expect(page.locator("#link-state")).to_have_text("Live")
            if url == "/runs/tiny-1":
                page.locator(LOSS).scroll_into_view_if_needed()
                drawn(page, "loss")
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            assert page.evaluate("window.shifted") < 0.02


def test_the_run_list_shows_whole_columns_at_every_width(
    harness: Harness, site: str, page: Any
) -> None:
    harness.train(name="a name that goes on and on " * 6, project="p" * 60)
    harness.begin("steps", steps=1_000_000_000, began=time.time())
    harness.feeder.writer = Writer(harness.engine, clock=lambda: time.time() - 60)
    silent = harness.begin("silent")
    harness.feeder.record(silent.stream, "log", silent.began + 1, 1, {"logs": {"loss": -0.005012}})
    visit(page, site)
    expect(page.locator("#run-silent .status")).to_have_text("disconnected")
    for width, hidden in ((1440, 0), (1041, 0), (1040, 1), (861, 1), (860, 2), (390, 2)):
        page.set_viewport_size({"width": width, "height": 900})
        cells = page.evaluate(
            """() => [...document.querySelectorAll("#rows td")].map((cell) => {
              const panel = document.querySelector(".runs").getBoundingClientRect();
              const { left, right, width } = cell.getBoundingClientRect();
              const isName = cell.matches(".c-name");
              const isText = isName || cell.matches(".c-project");
              const isWhole = isText || cell.scrollWidth <= cell.clientWidth;
              const fits = left >= panel.left && right <= panel.right && isWhole;
              return { width, isName, fits };
            })"""
        )
        shown = [cell for cell in cells if cell["width"]]
        assert (width, len(cells) - len(shown)) == (width, 3 * hidden)
        assert all(cell["fits"] for cell in shown), (width, shown)
        assert min(cell["width"] for cell in shown if cell["isName"]) >= 160, (width, shown)
