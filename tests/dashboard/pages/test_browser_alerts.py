"""Alerts in Chromium: they appear live, and are acknowledged, muted and unmuted from the pages."""

from __future__ import annotations

from typing import Any

import pytest

from lineside.bus.testing import BrokerProcess
from tests.dashboard.alerts import record_alert
from tests.dashboard.conftest import Harness
from tests.dashboard.pages.browsing import expect, visit
from tests.subscribers.conftest import ServiceProcess

pytestmark = pytest.mark.browser


def test_an_alert_comes_live_and_is_answered_from_each_page(
    harness: Harness, site: str, page: Any
) -> None:
    harness.train()
    with BrokerProcess(harness.settings.home), ServiceProcess("recorder", harness.settings):
        visit(page, f"{site}/runs/tiny-1")
        expect(page.locator("#link-state")).to_have_text("Live")
        expect(page.locator("#open-alerts")).to_be_hidden()
        record_alert(harness, "a1")
        row = page.locator("#alert-a1")
        expect(row).to_contain_text("GPU 0 was idle")
        expect(page.locator("#alert-count")).to_have_text("1 open")
        row.locator("summary").click()
        record_alert(harness, "a2", rule="lost", severity="critical")
        expect(page.locator("#open-alerts li").first).to_have_id("alert-a2")
        expect(row.get_by_text("node7")).to_be_visible()  # the details stay open
        row.get_by_role("button", name="Acknowledge").click()
        expect(row).to_contain_text("acknowledged by user@dashboard")
        expect(row.get_by_role("button", name="Acknowledge")).to_have_count(0)

        visit(page, site)
        row.get_by_role("button", name="Mute…").click()
        page.locator("#mute-dialog [name=scope]").select_option("gpu_idle in every run")
        page.locator("#mute-dialog [name=seconds]").select_option("8 hours")
        page.locator("#mute-dialog [name=note]").fill("known")
        page.locator("#mute-dialog").get_by_role("button", name="Mute").click()
        expect(page.locator("#mute-dialog")).to_be_hidden()
        expect(row).to_contain_text("by user@dashboard: known")

        visit(page, f"{site}/alerts")
        mutes = page.locator("#mutes")
        expect(mutes).to_contain_text("gpu_idle in every run")
        mutes.get_by_role("button", name="Unmute").click()
        expect(mutes).to_be_hidden()
        expect(row).not_to_contain_text("known")
        record_alert(harness, "a2", rule="lost", severity="critical", state="closed")
        expect(page.locator("#closed #alert-a2")).to_contain_text("lost")
        expect(page.locator("#opened li")).to_have_count(1)


def test_an_answer_that_no_broker_takes_shows_the_reason(
    harness: Harness, site: str, browser: Any
) -> None:
    harness.train()
    record_alert(harness, "a1")
    context = browser.new_context()
    page = context.new_page()
    visit(page, f"{site}/alerts")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.locator("#alert-error")).to_contain_text("It may be sent again.")
    expect(page.get_by_role("button", name="Acknowledge")).to_be_enabled()
    page.get_by_role("button", name="Mute…").click()
    page.locator("#mute-dialog").get_by_role("button", name="Mute").click()
    expect(page.locator("#mute-dialog .message")).to_contain_text("It may be sent again.")
    context.close()
