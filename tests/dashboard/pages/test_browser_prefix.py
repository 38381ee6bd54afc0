"""The pages below a path, behind a proxy that removes it and names it nowhere."""

from __future__ import annotations

import time
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.dashboard.app import create_app
from lineside.dashboard.auth.access import COOKIE
from tests.dashboard.conftest import Harness, serving
from tests.dashboard.pages.browsing import LOSS, drawn, expect, open_page, visit

pytestmark = pytest.mark.browser

PREFIX = "/user/ada/proxy/7431"


class PrefixProxy:
    """Serves ``app`` below ``PREFIX``, and keeps the paths asked for ``outside`` of it."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.state = app.state
        self.outside: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not scope["path"].startswith(f"{PREFIX}/"):
                self.outside.append(scope["path"])
                await PlainTextResponse("outside", status_code=404)(scope, receive, send)
                return
            path, raw_path = scope["path"], scope["raw_path"]
            scope = {**scope, "path": path[len(PREFIX) :], "raw_path": raw_path[len(PREFIX) :]}
        await self.app(scope, receive, send)


def test_a_person_works_with_the_pages_below_a_path(harness: Harness, browser: Any) -> None:
    keyring = Keyring(keys_folder(harness.settings.home))
    token = keyring.new_token("ada", ["read", "control", "admin"])
    training = harness.begin(began=time.time())
    training.train(harness.feeder, 1, 20)
    app = create_app(harness.history, harness.feeder.writer, harness.settings, keyring=keyring)
    proxy = PrefixProxy(app)
    with serving(proxy) as url, open_page(browser) as page:  # type: ignore[arg-type]
        root = f"{url}{PREFIX}/"
        page.goto(f"{root}runs/tiny-1?from=mail")
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{root}runs/tiny-1?from=mail")
        (cookie,) = [one for one in page.context.cookies() if one["name"] == COOKIE]
        assert cookie["path"] == PREFIX  # other people's servers do not receive the token
        expect(page.locator("#link-state")).to_have_text("Live")
        assert drawn(page, "loss") == harness.history.points("tiny-1", "loss").y
        training.end(harness.feeder, training.train(harness.feeder, 21, 40))
        expect(page.locator("#heading .status")).to_have_text("finished")
        page.wait_for_function(f'() => document.querySelector("{LOSS}").data[0].y.length === 8')
        page.locator("#kinds [data-kind='log']").click()
        expect(page.locator("#timeline-list [data-kind='log']").first).to_be_visible()

        harness.feeder.writer.update_run("tiny-1", tags=["added"])  # while the page is open
        page.locator("#heading").get_by_role("link", name="added").click()
        expect(page).to_have_url(f"{root}?tag=added")
        page.go_back()
        page.get_by_role("link", name="stdlib-lm").click()
        expect(page).to_have_url(f"{root}?project=stdlib-lm")
        visit(page, root)
        answers: list[Any] = []
        page.route("**/?status=finished", lambda route: answers.append(route))
        page.get_by_role("link", name="finished").click()
        expect(page).to_have_url(f"{root}?status=finished")
        page.get_by_label("Search runs").fill("tiny")  # before the list has come
        answers[0].continue_()
        page.unroute("**/?status=finished")
        expect(page).to_have_url(f"{root}?search=tiny&status=finished")
        page.get_by_role("link", name="tiny-1").click()
        page.wait_for_function("() => document.documentElement.dataset.ready !== undefined")
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("button", name="Delete run").click()
        expect(page).to_have_url(root)
        expect(page.locator("#list")).to_contain_text("No runs yet")
        page.get_by_role("button", name="Log out").click()
        expect(page).to_have_url(f"{root}login")
        assert not [one for one in page.context.cookies() if one["name"] == COOKIE]
    assert proxy.outside == []
