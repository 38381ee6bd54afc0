"""Helpers for tests of pages in Chromium."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lineside.bus.protocol import commands
from lineside.bus.protocol.events import Stream
from tests.conftest import ON_CI
from tests.dashboard.conftest import Harness
from tests.dashboard.synthetic import Training
from tests.support.waiting import DEADLINE

load = importlib.import_module if ON_CI else pytest.importorskip
playwright: Any = load("playwright.sync_api")
expect = playwright.expect

LOSS = "figure[data-metric='loss'] .plot"


@contextmanager
def open_page(browser: Any, **options: Any) -> Iterator[Any]:
    """A new page, which must not log an error."""
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 1000}, **options})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console", lambda message: errors.extend([message.text] if message.type == "error" else [])
    )
    yield page
    context.close()
    assert errors == []


def visit(page: Any, url: str) -> None:
    """Open ``url`` and wait until the page's script handles clicks."""
    page.set_default_timeout(DEADLINE * 1000)
    page.goto(url)
    page.wait_for_function("() => document.documentElement.dataset.ready !== undefined")


def drawn(page: Any, metric: str, trace: int = 0) -> list[float | None]:
    """The y values plotly holds for a metric's trace."""
    selector = f"figure[data-metric='{metric}'] .plot"
    page.wait_for_function(
        "selector => document.querySelector(selector)?.data !== undefined", arg=selector
    )
    found: list[float | None] = page.eval_on_selector(
        selector, f"plot => Array.from(plot.data[{trace}].y)"
    )
    return found


def colour(page: Any, selector: str, name: str = "backgroundColor") -> str:
    found: str = page.eval_on_selector(selector, f"node => getComputedStyle(node).{name}")
    return found


def accept_commands(harness: Harness, training: Training, **changed: Any) -> Stream:
    """Announce that the training takes commands; the stream of its answers."""
    answers = Stream(training.run, commands.CONTROL_PRODUCER, training.attempt)
    facts = {"ops": list(commands.OPS), "why": None, **changed}
    harness.feeder.record(answers, commands.CONTROL_ON, training.began + 1, data=facts)
    training.heartbeat(harness.feeder, time.time(), 10)
    return answers


def send_command(harness: Harness, run: str, command: commands.Command) -> None:
    stream = Stream(run, commands.CONTROL_PRODUCER, f"issuer-{command.id}")
    harness.feeder.record(stream, commands.COMMAND, time.time(), data=command.to_data())


def record_command_states(harness: Harness, training: Training) -> None:
    """Record a command of each state."""
    answers = accept_commands(harness, training)
    for kind in (commands.APPLIED, commands.REJECTED, commands.EXPIRED, commands.SUPERSEDED):
        send_command(
            harness, training.run, commands.Command("log", reason="a reason " * 60, id=kind)
        )
        data = {"id": kind, "why": "w" * 80}
        harness.feeder.record(answers, kind, time.time(), 20, data)
    send_command(harness, training.run, commands.Command("stop", id="open"))
