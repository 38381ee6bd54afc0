"""Checkpoints in Chromium: a copy is followed live; requests are sent, confirmed and shown."""

from __future__ import annotations

from typing import Any

import pytest

from lineside.bus.testing import BrokerProcess
from tests.dashboard.checkpoints import record_hold, record_state
from tests.dashboard.conftest import Harness
from tests.dashboard.pages.browsing import expect, visit
from tests.subscribers.conftest import ServiceProcess

pytestmark = pytest.mark.browser


def test_a_copy_is_followed_and_requests_are_sent_without_a_reload(
    harness: Harness, site: str, page: Any
) -> None:
    training = harness.train(save_every=2)
    with BrokerProcess(harness.settings.home), ServiceProcess("recorder", harness.settings):
        visit(page, f"{site}/runs/tiny-1")
        page.evaluate("window.notReloaded = true")
        expect(page.locator("#link-state")).to_have_text("Live")
        section = page.locator("#checkpoints")
        expect(section.locator("table")).to_be_visible()
        record_hold(harness, training, 20)
        row = section.locator("li").filter(has_text="Step 20")
        expect(row).to_contain_text("held")
        listed = page.locator("#checkpoint-list")
        listed.evaluate("list => { list.scrollTop = 120; }")
        for percent in (25, 75):
            record_state(harness, training, 20, "copying", done=percent * 12_000_000)
            expect(row).to_contain_text(f"copying {percent} %")
        assert listed.evaluate("list => list.scrollTop") == 120
        record_state(harness, training, 20, "archived", done=1_200_000_000)
        expect(row.locator(".checkpoint-state")).to_have_text("archived")
        row.get_by_role("button", name="Pin").click()
        expect(row).to_contain_text("user@dashboard asked to pin it")
        expect(row.get_by_role("button", name="Delete")).to_have_count(0)
        found = harness.history.checkpoints("tiny-1")[9]
        assert (found.step, found.requested) == (20, "pin")

        record_state(harness, training, 18, "archived", done=1_200_000_000)
        other = section.locator("li").filter(has_text="Step 18")
        other.get_by_role("button", name="Delete").click()
        dialog = page.locator("#checkpoint-dialog")
        expect(dialog).to_contain_text("Step 18: Delete it from the archive?")
        dialog.get_by_role("button", name="Cancel").click()
        expect(dialog).to_be_hidden()
        assert harness.history.checkpoints("tiny-1")[8].requested is None
        other.get_by_role("button", name="Delete").click()
        dialog.get_by_role("button", name="Delete from the archive").click()
        expect(other).to_contain_text("user@dashboard asked to delete it")
        record_state(harness, training, 18, "deleted")
        expect(other.locator(".checkpoint-state")).to_have_text("deleted")
        assert page.evaluate("window.notReloaded")


@pytest.mark.usefixtures("impatient")
def test_a_request_that_no_broker_takes_shows_the_reason(
    harness: Harness, site: str, browser: Any
) -> None:
    training = harness.train()
    record_state(harness, training, 20, "archived")
    context = browser.new_context()
    page = context.new_page()
    visit(page, f"{site}/runs/tiny-1")
    row = page.locator("#checkpoints li").filter(has_text="Step 20")
    row.get_by_role("button", name="Pin").click()
    expect(page.locator("#checkpoint-error")).to_contain_text("It may be sent again.")
    expect(row.get_by_role("button", name="Pin")).to_be_enabled()
    row.get_by_role("button", name="Delete").click()
    page.locator("#checkpoint-dialog").get_by_role("button", name="Delete from").click()
    expect(page.locator("#checkpoint-dialog .message")).to_contain_text("It may be sent again.")
    context.close()
