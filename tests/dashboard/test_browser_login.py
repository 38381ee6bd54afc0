"""The way in, in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest

from lineside.bus.keyring import Keyring, keys_folder
from lineside.dashboard.access import COOKIE
from lineside.dashboard.app import create_app
from tests.dashboard.browsing import a_page, expect, playwright, visit
from tests.dashboard.conftest import House, serving

pytestmark = pytest.mark.browser


def test_a_person_logs_in_looks_at_a_run_live_and_logs_out(
    house: House, needs: Callable[[str], str]
) -> None:
    keyring = Keyring(keys_folder(house.settings.home))
    token = keyring.new_token("alice", ["read"])
    house.train()
    app = create_app(house.history, house.feeder.writer, house.settings, keyring=keyring)
    with serving(app) as url, playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=needs("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        with a_page(chromium) as page:
            page.goto(f"{url}/runs/tiny-1")
            expect(page.get_by_role("heading", name="Log in")).to_be_visible()
            page.get_by_label("Token").fill(token)
            page.get_by_role("button", name="Log in").click()
            expect(page.get_by_role("heading", name="tiny-1")).to_be_visible()
            assert page.url == f"{url}/runs/tiny-1"
            assert page.evaluate("document.cookie") == ""
            visit(page, url)
            house.train("tiny-2")  # comes over the live stream
            expect(page.get_by_role("link", name="tiny-2")).to_be_visible()
            page.goto(f"{url}/login")
            page.get_by_role("button", name="Log out").click()
            expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        chromium.close()


@pytest.mark.parametrize("path", ["/runs/tiny-1", "/"])
def test_a_page_whose_token_has_ended_does_not_look_alive(
    house: House, needs: Callable[[str], str], path: str
) -> None:
    keyring = Keyring(keys_folder(house.settings.home))
    token = keyring.new_token("alice", ["read"])
    training = house.begin()
    app = create_app(house.history, house.feeder.writer, house.settings, keyring=keyring)
    with serving(app) as url, playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=needs("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = chromium.new_page(base_url=url)
        page.context.add_cookies([{"name": COOKIE, "value": token, "url": url}])
        visit(page, path)
        expect(page.locator("#link-state")).to_have_text("Live")
        keyring.revoke("alice")
        training.train(house.feeder)
        expect(page.get_by_role("heading", name="Log in")).to_be_visible(timeout=20_000)
        assert page.url == f"{url}/login?next={quote(path, safe='')}"
        chromium.close()
