"""Access with tokens: allowed requests, refused requests, and their audit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lineside.bus.auth import refusal_log
from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.bus.auth.listener import is_loopback, listen
from lineside.bus.auth.refusal_log import Refusal
from lineside.bus.client import producer as producing
from lineside.bus.client.reader import Reader
from lineside.bus.errors import UsageError
from lineside.bus.protocol.events import Event
from lineside.bus.protocol.messages import START
from lineside.bus.testing import BrokerProcess, read_all
from lineside.dashboard.app import create_app
from lineside.dashboard.auth.access import COOKIE
from lineside.dashboard.backend import refusal_publisher as auditing
from lineside.dashboard.backend.refusal_publisher import RefusalPublisher
from tests.bus.broker.secured_broker import LISTEN, SecuredBroker
from tests.dashboard.conftest import Harness, serving
from tests.dashboard.test_server import logged_url, process
from tests.support.waiting import DEADLINE, wait_until

HTML = {"accept": "text/html"}


@pytest.fixture
def keyring(harness: Harness) -> Keyring:
    return Keyring(keys_folder(harness.settings.home))


@pytest.fixture
def broker(harness: Harness) -> Iterator[BrokerProcess]:
    with BrokerProcess(harness.settings.home) as found:
        yield found


@pytest.fixture
def token_site(harness: Harness, keyring: Keyring) -> Iterator[httpx.Client]:
    """A client of a site that requires tokens and has one run."""
    harness.train()
    app = create_app(harness.history, harness.feeder.writer, harness.settings, keyring=keyring)
    with serving(app) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture(autouse=True)
def report_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals are reported ten times a second."""
    monkeypatch.setattr(refusal_log, "REPORT_INTERVAL_SECONDS", 0.1)


def refused(harness: Harness, enough: int) -> list[dict[str, Any]]:
    """The reports on ``enough`` refusals."""

    def is_enough(events: list[Event]) -> bool:
        return bool(sum((event.data or {})["count"] for event in events) >= enough)

    events = read_all(harness.settings.broker, ["audit/dashboard"], until=is_enough)
    assert {event.kind for event in events} == {"refused"}
    return [dict(event.data or {}) for event in events]


def test_without_a_token_only_health_without_details_is_answered(token_site: httpx.Client) -> None:
    for path in ("/api/runs", "/api/runs/tiny-1", "/api/openapi.json", "/api/live", "/nowhere"):
        answer = token_site.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["type"] == "urn:lineside:problem:no-access"
        assert "tiny-1" not in answer.text.replace(path, "")
    assert token_site.get("/healthz").json() == {"ok": True}
    ready = token_site.get("/readyz").json()
    assert ready["ready"]
    assert {check["detail"] for check in ready["checks"].values()} == {""}


def test_a_token_may_do_what_its_roles_allow(
    token_site: httpx.Client, keyring: Keyring, harness: Harness, broker: BrokerProcess
) -> None:
    reads = keyring.new_token("eyes", ["read"])
    steers = keyring.new_token("pilot", ["read", "control"])
    rules = keyring.new_token("chief", ["admin"])
    for token in (reads, steers, rules):
        assert (
            token_site.get("/api/runs", headers=bearer(token)).json()["items"][0]["id"] == "tiny-1"
        )
    note = {"note": "seen"}
    for method, path, token, status in (
        ("PATCH", "/api/runs/tiny-1", reads, 403),
        ("POST", "/api/runs/tiny-1/commands", reads, 403),
        ("PATCH", "/api/runs/tiny-1", steers, 200),
        ("DELETE", "/api/runs/tiny-1", reads, 403),
        ("DELETE", "/api/runs/tiny-1", steers, 403),
        ("DELETE", "/api/runs/tiny-1", rules, 204),
    ):
        body = note if method == "PATCH" else None
        answer = token_site.request(method, path, headers=bearer(token), json=body)
        assert answer.status_code == status, (method, token)
        if status == 403:
            assert answer.json()["type"] == "urn:lineside:problem:not-allowed"
            assert "takes the role" in answer.json()["detail"]
    published = refused(harness, 4)
    newest = {(one["who"], one["role"]): one["target"] for one in published}
    assert newest == {
        ("eyes", "read"): "/api/runs/tiny-1",
        ("pilot", "read, control"): "/api/runs/tiny-1",
    }
    assert {one["action"] for one in published} == {"http"}


def test_unknown_and_revoked_tokens_are_refused_and_audited_without_the_token(
    token_site: httpx.Client, keyring: Keyring, harness: Harness, broker: BrokerProcess
) -> None:
    gone = keyring.new_token("gone", ["read"])
    assert token_site.get("/api/runs", headers=bearer(gone)).status_code == 200
    keyring.revoke("gone")
    for token in ("ls_guessed", "Ünknown", gone):
        answer = token_site.get("/api/runs", headers={b"authorization": f"Bearer {token}".encode()})
        assert answer.status_code == 401
        assert "was revoked" in answer.json()["detail"]
    assert token_site.post("/login", data={"token": gone}).status_code == 401
    newest = {(one["who"], one["role"]): one["target"] for one in refused(harness, 3)}
    assert newest == {("127.0.0.1", ""): "/api/runs", ("gone", "read"): "/login"}
    kept = "".join(file.read_text() for file in keyring.folder.iterdir())
    assert gone not in kept
    assert gone not in (harness.settings.home / "broker.log").read_text()


def test_a_refusal_behind_a_proxy_names_an_address_and_no_other_text(
    token_site: httpx.Client, harness: Harness, broker: BrokerProcess
) -> None:
    for number, client in enumerate(("chief", "10.1.2.3", "2001:db8::1", "chief, 10.1.2.4")):
        forwarded = {"x-forwarded-for": client}
        assert token_site.get(f"/api/{number}", headers=forwarded).status_code == 401
    published = {one["target"]: one["who"] for one in refused(harness, 4)}
    assert list(map(published.get, sorted(published))) == [
        "",
        "10.1.2.3",
        "2001:db8::1",
        "10.1.2.4",
    ]


def test_a_browser_is_redirected_to_the_login_and_gets_a_cookie_for_this_site(
    token_site: httpx.Client, keyring: Keyring
) -> None:
    token = keyring.new_token("eyes", ["read"])
    led = token_site.get("/runs/tiny-1?x=1", headers=HTML)
    assert led.status_code == 303
    assert led.next_request is not None
    form = token_site.get(led.next_request.url, headers=HTML)
    assert 'name="next" value="/runs/tiny-1?x=1"' in form.text
    assert token_site.get("/static/base.css").status_code in (200, 404)

    wrong = token_site.post("/login", data={"token": "ls_no", "next": "/"})
    assert wrong.status_code == 401
    assert "not known here" in wrong.text
    assert "set-cookie" not in wrong.headers

    right = token_site.post("/login", data={"token": f" {token} ", "next": "/runs/tiny-1?x=1"})
    assert right.next_request is not None
    assert right.next_request.url == token_site.base_url.join("/runs/tiny-1?x=1")
    cookie = right.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie
    page = token_site.get("/runs/tiny-1", headers=HTML)  # the client keeps cookies
    assert page.status_code == 200
    assert "Logged in as eyes" in token_site.get("/login", headers=HTML).text
    denied = token_site.request("DELETE", "/runs/tiny-1", headers=HTML)
    assert denied.status_code == 403

    crossed = token_site.post("/logout", headers={"sec-fetch-site": "cross-site"})
    assert crossed.status_code == 403
    token_site.post("/logout")
    assert COOKIE not in token_site.cookies
    assert token_site.get("/", headers=HTML).status_code == 303


@pytest.mark.parametrize(
    "onward", ["https://evil.example/", "//evil.example", "/\\evil.example", "", "/\r\nx: y", "x"]
)
def test_the_login_redirects_only_to_this_site(
    token_site: httpx.Client, keyring: Keyring, onward: str
) -> None:
    token = keyring.new_token("eyes", ["read"])
    answer = token_site.post("/login", data={"token": token, "next": onward})
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    assert answer.next_request is not None
    assert answer.next_request.url == token_site.base_url.join("/")


def test_a_malformed_login_form_is_an_invalid_token(token_site: httpx.Client) -> None:
    for body in (b"", b"\xff\xfe", b"token=" + b"x" * 5000, b"next=/"):
        assert token_site.post("/login", content=body).status_code == 401


def test_behind_an_encrypted_proxy_the_cookie_is_secure(
    token_site: httpx.Client, keyring: Keyring
) -> None:
    token = keyring.new_token("eyes", ["read"])
    forwarded = {"x-forwarded-proto": "https"}
    answer = token_site.post("/login", data={"token": token}, headers=forwarded)
    assert "secure" in answer.headers["set-cookie"].lower()


def test_revoking_a_token_ends_its_live_stream(
    token_site: httpx.Client, keyring: Keyring, harness: Harness
) -> None:
    token = keyring.new_token("eyes", ["read"])
    ended = threading.Event()
    begun = threading.Event()

    def follow() -> None:
        with token_site.stream("GET", "/api/live", headers=bearer(token)) as answer:
            for _ in answer.iter_text():
                begun.set()
        ended.set()

    threading.Thread(target=follow, daemon=True).start()
    assert begun.wait(DEADLINE)
    keyring.revoke("eyes")
    number = iter(range(1000))

    def has_ended() -> bool:
        harness.begin(f"more-{next(number)}")
        return ended.wait(0.2)

    wait_until(has_ended, "the stream ended")


def test_requests_of_another_site_are_refused_and_audited_on_loopback_too(
    harness: Harness, client: httpx.Client, broker: BrokerProcess
) -> None:
    assert client.get("/api/runs", headers={"host": "evil.example"}).status_code == 421
    crossed = client.delete("/api/runs/x", headers={"origin": "http://evil.example"})
    assert crossed.status_code == 403
    published = refused(harness, 2)
    assert {one["who"] for one in published} == {"127.0.0.1"}
    assert published[-1]["target"] == "/api/runs/x"


def test_refusals_without_a_broker_are_published_once_it_runs(
    harness: Harness, client: httpx.Client
) -> None:
    for _ in range(3):
        client.get("/api/runs", headers={"host": "evil.example"})
    with BrokerProcess(harness.settings.home):
        published = refused(harness, 1)
        assert published[0]["target"] == "/api/runs"


def test_a_flood_of_refusals_becomes_one_stream_of_few_events(
    harness: Harness, client: httpx.Client, broker: BrokerProcess
) -> None:
    def flood(times: int) -> None:
        for number in range(times):
            client.get(f"/api/x{number}", headers={"host": "evil.example"})

    started = time.monotonic()
    flood(1)
    refused(harness, 1)  # and all is reported, so nothing more is to do
    flood(40)
    with Reader(harness.settings.broker, start=START, streams=["audit/dashboard"]) as reader:
        streams, events, count = set(), 0, 0
        while count < 41:
            batch = reader.poll(DEADLINE)
            assert batch is not None
            streams.add(batch.stream)
            events += len(batch.events)
            count += sum((event.data or {})["count"] for event in batch.events)
        assert (len(streams), count) == (1, 41)
        assert events <= 2 + (time.monotonic() - started) / refusal_log.REPORT_INTERVAL_SECONDS
        assert reader.poll(0.5) is None


def test_refusals_that_a_broker_denied_are_published_once_it_accepts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(auditing, "_BACKOFF_SECONDS", (0.3, 0.3))
    monkeypatch.setattr(producing, "_SILENCE_SECONDS", 0.2)
    secured = SecuredBroker(tmp_path)
    key, admin = secured.key("desk", "read"), secured.key("chief", "admin")
    with BrokerProcess(tmp_path, "--listen", LISTEN) as broker:
        secured.wait()
        audit = RefusalPublisher(secured.address(key))
        for target in ("/a", "/b"):
            audit.add(Refusal("10.0.0.1", "", "http", target, "no"))
        wait_until(lambda: caplog.text.count("refusals cannot be published") > 1, "it was refused")
        assert [thread.name for thread in threading.enumerate()].count("audit") == 1
        key.write_bytes(admin.read_bytes())
        audit.add(Refusal("10.0.0.1", "", "http", "/c", "no"))

        def published(events: list[Event]) -> bool:
            counts = [(event.data or {})["count"] for event in events]
            return bool(sum(counts) == 3 and (events[-1].data or {})["target"] == "/c")

        read_all(broker.address, ["audit/dashboard"], until=published)
        audit.close()


def test_off_loopback_the_dashboard_requires_tokens_or_does_not_start(tmp_path: Path) -> None:
    keyring = Keyring(keys_folder(tmp_path))
    with pytest.raises(UsageError, match="lineside keys new NAME --role read --token"):
        listen("0.0.0.0", 0, keyring)  # noqa: S104 - that is what is refused
    for options in (("--host", "0.0.0.0"), ("--tokens",)):  # noqa: S104
        with process(tmp_path, "--port", "0", *options) as started:
            assert started.wait(DEADLINE) == 2
            assert started.stderr is not None
            assert "lineside keys new NAME --role read --token" in started.stderr.read()
    token = keyring.new_token("eyes", ["read"])
    with listen("0.0.0.0", 0, keyring) as listener:  # noqa: S104
        assert not is_loopback(listener)
    for options in (("--host", "0.0.0.0"), ("--tokens",)):  # noqa: S104
        with process(tmp_path, "--port", "0", *options) as started:
            url = logged_url(started).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
            named = {"host": "training.example:7431"}
            assert httpx.get(f"{url}/api/runs", headers=named).status_code == 401
            answer = httpx.get(f"{url}/api/runs", headers=bearer(token) | named, timeout=DEADLINE)
            assert answer.status_code == 503  # there is no store yet
