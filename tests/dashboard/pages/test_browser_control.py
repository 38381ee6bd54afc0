"""Commands from the page of a run, in Chromium."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lineside.bus.protocol import commands
from lineside.bus.protocol.events import Stream
from lineside.bus.testing import BrokerProcess, Producer, read_all
from tests.dashboard.conftest import Harness
from tests.dashboard.pages.browsing import (
    LOSS,
    accept_commands,
    expect,
    open_page,
    send_command,
    visit,
)
from tests.subscribers.conftest import ServiceProcess
from tests.support.waiting import DEADLINE

pytestmark = pytest.mark.browser


def test_commands_are_sent_from_the_page_of_a_run(harness: Harness, site: str, page: Any) -> None:
    training = harness.begin()
    training.train(harness.feeder, 1, 20)
    accept_commands(harness, training)
    with (
        BrokerProcess(harness.settings.home) as broker,
        ServiceProcess("recorder", harness.settings),
        Producer(broker.address, "tiny-1/control/answers") as answers,
    ):
        visit(page, f"{site}/runs/tiny-1")
        rows = page.locator("#commands li")
        page.get_by_role("button", name="Save now").click()
        expect(rows.first).to_contain_text("requested")
        expect(rows.first).to_contain_text("Save")
        page.get_by_role("button", name="Set learning rate").click()
        page.get_by_role("spinbutton", name="Learning rate").fill("3e-4")
        page.get_by_role("textbox", name="Reason").fill("after the spike")
        page.get_by_role("button", name="Set rate").click()
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text("Learning rate 3e-4")
        expect(rows.first).to_contain_text("user@dashboard: after the spike")
        expect(page.locator("#set_lr-dialog")).to_be_hidden()
        page.get_by_role("button", name="Stop…").click()
        expect(page.get_by_label("Save a checkpoint first")).to_be_checked()
        page.get_by_role("button", name="Keep training").click()
        expect(page.locator("#stop-dialog")).to_be_hidden()
        page.get_by_role("button", name="Stop…").click()
        page.get_by_role("button", name="Stop training").click()
        expect(rows).to_have_count(3)
        sent = {
            event.data["op"]: event.data
            for event in read_all(broker.address, ["tiny-1/control"])
            if event.kind == commands.COMMAND and event.data
        }
        assert sent["stop"]["args"] == {"save": True}
        assert sent["set_lr"]["args"] == {"lr": 3e-4}
        changed = {"id": sent["set_lr"]["id"], "from": 6e-4, "to": 3e-4}
        answers.emit(commands.APPLIED, step=15, data=changed)
        answers.emit(commands.REJECTED, step=15, data={"id": sent["save"]["id"], "why": "no"})
        answers.flush()
        expect(rows.nth(1)).to_contain_text("applied")
        expect(rows.nth(1)).to_contain_text("step 15 · from 0.0006 to 0.0003")
        expect(rows.nth(2)).to_contain_text("step 15 · no")
    expect(rows).to_have_count(3)


def test_charts_mark_where_commands_were_applied(harness: Harness, site: str, browser: Any) -> None:
    training = harness.begin()
    training.train(harness.feeder)
    answers = accept_commands(harness, training)
    send_command(harness, "tiny-1", commands.Command("save", id="one"))
    send_command(harness, "tiny-1", commands.Command("set_lr", {"lr": 1e-3}, id="two"))
    data = {"id": "two", "from": 1e-2, "to": "<b>"}
    harness.feeder.record(answers, commands.APPLIED, time.time(), 20, data)
    harness.feeder.record(answers, commands.REJECTED, time.time(), 30, {"id": "one"})
    for scheme in ("light", "dark"):
        with open_page(browser, color_scheme=scheme) as page:
            visit(page, f"{site}/runs/tiny-1")
            page.wait_for_function(f'() => document.querySelector("{LOSS}").data?.length === 4')
            mark = page.eval_on_selector(LOSS, "plot => plot.data[1]")
            assert mark["x"] == [20, 20, None]
            assert mark["text"][0] == "set_lr at step 20: from 0.01 to &lt;b>"
            box = page.locator(f"{LOSS} .nsewdrag").first.bounding_box()
            first, last = page.eval_on_selector(LOSS, "plot => plot._fullLayout.xaxis.range")
            there = box["x"] + box["width"] * (20 - first) / (last - first)
            page.mouse.move(there - 3, box["y"] + 20)
            page.mouse.move(there, box["y"] + 20)
            expect(page.locator(f"{LOSS} .hoverlayer")).to_contain_text("set_lr at step 20")
            page.get_by_role("button", name="Checkpoints, evaluations, commands").click()
            page.wait_for_function(f'() => document.querySelector("{LOSS}").data.length === 1')
            steps = page.locator("#steps-plot")
            steps.scroll_into_view_if_needed()
            page.wait_for_function("plot => plot.data?.length === 3", arg=steps.element_handle())
            assert steps.evaluate("plot => plot.data[2].x") == []
            page.get_by_role("button", name="Checkpoints, evaluations, commands").click()
            assert steps.evaluate("plot => plot.data[2].x") == [20, 20, None]


def test_a_run_that_takes_no_commands_shows_the_reason(
    harness: Harness, site: str, page: Any
) -> None:
    harness.train("over")
    harness.begin("a-loop", source="loop").heartbeat(harness.feeder, time.time(), 1)
    harness.begin("early").heartbeat(harness.feeder, time.time(), 1)
    accept_commands(harness, harness.begin("ranks"), ops=[], why="it runs in 2 processes")
    paused = harness.begin("paused")
    accept_commands(harness, paused)
    paused.heartbeat(harness.feeder, time.time(), 1, phase="paused")
    for run, message in (
        ("over", "The run is finished: it takes no commands any more."),
        ("a-loop", "It is a loop with start_run, which takes no commands."),
        (
            "early",
            "This run has not announced that it takes commands; a Trainer does at train begin.",
        ),
        ("ranks", "It runs in 2 processes."),
    ):
        visit(page, f"{site}/runs/{run}")
        expect(page.locator("#controls-message")).to_contain_text(message)
        expect(page.locator("#control button:enabled")).to_have_count(0)
    visit(page, f"{site}/runs/paused")
    expect(page.get_by_role("button", name="Resume")).to_be_enabled()
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)


def test_the_focus_stays_on_a_button_that_is_replaced(
    harness: Harness, site: str, page: Any
) -> None:
    training = harness.begin()
    accept_commands(harness, training)
    visit(page, f"{site}/runs/tiny-1")
    expect(page.locator("#link-state")).to_have_text("Live")
    page.get_by_role("button", name="Stop…").focus()
    training.heartbeat(harness.feeder, time.time(), 10, phase="paused")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    expect(page.get_by_role("button", name="Stop…")).to_be_focused()


def test_a_dialog_opens_with_its_initial_values(harness: Harness, site: str, browser: Any) -> None:
    accept_commands(harness, harness.begin())
    context = browser.new_context()  # its console logs the refusal
    page = context.new_page()
    visit(page, f"{site}/runs/tiny-1")
    dialog = page.locator("#stop-dialog")
    for leave in ("Keep training", None):
        page.get_by_role("button", name="Stop…").click()
        expect(dialog.get_by_label("Save a checkpoint first")).to_be_checked()
        expect(dialog.get_by_label("Reason")).to_have_value("")
        dialog.get_by_label("Save a checkpoint first").uncheck()
        dialog.get_by_label("Reason").fill("the wrong run")
        if leave is None:
            page.keyboard.press("Escape")
        else:
            page.get_by_role("button", name=leave).click()
        expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Stop…").click()
    expect(dialog.get_by_label("Save a checkpoint first")).to_be_checked()
    page.keyboard.press("Escape")
    dialog = page.locator("#set_lr-dialog")
    page.get_by_role("button", name="Set learning rate").click()
    dialog.get_by_label("Learning rate").fill("0")
    page.get_by_role("button", name="Set rate").click()
    expect(dialog.locator(".message")).to_contain_text("above 0")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Set learning rate").click()
    expect(dialog.locator(".message")).to_be_empty()
    expect(dialog.get_by_label("Learning rate")).to_have_value("")
    context.close()


def test_a_command_without_an_answer_in_time_is_shown_as_expired(
    harness: Harness, site: str, page: Any
) -> None:
    training = harness.train()  # ended, so no event makes the page refresh
    answers = Stream("tiny-1", commands.CONTROL_PRODUCER, training.attempt)
    for wait, name in ((1, "untaken"), (3, "taken")):
        command = commands.Command("log", expires_at=time.time() + wait, id=name)
        send_command(harness, "tiny-1", command)
    harness.feeder.record(answers, commands.DELIVERED, time.time(), 10, {"id": "taken"})
    visit(page, f"{site}/runs/tiny-1")
    untaken, taken = page.locator("#command-untaken"), page.locator("#command-taken")
    expect(taken).to_contain_text("delivered")
    expect(untaken).to_contain_text("no training took it in time", timeout=DEADLINE * 1000)
    expect(taken).to_contain_text("no answer to it has come", timeout=DEADLINE * 1000)
    expect(page.locator("#commands [data-expired]")).to_have_count(
        0
    )  # no further refresh is scheduled


def test_a_command_that_cannot_be_sent_shows_the_reason(
    harness: Harness, site: str, browser: Any
) -> None:
    accept_commands(harness, harness.begin())
    context = browser.new_context()
    page = context.new_page()
    visit(page, f"{site}/runs/tiny-1")
    page.get_by_role("button", name="Log now").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#command-error")).to_contain_text(
        "no broker answered", timeout=DEADLINE * 1000
    )
    expect(page.get_by_role("button", name="Log now")).to_be_enabled()
    expect(page.locator("#commands li")).to_have_count(0)
    context.close()


def drop_responses(page: Any) -> list[Any]:
    """Drop one response to a command for each item added to the list."""
    to_drop: list[Any] = []

    def drop(route: Any) -> None:
        if route.request.method == "POST" and to_drop:
            to_drop.pop()
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/commands", drop)
    return to_drop


def test_a_command_sent_again_after_a_lost_answer_is_the_same_command(
    harness: Harness, site: str, browser: Any
) -> None:
    accept_commands(harness, harness.begin())
    context = browser.new_context()
    page = context.new_page()
    to_drop = drop_responses(page)
    message, rows = page.locator("#command-error"), page.locator("#commands li")
    with BrokerProcess(harness.settings.home) as broker:

        def sent(op: str) -> int:
            events = read_all(broker.address, ["tiny-1/control"])
            asked = [e.data or {} for e in events if e.kind == commands.COMMAND]
            return sum(data["op"] == op for data in asked)

        visit(page, f"{site}/runs/tiny-1")
        save = page.get_by_role("button", name="Save now")
        to_drop.append(save)
        save.click()
        expect(message).to_contain_text("No answer came")
        save.click()  # not in the list yet: no recorder runs
        expect(message).to_be_hidden()
        assert sent("save") == 1
        with ServiceProcess("recorder", harness.settings):
            expect(rows).to_have_count(1, timeout=DEADLINE * 1000)
            save.click()  # the previous one was answered, so this is a new command
            expect(rows).to_have_count(2)
            for count in (1, 2):
                to_drop.append(page)
                page.get_by_role("button", name="Set learning rate").click()
                page.get_by_role("spinbutton", name="Learning rate").fill("3e-4")
                page.get_by_role("button", name="Set rate").click()
                expect(page.locator("#set_lr-dialog")).to_be_hidden(timeout=DEADLINE * 1000)
                expect(rows).to_have_count(2 + count)  # the list shows that it arrived
        assert (sent("save"), sent("set_lr")) == (2, 2)
    context.close()


def test_a_dialog_changed_after_a_lost_answer_stays_open(
    harness: Harness, site: str, browser: Any
) -> None:
    accept_commands(harness, harness.begin())
    context = browser.new_context()
    page = context.new_page()
    dialog, rows = page.locator("#set_lr-dialog"), page.locator("#commands li")
    rate, message = dialog.get_by_label("Learning rate"), dialog.locator(".message")
    with BrokerProcess(harness.settings.home):
        visit(page, f"{site}/runs/tiny-1")
        drop_responses(page).append(dialog)
        page.get_by_role("button", name="Set learning rate").click()
        rate.fill("3e-4")
        page.get_by_role("button", name="Set rate").click()
        expect(message).to_contain_text("No answer came", timeout=DEADLINE * 1000)
        rate.fill("3e-5")
        with ServiceProcess("recorder", harness.settings):
            expect(rows).to_have_count(1, timeout=DEADLINE * 1000)
            expect(message).to_contain_text("this one was not")
            expect(rate).to_have_value("3e-5")
            page.get_by_role("button", name="Set rate").click()
            expect(dialog).to_be_hidden(timeout=DEADLINE * 1000)
            expect(rows.first).to_contain_text("Learning rate 3e-5")
            expect(rows).to_have_count(2)
    context.close()
