from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi.routing import APIRoute
from typer.testing import CliRunner

from lineside.bus.protocol.events import Stream
from lineside.cli.main import app
from tests.dashboard.conftest import Harness

PROBLEM = "application/problem+json"
API_PAGE = Path(__file__).parents[3] / "docs" / "reference" / "api.md"


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    found: dict[str, object] = answer.json()
    assert found["type"] == f"urn:lineside:problem:{kind}"
    assert found["status"] == status
    assert found["title"]
    assert found["detail"]
    return found


def test_a_run_has_all_documented_fields(harness: Harness, client: httpx.Client) -> None:
    harness.train()
    run = client.get("/api/runs/tiny-1").json()
    assert run["status"] == "finished"
    assert run["step"] == run["max_steps"] == 40
    assert run["event_counts"]["step_end"] == 40
    assert run["event_counts"]["evaluate"] == 2
    assert run["started_at"].endswith("Z")
    assert run["loss_account"]["emitted"] == sum(run["event_counts"].values())
    assert run["loss_account"] == {**run["loss_account"], "gaps": 0, "lag": 0}
    assert {"id", "name", "project", "attempts", "epoch", "ended_at", "metrics"} <= set(run)


def test_runs_are_filtered_sorted_and_paged_without_repeats(
    harness: Harness, client: httpx.Client
) -> None:
    for number in range(7):
        harness.train(f"run-{number}", project="even" if number % 2 == 0 else "odd")
    even = client.get("/api/runs", params={"project": "even", "sort": "name"}).json()
    assert [run["id"] for run in even["items"]] == ["run-0", "run-2", "run-4", "run-6"]
    assert even["next"] is None
    found = client.get("/api/runs", params={"search": "RUN-3"}).json()
    assert [run["id"] for run in found["items"]] == ["run-3"]
    assert client.get("/api/runs", params={"status": "failed"}).json()["items"] == []
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        params = {"limit": "3", "sort": "-name"} | ({"cursor": cursor} if cursor else {})
        page = client.get("/api/runs", params=params).json()
        seen += [run["id"] for run in page["items"]]
        cursor = page["next"]
    assert seen == [f"run-{number}" for number in reversed(range(7))]


def test_a_curve_flags_values_that_are_not_finite(harness: Harness, client: httpx.Client) -> None:
    harness.train(nan_at=frozenset({15, 40}))
    answer = client.get("/api/runs/tiny-1/metrics/loss")
    assert "NaN" not in answer.text
    curve = answer.json()
    assert curve["x"] == curve["step"] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert curve["flags"] == [{"index": 2, "value": "nan"}, {"index": 7, "value": "nan"}]
    assert curve["y"][2] is None
    assert (curve["total"], curve["downsampled"]) == (8, False)
    run = client.get("/api/runs/tiny-1").json()
    assert run["metrics"]["loss"] is None
    assert run["non_finite"] == {"/metrics/loss": "nan", "/loss/value": "nan"}
    series = {one["name"]: one for one in client.get("/api/runs/tiny-1/metrics").json()["items"]}
    assert series["loss"]["non_finite"] == {"/last": "nan"}
    assert series["eval_loss"]["count"] == 2


def test_list_page_commands_and_api_show_the_same_loss(
    harness: Harness, client: httpx.Client
) -> None:
    training = harness.begin()
    logs = {"eval/loss": 1.5, "train/loss": 1.25, "train_loss": 9.0}
    harness.feeder.record(training.stream, "log", time.time(), 5, {"logs": logs})
    assert client.get("/api/runs/tiny-1").json()["loss"] == {"name": "train/loss", "value": 1.25}
    assert '<span title="train/loss">1.25</span>' in client.get("/").text
    page = re.sub(r"(\s|<[^>]*>)+", " ", client.get("/runs/tiny-1").text)
    assert "Loss 1.25 train/loss" in page
    assert "Eval loss 1.5 eval/loss" in page
    for command in (["runs"], ["show", "tiny-1"]):
        environment = {"LINESIDE_HOME": str(harness.settings.home)}
        assert "1.25" in CliRunner().invoke(app, command, env=environment).stdout


def test_metrics_of_other_producers_are_read_by_producer(
    harness: Harness, client: httpx.Client
) -> None:
    harness.train()
    evaluator = Stream("tiny-1", "evaluator", "20261121T090000-eeee")
    harness.feeder.record(
        evaluator, "metrics", time.time(), 5, {"metrics": {"loss": 9.0, "f1": 0.5}}
    )
    listed = client.get("/api/runs/tiny-1/metrics").json()["items"]
    assert ("evaluator", "f1") in [(one["producer"], one["name"]) for one in listed]
    only = client.get("/api/runs/tiny-1/metrics", params={"producer": "evaluator"}).json()["items"]
    assert [one["name"] for one in only] == ["f1", "loss"]
    url = "/api/runs/tiny-1/metrics/loss"
    assert client.get(url).json()["producer"] == "rank0"
    curve = client.get(url, params={"producer": "evaluator"}).json()
    assert (curve["producer"], curve["x"], curve["y"]) == ("evaluator", [5.0], [9.0])
    assert client.get("/api/runs/tiny-1/metrics/f1").json()["y"] == [0.5]
    assert client.get(url, params={"producer": "other"}).status_code == 404


def test_a_part_of_a_curve_has_full_resolution(harness: Harness, client: httpx.Client) -> None:
    harness.train(steps=4000, log_every=1)
    url = "/api/runs/tiny-1/metrics/loss"
    whole = client.get(url, params={"points": 100}).json()
    assert whole["downsampled"]
    assert len(whole["x"]) < 300
    spike = max(range(len(whole["y"])), key=lambda index: whole["y"][index])
    assert whole["y"][spike] == max(client.get(url, params={"points": 20000}).json()["y"])
    part = client.get(url, params={"points": 100, "start": 1000, "end": 1050}).json()
    assert not part["downsampled"]
    assert part["total"] == 4000
    assert part["x"] == [float(step) for step in range(999, 1052)]
    times = client.get(url, params={"x": "time", "start": part["time"][1], "points": 20000}).json()
    assert times["step"][:3] == [999, 1000, 1001]


@pytest.mark.parametrize(
    "name", ["eval/loss", "läß/ü λ", "a%2Fb", "what?#", "..", "a/../b", "&<>", "new\nline\n"]
)
def test_a_metric_may_have_any_name(harness: Harness, client: httpx.Client, name: str) -> None:
    harness.train(extra={name: 4.5})
    answer = client.get(f"/api/runs/tiny-1/metrics/{quote(name, safe='').replace('.', '%2E')}")
    assert answer.json()["name"] == name
    assert set(answer.json()["y"]) == {4.5}


def test_timing_is_compute_and_wait_by_step(harness: Harness, client: httpx.Client) -> None:
    harness.train()
    timing = client.get("/api/runs/tiny-1/timing").json()
    assert timing["compute"]["total"] == 40
    assert timing["compute"]["sum"] == pytest.approx(sum(timing["compute"]["y"]))
    assert 0.08 < timing["compute"]["sum"] / 40 < 0.11
    assert timing["wait"]["total"] == 39


def test_events_continue_after_the_last_one_received(
    harness: Harness, client: httpx.Client
) -> None:
    harness.train(nan_at=frozenset({5}))
    url = "/api/runs/tiny-1/events"
    first = client.get(url, params={"limit": 4}).json()
    rest = client.get(url, params={"after": first["next"], "limit": 1000}).json()
    events = first["items"] + rest["items"]
    assert rest["next"] is None
    assert events[0]["kind"] == "run_start"
    assert events[-1]["kind"] == "run_end"
    assert [event["n"] for event in events] == sorted({event["n"] for event in events})
    log = next(event for event in events if event["kind"] == "log")
    assert log["data"]["logs"]["loss"] is None
    assert log["non_finite"] == {"/data/logs/loss": "nan"}
    only = client.get(url, params={"kinds": "evaluate,save"}).json()["items"]
    assert {event["kind"] for event in only} == {"evaluate", "save"}
    assert client.get(url, params={"kinds": ""}).json()["items"] == []


def test_checkpoints_configuration_and_account_are_returned(
    harness: Harness, client: httpx.Client
) -> None:
    training = harness.train()
    training.heartbeat(harness.feeder, training.began + 50, 40)
    saved = client.get("/api/runs/tiny-1/checkpoints").json()["items"]
    assert [checkpoint["path"] for checkpoint in saved] == [
        "/data/tiny-1/checkpoint-20",
        "/data/tiny-1/checkpoint-40",
    ]
    facts = client.get("/api/runs/tiny-1/config").json()["configuration"]
    assert facts["args"]["learning_rate"] == 6e-4
    account = client.get("/api/runs/tiny-1/account").json()
    assert account["verdict"] == "clear"
    assert {stream["producer"] for stream in account["streams"]} == {"rank0", "shipper"}


def test_odd_facts_are_still_strict_json(harness: Harness, client: httpx.Client) -> None:
    stream = Stream("odd", "rank0", "a1")
    facts = {"args": {"lr": math.inf, "name": "\ud800", "deep": [math.nan]}, "name": "odd"}
    harness.feeder.record(stream, "run_start", 1.0, data=facts)
    harness.feeder.record(stream, "train_begin", 1.0)
    answer = client.get("/api/runs/odd/config")
    body = json.loads(answer.text, parse_constant=lambda word: pytest.fail(word))
    assert body["configuration"]["args"] == {"lr": None, "name": "?", "deep": [None]}
    assert body["non_finite"] == {
        "/configuration/args/lr": "inf",
        "/configuration/args/deep/0": "nan",
    }
    assert client.get("/runs/odd", headers={"accept": "text/html"}).status_code == 200


def test_a_run_is_renamed_and_the_rest_stays(harness: Harness, client: httpx.Client) -> None:
    harness.train()
    changes = {"name": "  best  ", "tags": ["paper"], "group": "g 1"}
    changed = client.patch("/api/runs/tiny-1", json=changes).json()
    assert {name: changed[name] for name in (*changes, "project")} == {
        "name": "best",
        "tags": ["paper"],
        "group": "g 1",
        "project": "stdlib-lm",
    }
    for found, query in [(1, {"tag": "paper"}), (1, {"group": "g 1"}), (0, {"group": "g"})]:
        assert len(client.get("/api/runs", params=query).json()["items"]) == found
    assert client.patch("/api/runs/tiny-1", json={"note": "keep"}).json()["name"] == "best"
    assert client.patch("/api/runs/tiny-1", json={"tags": [], "note": ""}).json()["tags"] == []
    assert client.patch("/api/runs/tiny-1", json={}).status_code == 200
    problem(client.patch("/api/runs/nope", json={"name": "x"}), 404, "unknown-run")


def test_a_run_is_deleted_but_not_while_it_runs(harness: Harness, client: httpx.Client) -> None:
    training = harness.begin()
    assert problem(client.delete("/api/runs/tiny-1"), 409, "still-running")["run"] == "tiny-1"
    training.end(harness.feeder, training.train(harness.feeder))
    gone = client.delete("/api/runs/tiny-1")
    assert (gone.status_code, gone.content) == (204, b"")
    problem(client.get("/api/runs/tiny-1"), 404, "unknown-run")
    problem(client.delete("/api/runs/tiny-1"), 404, "unknown-run")
    assert client.get("/api/runs").json()["items"] == []


def test_an_unknown_parameter_is_refused_with_the_nearest_name(client: httpx.Client) -> None:
    for url, near in (
        ("/api/runs?statsu=failed", "status"),
        ("/api/runs/tiny-1/metrics/loss?point=5", "points"),
        ("/api/live?rnu=tiny-1", "run"),
        ("/api/audit?lmit=2", "limit"),
    ):
        refused = problem(client.get(url), 422, "invalid-request")
        assert f"did you mean {near}?" in str(refused["detail"])
    refused = problem(client.get("/api/runs/tiny-1?full=1"), 422, "invalid-request")
    assert "has no query parameters" in str(refused["detail"])


def test_several_statuses_list_the_runs_of_any_of_them(
    harness: Harness, client: httpx.Client
) -> None:
    harness.train("done")
    harness.begin("going", began=time.time())
    for page in ("/", "/api/runs"):
        both = client.get(f"{page}?status=finished&status=running&status=lost").text
        assert "done" in both
        assert "going" in both
        assert "going" not in client.get(f"{page}?status=finished&status=lost").text


@pytest.mark.parametrize(
    ("url", "status", "kind"),
    [
        ("/api/runs/nope", 404, "unknown-run"),
        ("/api/runs/nope/metrics", 404, "unknown-run"),
        ("/api/runs/nope/metrics/loss", 404, "unknown-run"),
        ("/api/runs/nope/events", 404, "unknown-run"),
        ("/api/runs/nope/timing", 404, "unknown-run"),
        ("/api/runs/nope/checkpoints", 404, "unknown-run"),
        ("/api/runs/nope/config", 404, "unknown-run"),
        ("/api/runs/nope/account", 404, "unknown-run"),
        ("/api/runs/tiny-1/metrics/nope", 404, "unknown-metric"),
        ("/api/runs/tiny-1/metrics/", 404, "unknown-metric"),
        ("/api/runs/tiny-1/metrics/loss?attempt=nope", 400, "bad-request"),
        ("/api/runs?cursor=nope", 400, "bad-request"),
        ("/api/runs?cursor=WyJuYW1lIiwgMSwgMl0=", 400, "bad-request"),
        ("/api/runs?sort=colour", 422, "invalid-request"),
        ("/api/runs?status=happy", 422, "invalid-request"),
        ("/api/runs?search=%00", 422, "invalid-request"),
        ("/api/runs/%00", 422, "invalid-request"),
        ("/api/runs?limit=1&limit=2", 422, "invalid-request"),
        ("/api/runs?limit=0", 422, "invalid-request"),
        ("/api/runs?limit=many", 422, "invalid-request"),
        ("/api/runs/tiny-1/metrics/loss?points=0", 422, "invalid-request"),
        ("/api/runs/tiny-1/metrics/loss?points=99999999", 422, "invalid-request"),
        ("/api/runs/tiny-1/metrics/loss?x=epoch", 422, "invalid-request"),
        ("/api/runs/tiny-1/metrics/loss?start=nan", 422, "invalid-request"),
        ("/api/runs/tiny-1/events?after=-1", 422, "invalid-request"),
        ("/api/runs/tiny-1/events?after=99999999999999999999", 422, "invalid-request"),
        ("/api/nothing", 404, "not-found"),
        ("/static/0/nothing.js", 404, "not-found"),
        ("/static/%2e%2e/pyproject.toml", 404, "not-found"),
    ],
)
def test_every_bad_request_gets_a_problem_document(
    harness: Harness, client: httpx.Client, url: str, status: int, kind: str
) -> None:
    harness.train()
    found = problem(client.get(url), status, kind)
    assert found["instance"] == httpx.URL(url).path
    if kind == "invalid-request":
        assert found["errors"]


def test_bad_bodies_and_methods_get_problem_documents(
    harness: Harness, client: httpx.Client
) -> None:
    harness.train()
    url = "/api/runs/tiny-1"
    problem(client.patch(url, json={"status": "finished"}), 422, "invalid-request")
    problem(client.patch(url, json={"name": ""}), 422, "invalid-request")
    problem(client.patch(url, json={"name": "x" * 201}), 422, "invalid-request")
    problem(client.patch(url, json={"tags": ["t" * 101]}), 422, "invalid-request")
    problem(client.patch(url, content=b"{"), 422, "invalid-request")
    problem(client.patch(url, content=b"\xff\xfe"), 422, "invalid-request")
    odd = client.patch(url, content=b'"\xff"', headers={"content-type": "application/json"})
    assert "expected JSON in UTF-8" in str(problem(odd, 400, "bad-request")["detail"])
    refused = client.post("/api/runs")
    problem(refused, 405, "method-not-allowed")
    assert "GET" in refused.headers["allow"]


def test_long_responses_are_compressed(harness: Harness, client: httpx.Client) -> None:
    harness.train(steps=2000, log_every=1)
    answer = client.get("/api/runs/tiny-1/metrics/loss")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["cache-control"] == "no-store"


def test_the_api_description_has_a_model_for_each_response(client: httpx.Client) -> None:
    described = client.get("/api/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), (method, path)
            good = next(a for code, a in operation["responses"].items() if code.startswith("2"))
            if "content" in good and "application/json" in good["content"]:
                schema = good["content"]["application/json"]["schema"]
                assert "$ref" in schema or schema["type"] == "object", (method, path)
            for status, answer in operation["responses"].items():
                if path.startswith("/api/runs") and int(status) >= 400:
                    assert PROBLEM in answer["content"], (method, path, status)
                    assert "application/json" not in answer["content"], (method, path, status)


def routes_of(routes: Iterable[Any]) -> Iterator[APIRoute]:
    """Every route, those of included routers too."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif router := getattr(route, "original_router", None):
            yield from routes_of(router.routes)


def test_each_route_is_documented(harness: Harness) -> None:
    page = API_PAGE.read_text()
    routes = list(routes_of(harness.app.routes))
    assert len(routes) > 15
    for route in routes:
        path = re.sub(r":(path|text)}", "}", route.path)
        for method in route.methods or ():
            assert f"`{method} {path}`" in page, f"{method} {path} is missing in {API_PAGE}"


def test_each_kind_of_problem_is_documented() -> None:
    page = API_PAGE.read_text()
    sources = "".join(
        path.read_text() for path in Path(__file__).parents[3].glob("dashboard/**/*.py")
    )
    kinds = set(re.findall(r"Problem\(\s*\d+,\s*\"([a-z-]+)\"", sources))
    assert len(kinds) > 8
    for kind in kinds:
        assert f"`{kind}`" in page, f"{kind} is missing in {API_PAGE}"
