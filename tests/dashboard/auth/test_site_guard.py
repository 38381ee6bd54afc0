from __future__ import annotations

import httpx
import pytest
from starlette.responses import PlainTextResponse

from lineside.dashboard.auth.site_guard import SecurityMiddleware, host_name

APP = SecurityMiddleware(PlainTextResponse("in"))


async def _ask(method: str = "GET", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=APP)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7431") as client:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.request(method, "/api/runs/x", headers=given)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:7431", "127.0.0.1:1", "[::1]:7431"])
@pytest.mark.anyio
async def test_the_loopback_names_are_answered(host: str) -> None:
    answer = await _ask(host=host)
    assert answer.text == "in"
    assert "script-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "evil@localhost", "localhost/", "[::1", "", "a b"],
)
@pytest.mark.anyio
async def test_a_name_rebound_to_this_machine_is_refused(host: str) -> None:
    answer = await _ask(host=host)
    assert answer.status_code == 421
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:lineside:problem:wrong-host"


@pytest.mark.parametrize("method", ["PATCH", "DELETE", "POST"])
@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://["},
    ],
)
@pytest.mark.anyio
async def test_writes_from_another_site_are_refused(method: str, headers: dict[str, str]) -> None:
    answer = await _ask(method, **headers)
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:lineside:problem:cross-site"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec_fetch_site": "same-origin", "origin": "http://127.0.0.1:7431"},
        {"sec_fetch_site": "none"},
        {"origin": "http://127.0.0.1:7431"},
    ],
)
@pytest.mark.anyio
async def test_writes_from_here_and_from_tools_pass(headers: dict[str, str]) -> None:
    assert (await _ask("DELETE", **headers)).text == "in"


def test_a_host_with_a_port_that_is_no_number_is_no_host() -> None:
    assert host_name("localhost:seven") is None
