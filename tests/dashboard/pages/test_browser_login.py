"""Login and the rights of tokens, in Chromium."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.dashboard.app import create_app
from lineside.dashboard.auth.access import COOKIE
from tests.dashboard.conftest import Harness, serving
from tests.dashboard.pages.browsing import accept_commands, expect, open_page, visit
from tests.support.waiting import DEADLINE

pytestmark = pytest.mark.browser


@pytest.fixture
def keyring(harness: Harness) -> Keyring:
    return Keyring(keys_folder(harness.settings.home))


@pytest.fixture
def token_site(harness: Harness, keyring: Keyring) -> Iterator[str]:
    """The address of a site that requires tokens."""
    app = create_app(harness.history, harness.feeder.writer, harness.settings, keyring=keyring)
    with serving(app) as url:
        yield url


def show(page: Any, url: str, token: str) -> None:
    """Set the cookie of ``token``, as after a login."""
    page.context.add_cookies([{"name": COOKIE, "value": token, "url": url}])


def test_a_person_logs_in_looks_at_a_run_live_and_logs_out(
    harness: Harness, keyring: Keyring, token_site: str, browser: Any
) -> None:
    token = keyring.new_token("alice", ["read"])
    harness.train()
    with open_page(browser) as page:
        page.goto(f"{token_site}/runs/tiny-1")
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="tiny-1")).to_be_visible()
        assert page.url == f"{token_site}/runs/tiny-1"
        assert page.evaluate("document.cookie") == ""
        visit(page, token_site)
        harness.train("tiny-2")  # arrives over the live stream
        expect(page.get_by_role("link", name="tiny-2")).to_be_visible()
        expect(page.get_by_role("banner")).to_contain_text("alice")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        expect(page.get_by_role("button", name="Log out")).to_have_count(0)


@pytest.mark.parametrize("path", ["/runs/tiny-1", "/"])
def test_a_page_whose_token_was_revoked_leads_to_the_login(
    harness: Harness, keyring: Keyring, token_site: str, browser: Any, path: str
) -> None:
    training = harness.begin()
    page = browser.new_page(base_url=token_site)
    show(page, token_site, keyring.new_token("alice", ["read"]))
    visit(page, path)
    expect(page.locator("#link-state")).to_have_text("Live")
    keyring.revoke("alice")
    training.train(harness.feeder)
    expect(page.get_by_role("heading", name="Log in")).to_be_visible(timeout=DEADLINE * 1000)
    assert page.url == f"{token_site}/login?next={quote(path, safe='')}"
    page.close()


def test_controls_that_a_token_may_not_use_are_disabled_with_a_reason(
    harness: Harness, keyring: Keyring, token_site: str, browser: Any
) -> None:
    for roles, steers, edits, deletes in (
        (["read"], False, False, False),
        (["read", "control"], True, True, False),
        (["admin"], True, True, True),
    ):
        name = "-".join(roles)
        training = harness.begin(name)
        accept_commands(harness, training)
        with open_page(browser) as page:
            show(page, token_site, keyring.new_token(name, roles))
            visit(page, f"{token_site}/runs/{name}")
            has = f"and '{name}' has {', '.join(roles)}."
            message = "" if steers else f"Steering takes the role control, {has}"
            expect(page.locator("#controls-message")).to_have_text(message)
            expect(page.locator("#control button:enabled")).to_have_count(6 if steers else 0)
            expect(page.locator("#link-state")).to_have_text("Live")
            training.heartbeat(harness.feeder, time.time(), 10, phase="paused")
            expect(page.locator("#controls-message")).to_have_text(f"Training is paused. {message}")
            expect(page.get_by_role("button", name="Resume")).to_be_enabled(enabled=steers)
            for what, role, may in (("Edit", "control", edits), ("Delete", "admin", deletes)):
                button = page.get_by_role("button", name=what)
                expect(button).to_be_enabled(enabled=may)
                if not may:
                    why = f"{what.removesuffix('e')}ing takes the role {role}, {has}"
                    expect(button).to_have_attribute("title", why)


def test_without_tokens_there_is_no_logout(harness: Harness, site: str, page: Any) -> None:
    accept_commands(harness, harness.begin())
    visit(page, f"{site}/runs/tiny-1")
    expect(page.get_by_role("button", name="Delete")).to_be_enabled()
    expect(page.get_by_role("button", name="Log out")).to_have_count(0)


def test_a_token_without_read_leads_to_a_login_with_another_token(
    harness: Harness, keyring: Keyring, token_site: str, browser: Any
) -> None:
    harness.train()
    page = browser.new_page()
    show(page, token_site, keyring.new_token("pilot", ["control"]))
    page.goto(token_site)
    expect(page.locator("main")).to_contain_text("takes the role read, and 'pilot' has control")
    page.get_by_role("link", name="Log in with another token").click()
    expect(page.get_by_role("heading", name="Logged in as pilot")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Token").fill(keyring.new_token("eyes", ["read"]))
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("link", name="tiny-1")).to_be_visible()
    page.close()


def test_a_link_on_another_site_opens_the_run_and_a_form_there_is_refused(
    harness: Harness, keyring: Keyring, token_site: str, browser: Any
) -> None:
    harness.train()
    page = browser.new_page()
    page.route(
        "http://chat.example/",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f"<a href='{token_site}/runs/tiny-1'>a run</a>"
            f"<form method='post' action='{token_site}/logout'><button>post</button></form>",
        ),
    )
    page.goto(f"{token_site}/login")
    page.get_by_label("Token").fill(keyring.new_token("eyes", ["read"]))
    page.get_by_role("button", name="Log in").click()
    page.goto("http://chat.example/")
    page.get_by_role("link", name="a run").click()
    expect(page.get_by_role("heading", name="tiny-1")).to_be_visible()
    page.goto("http://chat.example/")
    page.get_by_role("button", name="post").click()
    expect(page.locator("body")).to_contain_text("A POST from another site is refused")
    page.goto(token_site)
    expect(page.get_by_role("link", name="tiny-1")).to_be_visible()
    page.close()
