from __future__ import annotations

import re
import time
from pathlib import Path

import httpx

from lineside.bus.protocol.events import Stream
from lineside.dashboard import formatting
from lineside.dashboard.app import create_app
from lineside.dashboard.formatting import STATUS_MEANING
from lineside.dashboard.http import static_files
from lineside.store.database.engine import open_store
from lineside.store.history.records import RUN_STATUSES
from tests.dashboard.api.test_api import problem
from tests.dashboard.conftest import Harness, serving, settings_for
from tests.support.waiting import DEADLINE

HTML = {"accept": "text/html"}
EVIL = "<script>alert(1)</script>&\"'"


def test_the_run_list_shows_filters_sorts_and_pages(harness: Harness, client: httpx.Client) -> None:
    for number in range(55):
        harness.train(f"run-{number:02}", steps=5, project="even" if number % 2 == 0 else "odd")
    first = client.get("/", params={"sort": "name"}).text
    shown = re.findall(r'<tr id="run-(run-\d+)"', first)
    assert shown == [f"run-{number:02}" for number in range(50)]
    onward = re.search(r'href="([^"]+)" data-swap="next"', first)
    assert onward is not None
    second = client.get(onward.group(1).replace("&amp;", "&")).text
    assert re.findall(r'<tr id="run-(run-\d+)"', second) == [f"run-{n}" for n in range(50, 55)]
    assert "First page" in second
    odd = client.get("/", params={"project": "odd", "search": "run-1"}).text
    assert re.findall(r'<tr id="run-(run-\d+)"', odd) == [
        f"run-{number}" for number in (19, 17, 15, 13, 11)
    ]
    assert "5 runs, newest first" in odd
    one = client.get("/", params={"status": "finished", "search": "run-07"}).text
    assert "1 run, newest first" in one
    assert "No run matches" in client.get("/", params={"status": "failed"}).text


def test_a_failed_run_shows_its_error_and_a_folded_traceback(
    harness: Harness, client: httpx.Client
) -> None:
    training = harness.begin()
    error = {"type": "ValueError", "message": "bad <batch>", "traceback": "Traceback: <batch>"}
    training.end(harness.feeder, time.time(), "exception", error)
    for url in ("/runs/tiny-1", "/parts/tiny-1"):
        page = client.get(url).text
        assert '<details class="traceback"><summary>Traceback of rank0</summary>' in page
        assert "Traceback: &lt;batch&gt;" in page
        assert "ValueError: bad &lt;batch&gt;" in page
    run = client.get("/api/runs/tiny-1").json()
    assert run["error"] == {"producer": "rank0", **error}
    assert run["attempts"][-1]["error"] == run["error"]
    assert "traceback" not in client.get("/").text


def test_every_status_has_a_meaning_and_a_dot(client: httpx.Client) -> None:
    assert set(STATUS_MEANING) == set(RUN_STATUSES)
    style = (Path(static_files.__file__).parents[1] / "static" / "base.css").read_text()
    for status in RUN_STATUSES:
        assert f'.status-dot[data-status="{status}"]' in style
        assert client.get("/api/runs", params={"status": status}).status_code == 200


def test_a_paused_run_is_marked_as_paused(harness: Harness, client: httpx.Client) -> None:
    training = harness.begin(began=time.time())
    training.heartbeat(harness.feeder, time.time(), 10, phase="paused")
    for url in ("/", "/runs/tiny-1"):
        text = client.get(url).text
        assert '<span class="status-dot" data-status="paused"' in text
        assert "<b>running</b>" in text
    assert 'class="train" data-status="paused"' in text
    training.heartbeat(harness.feeder, time.time(), 10, phase="training")
    assert 'data-status="paused"' not in client.get("/runs/tiny-1").text


def test_events_that_are_missing_are_not_called_as_the_status_lost(
    harness: Harness, client: httpx.Client
) -> None:
    harness.train()
    text = client.get("/runs/tiny-1").text
    assert "<dt>Missing</dt>" in text
    assert "<dt>Lost</dt>" not in text


def test_an_empty_store_shows_how_to_start_a_run(client: httpx.Client) -> None:
    text = client.get("/").text
    assert "lineside run -- python train.py" in text
    assert "LinesideCallback" in text


def test_names_that_people_choose_are_shown_as_text_only(
    harness: Harness, client: httpx.Client
) -> None:
    harness.train(name=EVIL, project=EVIL, extra={EVIL: 1.0, f"{EVIL}/x": 2.0})
    client.patch("/api/runs/tiny-1", json={"tags": [EVIL], "note": EVIL, "group": EVIL})
    evil = {"id": EVIL, "op": EVIL, "issued_by": EVIL, "reason": EVIL, "args": {EVIL: EVIL}}
    harness.feeder.record(Stream("tiny-1", "control", "a"), "command", 1.7e9, data=evil)
    for url in ("/", "/runs/tiny-1", "/parts/tiny-1", "/timeline/tiny-1?hide="):
        text = client.get(url).text
        assert "<script>alert" not in text, url
        assert "&lt;script&gt;alert" in text, url
    assert "<script>alert" not in client.get(f"/?search={EVIL}").text
    assert "<script>alert" not in client.get(f"/{EVIL}", headers=HTML).text


def test_tags_and_groups_are_links_to_their_runs(harness: Harness, client: httpx.Client) -> None:
    harness.train()
    client.patch("/api/runs/tiny-1", json={"tags": ["a&b"], "group": "g 1"})
    for link, chip in [("?tag=a%26b", "tag a&amp;b"), ("?group=g+1", "group g 1")]:
        for page in ("/", "/runs/tiny-1"):
            assert f'/{link}"' in client.get(page).text
        listed = client.get(f"/{link}").text
        assert "tiny-1" in listed
        assert f"{chip} <span" in listed
    assert "No run matches" in client.get("/?tag=a").text


def test_an_unknown_run_is_a_friendly_page_for_people_and_a_problem_for_programs(
    harness: Harness, client: httpx.Client
) -> None:
    page = client.get("/runs/nope", headers=HTML)
    assert page.status_code == 404
    assert "No such run" in page.text
    assert 'href="../"' in page.text
    problem(client.get("/runs/nope"), 404, "unknown-run")
    assert client.get("/nothing", headers=HTML).status_code == 404
    assert client.get("/?sort=colour", headers=HTML).status_code == 422
    assert client.get("/?cursor=nope", headers=HTML).status_code == 400


def test_the_timeline_starts_with_the_newest_event_and_pages_back(
    harness: Harness, client: httpx.Client
) -> None:
    harness.train(steps=2000, eval_every=5, save_every=2000)
    first = client.get("/timeline/tiny-1").text
    numbers = [int(number) for number in re.findall(r'data-id="(\d+)"', first)]
    assert len(numbers) == 100
    assert numbers == sorted(numbers, reverse=True)
    assert 'data-more="true"' in first
    older = client.get("/timeline/tiny-1", params={"before": numbers[-1]}).text
    assert int(re.findall(r'data-id="(\d+)"', older)[0]) < numbers[-1]
    newer = client.get("/timeline/tiny-1", params={"after": numbers[2]}).text
    assert [int(number) for number in re.findall(r'data-id="(\d+)"', newer)] == numbers[:2]
    none = client.get(
        "/timeline/tiny-1",
        params={"hide": "run_start,init_end,train_begin,train_end,run_end,log,evaluate,save"},
    ).text
    assert "No event of the selected kinds" in none


def test_static_files_are_cached_for_ever_under_their_digest(
    harness: Harness, client: httpx.Client
) -> None:
    harness.train()
    page = client.get("/runs/tiny-1").text
    addresses = set(re.findall(r'(?:src|href)="\.\.(/static/[^"]+)"', page))
    assert {address.rsplit("/", 1)[1] for address in addresses} >= {"run.js", "plotly.min.js"}
    for address in addresses:
        answer = client.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-encoding"] == "gzip"
        assert client.get(address, headers={"accept-encoding": "identity"}).text == answer.text
    old = client.get(re.sub("/static/[^/]+", "/static/0123", addresses.pop()))
    assert old.headers["cache-control"] == "no-cache"


def test_no_page_loads_anything_from_elsewhere(harness: Harness, client: httpx.Client) -> None:
    harness.train()
    for url in ("/", "/?search=x", "/runs/tiny-1", "/nope", "/nope/%2F/nope/"):
        answer = client.get(url, headers=HTML)
        references = re.findall(r'(?:src|href|action)="([^"]*)"', answer.text)
        # Relative, so that they are right below any path under which a proxy serves the page.
        assert not [one for one in references if not one.startswith(("./", "../", "#"))]
        styles = [one for one in references if one.endswith("/base.css")]
        assert client.get(answer.url.join(styles[0])).status_code == 200
        assert not re.findall(r"<script>|\son\w+=|\sstyle=", answer.text)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_pages_and_api_report_a_missing_store(tmp_path: object) -> None:
    home = settings_for(tmp_path / "home")  # type: ignore[operator]
    with (
        serving(create_app(None, None, home)) as url,
        httpx.Client(base_url=url, timeout=DEADLINE) as client,
    ):
        problem(client.get("/api/runs"), 503, "store-unavailable")
        problem(client.get("/api/live"), 503, "store-unavailable")
        page = client.get("/", headers=HTML)
        assert page.status_code == 503
        assert "There is no store at" in page.text
        assert 'data-retry="true"' in page.text
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["store"]["ok"] is False
        assert client.get("/healthz").json() == {"ok": True}
        open_store(home.store, create=True).dispose()
        assert client.get("/api/runs").json() == {"items": [], "next": None}
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        assert "no broker answers" in ready.json()["checks"]["recorder"]["detail"]


def test_the_lag_of_a_stream_is_no_number_where_it_is_not_known(
    harness: Harness, client: httpx.Client
) -> None:
    training = harness.begin()  # its events come from elsewhere, and no broker runs here
    training.train(harness.feeder, 1, 20)
    page = client.get("/parts/tiny-1").text
    emitted = harness.feeder.next_seq(training.stream)
    row = f'<td class="num">{emitted}</td><td class="num">{emitted}</td><td class="num" >0</td>'
    assert f'{row}<td class="num">{formatting.NO_VALUE}</td>' in page
    assert "UTC is not known." in page


def test_an_internal_error_is_a_problem_document_without_a_traceback(harness: Harness) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("secret inside")

    app = create_app(Broken(), harness.feeder.writer, harness.settings)  # type: ignore[arg-type]
    with serving(app) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
        answer = client.get("/api/runs")
        problem(answer, 500, "internal-error")
        assert answer.headers["Connection"] == "close"
        assert "secret" not in answer.text
        page = client.get("/", headers=HTML)
        assert page.status_code == 500
        assert "secret" not in page.text


def test_logged_values_that_are_no_numbers_stand_below_the_charts(
    harness: Harness, client: httpx.Client
) -> None:
    training = harness.begin()
    for step, note in ((1, "warm"), (2, EVIL)):
        logs = {"note": note, "shape": [2, 3], "rouge": {"r1": 0.5}}
        harness.feeder.record(training.stream, "log", time.time(), step, {"logs": logs})
    page = client.get("/runs/tiny-1").text
    assert 'data-metric="rouge/r1"' in page
    values = page.partition('id="group-values"')[2].partition("</details>")[0]
    assert "<dd>&lt;script&gt;alert(1)&lt;/script&gt;&amp;&#34;&#39;</dd>" in values
    assert "step 2" in values
    assert "<dd>[2, 3]</dd>" in values
    assert "warm" not in values
