"""Steering a run from its page in a real Chromium."""

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

pytestmark = pytest.mark.browser


def test_a_run_is_steered_from_its_page(harness: Harness, site: str, page: Any) -> None:
    training = harness.begin()
    training.train(harness.feeder, 1, 20)
    accept_commands(harness, training)
    with (
        BrokerProcess(harness.settings.home) as broker,
        ServiceProcess("recorder", harness.settings),
        Producer(broker.address, "tiny-1/control/answers") as answers,
    ):
        visit(page, f"{site}/runs/tiny-1")
        orders = page.locator("#commands li")
        page.get_by_role("button", name="Save now").click()
        expect(orders.first).to_contain_text("requested")
        expect(orders.first).to_contain_text("Save")
        page.get_by_role("button", name="Set learning rate").click()
        page.get_by_role("spinbutton", name="Learning rate").fill("3e-4")
        page.get_by_role("textbox", name="Reason").fill("after the spike")
        page.get_by_role("button", name="Set rate").click()
        expect(orders).to_have_count(2)
        expect(orders.first).to_contain_text("Learning rate 3e-4")
        expect(orders.first).to_contain_text("user@dashboard: after the spike")
        expect(page.locator("#set_lr-dialog")).to_be_hidden()
        page.get_by_role("button", name="Stop…").click()
        expect(page.get_by_label("Save a checkpoint first")).to_be_checked()
        page.get_by_role("button", name="Keep training").click()
        expect(page.locator("#stop-dialog")).to_be_hidden()
        page.get_by_role("button", name="Stop…").click()
        page.get_by_role("button", name="Stop training").click()
        expect(orders).to_have_count(3)
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
        expect(orders.nth(1)).to_contain_text("applied")
        expect(orders.nth(1)).to_contain_text("step 15 · from 0.0006 to 0.0003")
        expect(orders.nth(2)).to_contain_text("step 15 · no")
    expect(orders).to_have_count(3)


def test_where_commands_were_applied_is_marked_on_the_charts(
    harness: Harness, site: str, browser: Any
) -> None:
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


def test_a_run_that_takes_no_commands_says_why(harness: Harness, site: str, page: Any) -> None:
    harness.train("over")
    harness.begin("a-loop", source="loop").heartbeat(harness.feeder, time.time(), 1)
    harness.begin("early").heartbeat(harness.feeder, time.time(), 1)
    accept_commands(harness, harness.begin("ranks"), ops=[], why="it runs in 2 processes")
    paused = harness.begin("paused")
    accept_commands(harness, paused)
    paused.heartbeat(harness.feeder, time.time(), 1, phase="paused")
    for run, said in (
        ("over", "The run is finished: it takes no commands any more."),
        ("a-loop", "It is a loop with start_run, which takes no commands."),
        ("early", "It has not said that it takes commands. A Trainer does when training begins."),
        ("ranks", "It runs in 2 processes."),
    ):
        visit(page, f"{site}/runs/{run}")
        expect(page.locator("#controls-message")).to_contain_text(said)
        expect(page.locator("#control button:enabled")).to_have_count(0)
    visit(page, f"{site}/runs/paused")
    expect(page.get_by_role("button", name="Resume")).to_be_enabled()
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)


def test_the_focus_stays_on_a_control_that_is_drawn_anew(
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


def test_a_dialog_keeps_nothing_of_the_time_before(
    harness: Harness, site: str, browser: Any
) -> None:
    accept_commands(harness, harness.begin())
    context = browser.new_context()  # the console tells of the refusal too
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


def test_a_command_that_is_not_answered_in_time_says_so_on_the_page(
    harness: Harness, site: str, page: Any
) -> None:
    training = harness.train()  # which is over: nothing else has the page look again
    answers = Stream("tiny-1", commands.CONTROL_PRODUCER, training.attempt)
    for wait, name in ((1, "untaken"), (3, "taken")):
        command = commands.Command("log", expires_at=time.time() + wait, id=name)
        send_command(harness, "tiny-1", command)
    harness.feeder.record(answers, commands.DELIVERED, time.time(), 10, {"id": "taken"})
    visit(page, f"{site}/runs/tiny-1")
    untaken, taken = page.locator("#command-untaken"), page.locator("#command-taken")
    expect(taken).to_contain_text("delivered")
    expect(untaken).to_contain_text("nobody took it in time", timeout=15_000)
    expect(taken).to_contain_text("no answer to it has come", timeout=15_000)
    expect(page.locator("#commands [data-expired]")).to_have_count(0)  # it looks no more


def test_a_command_that_cannot_be_sent_says_why(harness: Harness, site: str, browser: Any) -> None:
    accept_commands(harness, harness.begin())
    context = browser.new_context()
    page = context.new_page()
    visit(page, f"{site}/runs/tiny-1")
    page.get_by_role("button", name="Log now").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#command-error")).to_contain_text("no broker answered", timeout=20_000)
    expect(page.get_by_role("button", name="Log now")).to_be_enabled()
    expect(page.locator("#commands li")).to_have_count(0)
    context.close()


def drop_responses(page: Any) -> list[Any]:
    """The answer to a command is lost for each thing in the list."""
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


def test_asked_for_again_after_a_lost_answer_it_is_the_same_command(
    harness: Harness, site: str, browser: Any
) -> None:
    accept_commands(harness, harness.begin())
    context = browser.new_context()
    page = context.new_page()
    to_drop = drop_responses(page)
    said, orders = page.locator("#command-error"), page.locator("#commands li")
    with BrokerProcess(harness.settings.home) as broker:

        def sent(op: str) -> int:
            events = read_all(broker.address, ["tiny-1/control"])
            asked = [e.data or {} for e in events if e.kind == commands.COMMAND]
            return sum(data["op"] == op for data in asked)

        visit(page, f"{site}/runs/tiny-1")
        save = page.get_by_role("button", name="Save now")
        to_drop.append(save)
        save.click()
        expect(said).to_contain_text("No answer came")
        save.click()  # the list does not have it yet: nobody records
        expect(said).to_be_hidden()
        assert sent("save") == 1
        with ServiceProcess("recorder", harness.settings):
            expect(orders).to_have_count(1, timeout=15_000)
            save.click()  # answered before, so this is another one
            expect(orders).to_have_count(2)
            for count in (1, 2):
                to_drop.append(page)
                page.get_by_role("button", name="Set learning rate").click()
                page.get_by_role("spinbutton", name="Learning rate").fill("3e-4")
                page.get_by_role("button", name="Set rate").click()
                expect(page.locator("#set_lr-dialog")).to_be_hidden(timeout=15_000)
                expect(orders).to_have_count(2 + count)  # it came, as the list shows
        assert (sent("save"), sent("set_lr")) == (2, 2)
    context.close()


def test_a_dialog_that_was_changed_after_a_lost_answer_stays_open(
    harness: Harness, site: str, browser: Any
) -> None:
    accept_commands(harness, harness.begin())
    context = browser.new_context()
    page = context.new_page()
    dialog, orders = page.locator("#set_lr-dialog"), page.locator("#commands li")
    rate, said = dialog.get_by_label("Learning rate"), dialog.locator(".message")
    with BrokerProcess(harness.settings.home):
        visit(page, f"{site}/runs/tiny-1")
        drop_responses(page).append(dialog)
        page.get_by_role("button", name="Set learning rate").click()
        rate.fill("3e-4")
        page.get_by_role("button", name="Set rate").click()
        expect(said).to_contain_text("No answer came", timeout=15_000)
        rate.fill("3e-5")
        with ServiceProcess("recorder", harness.settings):
            expect(orders).to_have_count(1, timeout=15_000)
            expect(said).to_contain_text("this one is not yet")
            expect(rate).to_have_value("3e-5")
            page.get_by_role("button", name="Set rate").click()
            expect(dialog).to_be_hidden(timeout=15_000)
            expect(orders.first).to_contain_text("Learning rate 3e-5")
            expect(orders).to_have_count(2)
    context.close()
