"""The pages in Chromium: charts, live updates and controls."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest

from lineside.dashboard.backend.transit_reader import TransitReader
from lineside.dashboard.transit import RecorderLag
from lineside.store.recording.writer import Writer
from tests.dashboard.conftest import Harness
from tests.dashboard.pages.browsing import (
    LOSS,
    colour,
    drawn,
    expect,
    open_page,
    visit,
)
from tests.dashboard.test_server import logged_url, process
from tests.support.waiting import DEADLINE

pytestmark = pytest.mark.browser


def test_charts_are_drawn_with_what_the_store_holds(harness: Harness, site: str, page: Any) -> None:
    harness.train(nan_at=frozenset({15}))
    visit(page, f"{site}/runs/tiny-1")
    expect(page.locator(f"{LOSS} .scatterlayer .trace path.js-line").first).to_be_visible()
    assert drawn(page, "loss") == harness.history.points("tiny-1", "loss").y
    assert page.eval_on_selector(LOSS, "plot => plot.data[1].text") == ["NaN"]
    page.locator("#steps-plot").scroll_into_view_if_needed()
    expect(page.locator("#steps-summary")).to_contain_text("A step computes for")
    expect(page.locator("#account .headline")).to_contain_text("Nothing lost")
    expect(page.locator("h3", has_text="Evaluation")).to_be_visible()


def test_each_page_shows_how_far_the_recorder_is_behind(
    harness: Harness, site: str, page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lag = RecorderLag(250_000, 58.0)
    monkeypatch.setattr(TransitReader, "recorder_lag", lambda _: lag)
    harness.train()
    notice = page.locator("#recorder-lag")
    for path in ("/", "/runs/tiny-1"):
        visit(page, site + path)
        expect(notice).to_have_text("The recorder is 58s and 250,000 events behind the broker.")
    expect(page.locator("#account .headline")).to_contain_text("58s and 250,000 events behind")
    lag = RecorderLag()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(notice).to_be_hidden()


def test_events_appear_without_a_reload(harness: Harness, site: str, page: Any) -> None:
    training = harness.begin(began=time.time())
    visit(page, f"{site}/runs/tiny-1")
    expect(page.locator("#groups")).to_contain_text("No metric yet")
    expect(page.locator("#link-state")).to_have_text("Live")
    page.evaluate("window.notReloaded = true")
    training.train(harness.feeder, 1, 15)
    expect(page.locator("#summary")).to_contain_text("15")
    expect(page.locator(f"{LOSS} .js-line").first).to_be_visible()
    training.train(harness.feeder, 16, 20)
    expect(page.locator("#checkpoints")).to_contain_text("/data/tiny-1/checkpoint-20")
    expect(page.locator("#timeline-list li").first).to_contain_text("Checkpoint saved")
    expect(page.locator("figure[data-metric='eval_loss']")).to_be_visible()
    training.end(harness.feeder, training.train(harness.feeder, 21, 40))
    expect(page.locator("#heading .status")).to_have_text("finished")
    page.wait_for_function(f'() => document.querySelector("{LOSS}").data[0].y.length === 8')
    assert page.evaluate("window.notReloaded")


def test_rows_of_the_run_list_update_live(harness: Harness, site: str, page: Any) -> None:
    harness.train("old")
    visit(page, site)
    expect(page.locator("#link-state")).to_have_text("Live")
    page.evaluate("window.row = document.getElementById('run-old')")
    training = harness.begin("new", began=time.time())
    expect(page.locator("#rows tr").first).to_contain_text("new")
    expect(page.locator("#run-new .status")).to_have_text("running")
    training.end(harness.feeder, training.train(harness.feeder))
    expect(page.locator("#run-new .status")).to_have_text("finished")
    assert page.evaluate("window.row === document.getElementById('run-old')")


def test_the_first_run_of_a_store_appears_without_a_reload(
    harness: Harness, site: str, page: Any
) -> None:
    visit(page, site)
    expect(page.locator("#list")).to_contain_text("No runs yet")
    expect(page.locator("#link-state")).to_have_text("Live")
    harness.train()
    expect(page.locator("#rows tr")).to_have_count(1)


def test_the_page_of_a_run_that_has_yet_to_begin_opens_it_with_its_first_event(
    harness: Harness, site: str, browser: Any
) -> None:
    page = browser.new_page()  # whose console may report that the run does not exist
    page.goto(f"{site}/runs/tiny-1")
    expect(page.locator("#content")).to_contain_text("No such run")
    harness.begin()
    expect(page.locator("#heading .status")).to_be_visible(timeout=DEADLINE * 1000)
    page.close()


def test_a_row_with_tags_opens_its_run_and_each_tag_its_filter(
    harness: Harness, site: str, page: Any
) -> None:
    harness.train("tagged")
    harness.train("other")
    Writer(harness.engine).update_run("tagged", tags=["first", "last"])
    visit(page, site)
    page.locator("#run-tagged .c-started").click(force=True)  # the row is one link
    expect(page).to_have_url(f"{site}/runs/tagged")
    page.go_back()
    page.locator("#run-tagged").get_by_role("link", name="first").click()
    expect(page).to_have_url(f"{site}/?tag=first")
    expect(page.locator("#rows tr")).to_have_count(1)


def test_filters_and_sorting_are_in_the_address(harness: Harness, site: str, page: Any) -> None:
    for name in ("alpha", "beta", "gamma"):
        harness.train(name, project="greek" if name != "beta" else "other")
    visit(page, site)
    page.get_by_role("link", name="Run", exact=True).click()
    expect(page).to_have_url(f"{site}/?sort=name")
    expect(page.locator("#rows .c-name a")).to_have_text(["alpha", "beta", "gamma"])
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Run")
    page.locator("select[name=project]").select_option("greek")
    expect(page.locator("#rows .c-name a")).to_have_text(["alpha", "gamma"])
    page.get_by_label("Search runs").fill("gam")
    expect(page.locator("#rows .c-name a")).to_have_text(["gamma"])
    expect(page).to_have_url(re.compile("search=gam.*project=greek.*sort=name"))
    page.reload()
    expect(page.locator("#rows .c-name a")).to_have_text(["gamma"])
    page.get_by_label("Search runs").fill("nothing like it")
    expect(page.locator("#list")).to_contain_text("No run matches")
    page.go_back()
    expect(page.locator("#rows .c-name a")).to_have_text(["alpha", "beta", "gamma"])
    page.get_by_role("link", name="finished").click()
    expect(page).to_have_url(f"{site}/?status=finished&sort=name")


def test_smoothing_axes_and_marks_are_drawn_and_remembered(
    harness: Harness, site: str, page: Any
) -> None:
    harness.train()
    visit(page, f"{site}/runs/tiny-1")
    raw = drawn(page, "loss")
    page.get_by_label("Smoothing").fill("0.9")
    page.wait_for_function(f'() => document.querySelector("{LOSS}").data.length === 4')
    assert drawn(page, "loss") == raw
    smoothed = drawn(page, "loss", 1)
    assert smoothed[0] == pytest.approx(raw[0])
    assert smoothed != raw
    page.get_by_role("button", name="Log", exact=True).click()
    page.get_by_role("button", name="Time", exact=True).click()
    page.wait_for_function(f"() => document.querySelector(\"{LOSS}\").layout.xaxis.type === 'date'")
    assert page.eval_on_selector(LOSS, "plot => plot.layout.yaxis.type") == "log"
    page.get_by_role("button", name="Checkpoints, evaluations").click()
    page.wait_for_function(f'() => document.querySelector("{LOSS}").data.length === 2')
    page.reload()
    page.wait_for_function(f'() => document.querySelector("{LOSS}")?.data?.length === 2')
    expect(page.get_by_role("button", name="Log", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )


def test_a_zoomed_chart_is_fetched_at_a_higher_resolution(
    harness: Harness, site: str, page: Any
) -> None:
    harness.train(steps=6000, log_every=1, eval_every=6000, save_every=6000)
    visit(page, f"{site}/runs/tiny-1")
    assert len(drawn(page, "loss")) < 2000
    box = page.locator(f"{LOSS} .nsewdrag").first.bounding_box()
    with page.expect_response(re.compile("metrics/loss.*start=")) as answered:
        page.mouse.move(box["x"] + 100, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + 120, box["y"] + 55, steps=5)
        page.mouse.up()
    assert answered.value.json()["downsampled"] is False
    page.mouse.move(5, 5)
    expect(page.locator("figure[data-metric='loss'] .value")).to_contain_text("zoomed")
    page.locator(f"{LOSS} .nsewdrag").first.dblclick()
    page.wait_for_function(f'() => document.querySelector("{LOSS}").data[1].x[0] === 1')


def test_every_chart_shows_the_value_at_the_cursor(harness: Harness, site: str, page: Any) -> None:
    harness.train()
    visit(page, f"{site}/runs/tiny-1")
    drawn(page, "learning_rate")
    drawn(page, "loss")
    page.hover(f"{LOSS} .nsewdrag")
    expect(page.locator("figure[data-metric='learning_rate'] .value")).to_contain_text("step ")
    expect(page.locator("figure[data-metric='learning_rate'] .cursor")).to_be_visible()


def test_the_timeline_shows_the_selected_kinds(harness: Harness, site: str, page: Any) -> None:
    harness.train(steps=1200, eval_every=10, save_every=600)
    visit(page, f"{site}/runs/tiny-1")
    entries = page.locator("#timeline-list li")
    expect(entries).to_have_count(100)
    page.get_by_role("button", name="Show older").click()
    expect(entries).to_have_count(127)
    expect(page.get_by_role("button", name="Show older")).to_be_hidden()
    page.get_by_role("button", name=re.compile("^Evaluated")).click()
    expect(entries).to_have_count(7)
    page.get_by_role("button", name=re.compile("^Logged")).click()
    expect(entries).to_have_count(100)


def test_settings_and_metrics_can_be_searched(harness: Harness, site: str, page: Any) -> None:
    harness.train()
    visit(page, f"{site}/runs/tiny-1")
    page.get_by_label("Find a setting").fill("LEARNING")
    expect(page.locator("#settings [data-setting]:visible")).to_have_count(1)
    page.get_by_label("Find a setting").fill("no such thing")
    expect(page.locator("#no-setting")).to_be_visible()
    page.get_by_label("Find a metric").fill("eval_l")
    expect(page.locator("figure:visible")).to_have_count(1)


def test_a_run_is_renamed_and_deleted_after_confirmation(
    harness: Harness, site: str, browser: Any
) -> None:
    page = browser.new_page()  # whose console may report that the run is gone
    harness.train()
    visit(page, f"{site}/runs/tiny-1")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Name").fill("the good one")
    page.get_by_label("Tags").fill("paper, keep")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("the good one")
    expect(page.locator("#heading .tag")).to_have_text(["paper", "keep"])
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_label("Name")).to_have_value("the good one")
    page.get_by_label("Name").fill("never mind")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_label("Name")).to_have_value("the good one")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Keep it").click()
    assert harness.history.run("tiny-1").name == "the good one"
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete run").click()
    expect(page.locator("#list")).to_contain_text("No runs yet")
    assert harness.history.runs().items == ()
    page.close()


def test_a_change_before_the_live_stream_has_begun_is_shown(
    harness: Harness, site: str, page: Any
) -> None:
    def rename_and_continue(route: Any) -> None:
        httpx.patch(f"{site}/api/runs/tiny-1", json={"name": "renamed"}).raise_for_status()
        route.continue_()

    harness.train()
    page.route("**/api/live*", rename_and_continue, times=1)
    visit(page, f"{site}/runs/tiny-1")
    expect(page.get_by_role("heading", level=1)).to_have_text("renamed")


def test_an_edit_keeps_what_another_person_changed_meanwhile(
    harness: Harness, site: str, page: Any
) -> None:
    def change(**fields: object) -> None:
        httpx.patch(f"{site}/api/runs/tiny-1", json=fields).raise_for_status()
        expect(page.get_by_role("heading", level=1)).to_have_text(str(fields["name"]))

    harness.train()
    visit(page, f"{site}/runs/tiny-1")
    change(name="renamed", note="of another")
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_label("Name")).to_have_value("renamed")
    expect(page.get_by_label("Note")).to_have_value("of another")
    page.get_by_label("Tags").fill("mine")
    page.get_by_label("Name").fill("mine too")
    page.get_by_label("Name").fill("renamed")  # on second thoughts
    change(name="renamed again", project="moved")
    expect(page.get_by_label("Name")).to_have_value("renamed again")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#edit-dialog")).to_be_hidden()
    run = harness.history.run("tiny-1")
    assert (run.name, run.project, run.note) == ("renamed again", "moved", "of another")
    assert list(run.tags) == ["mine"]
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("#delete-dialog")).to_contain_text("configuration of renamed again")


def test_a_refused_deletion_shows_the_reason(harness: Harness, site: str, browser: Any) -> None:
    training = harness.begin()
    context = browser.new_context()
    page = context.new_page()
    visit(page, f"{site}/runs/tiny-1")
    page.get_by_role("button", name="Delete").click()
    training.heartbeat(harness.feeder, time.time(), 20)  # one that is silent may be deleted
    page.get_by_role("button", name="Delete run").click()
    expect(page.locator("#delete-dialog .message")).to_contain_text("still running")
    context.close()


def test_the_theme_follows_the_system_until_a_person_chooses_one(
    harness: Harness, site: str, browser: Any
) -> None:
    harness.train()
    with open_page(browser, color_scheme="dark") as page:
        visit(page, f"{site}/runs/tiny-1")
        dark = colour(page, "body")
        drawn(page, "loss")
        line = page.eval_on_selector(LOSS, "plot => plot.data[0].line.color")
        page.get_by_role("button", name="Switch between light and dark").click()
        assert colour(page, "body") != dark
        page.wait_for_function(
            "([selector, line]) => document.querySelector(selector).data[0].line.color !== line",
            arg=[LOSS, line],
        )
        visit(page, site)
        assert colour(page, "body") != dark
    with open_page(browser, color_scheme="light") as page:
        visit(page, site)
        assert colour(page, "body") != dark


def test_the_keyboard_reaches_a_run_and_its_controls(
    harness: Harness, site: str, page: Any
) -> None:
    harness.train()
    visit(page, site)
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.c-name') !== null"):
            break
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site}/runs/tiny-1")
    drawn(page, "loss")
    page.get_by_role("button", name="Log", exact=True).focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Log", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )


def test_an_open_page_survives_a_restart_of_the_dashboard(harness: Harness, browser: Any) -> None:
    training = harness.begin(began=time.time())
    context = browser.new_context()
    page = context.new_page()
    with process(harness.settings.home, "--port", "0") as started:
        url = logged_url(started)
        visit(page, f"{url}/runs/tiny-1")
        expect(page.locator("#link-state")).to_have_text("Live")
    port = httpx.URL(url).port
    training.train(harness.feeder, 1, 10)
    with process(harness.settings.home, "--port", str(port)) as started:
        logged_url(started)
        expect(page.locator("#summary")).to_contain_text("10", timeout=DEADLINE * 1000)
    context.close()
