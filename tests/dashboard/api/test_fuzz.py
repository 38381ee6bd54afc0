"""Random requests: every response is JSON of a status that the description lists."""

from __future__ import annotations

import json
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dashboard.conftest import Harness

Operation = tuple[str, list[tuple[str, str]]]
words = st.sampled_from(
    ["", "0", "-1", "1e999", "nan", "null", "a,b", "loss", "time", "latest", "9" * 30, "%", "\x00"]
)
texts = words | st.text(max_size=20) | st.integers().map(str) | st.floats().map(str)


@pytest.fixture
def operations(harness: Harness, client: httpx.Client) -> list[Operation]:
    harness.train(extra={"läß/x": 1.0})
    paths = client.get("/api/openapi.json").json()["paths"]
    return [
        (path, [(one["in"], one["name"]) for one in methods["get"].get("parameters", [])])
        for path, methods in paths.items()
        if "get" in methods and path not in ("/api/live", "/readyz")
    ]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    which=st.integers(min_value=0),
    values=st.lists(st.none() | texts, min_size=10, max_size=10),
    ours=st.lists(st.sampled_from(["tiny-1", "loss", "läß/x", ""]), min_size=3, max_size=3),
)
def test_no_query_makes_the_server_fail(
    client: httpx.Client,
    operations: list[Operation],
    which: int,
    values: list[str | None],
    ours: list[str],
) -> None:
    path, parameters = operations[which % len(operations)]
    query = {}
    for (where, name), text in zip(parameters, values, strict=False):
        if where == "path":
            value = ours.pop() or text or ""
            path = path.replace(f"{{{name}}}", quote(value.encode("utf-8", "replace")))
        elif text is not None:
            query[name] = text.encode("utf-8", "replace").decode()
    answer = client.get(path, params=query, follow_redirects=True)
    assert answer.status_code in {200, 400, 404, 422}, (path, query, answer.text)
    json.loads(answer.text, parse_constant=lambda word: pytest.fail(f"{word} in {path}"))
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.floats() | texts,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "project", "note", "tags", "x"]), inner, max_size=4
            )
        ),
        max_leaves=8,
    )
)
def test_no_body_makes_the_server_fail(
    harness: Harness, client: httpx.Client, body: object
) -> None:
    if not harness.history.runs().items:
        harness.train()
    answer = client.patch("/api/runs/tiny-1", content=json.dumps(body).encode())
    assert answer.status_code in {200, 422}, (body, answer.text)
    assert client.get("/runs/tiny-1").status_code == 200
    assert client.get("/").status_code == 200
