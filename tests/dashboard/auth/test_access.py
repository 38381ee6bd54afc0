"""Where tokens are asked for: who is let in, to what, and that the rest is refused and noted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lineside.bus.auth.audit import Refusal
from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.bus.client import producer as producing
from lineside.bus.client.reader import Reader
from lineside.bus.errors import UsageError
from lineside.bus.protocol.events import Event
from lineside.bus.protocol.messages import START
from lineside.bus.testing import BrokerProcess, read_all
from lineside.dashboard.app import create_app
from lineside.dashboard.auth.access import COOKIE
from lineside.dashboard.auth.listening import is_loopback, listen
from lineside.dashboard.backend import audit as auditing
from lineside.dashboard.backend.audit import Audit
from tests.bus.broker.walls import LISTEN, Wall
from tests.dashboard.conftest import DEADLINE, House, serving, wait_for
from tests.dashboard.test_server import announced, process

HTML = {"accept": "text/html"}


@pytest.fixture
def keyring(house: House) -> Keyring:
    return Keyring(keys_folder(house.settings.home))


@pytest.fixture
def broker(house: House) -> Iterator[BrokerProcess]:
    with BrokerProcess(house.settings.home) as found:
        yield found


@pytest.fixture
def closed(house: House, keyring: Keyring) -> Iterator[httpx.Client]:
    """A site that takes tokens, with one run."""
    house.train()
    app = create_app(house.history, house.feeder.writer, house.settings, keyring=keyring)
    with serving(app) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def refused(house: House, enough: int) -> list[dict[str, Any]]:
    events = read_all(
        house.settings.broker, ["audit/dashboard"], until=lambda found: len(found) >= enough
    )
    assert {event.kind for event in events} == {"refused"}
    return [dict(event.data or {}) for event in events]


def test_without_a_token_nothing_is_told_but_how_it_is(closed: httpx.Client) -> None:
    for path in ("/api/runs", "/api/runs/tiny-1", "/api/openapi.json", "/api/live", "/nowhere"):
        answer = closed.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["type"] == "urn:lineside:problem:no-access"
        assert "tiny-1" not in answer.text.replace(path, "")
    assert closed.get("/healthz").json() == {"ok": True}
    ready = closed.get("/readyz").json()
    assert ready["ready"]
    assert {check["detail"] for check in ready["checks"].values()} == {""}


def test_a_token_may_what_its_roles_say(
    closed: httpx.Client, keyring: Keyring, house: House, broker: BrokerProcess
) -> None:
    reads = keyring.new_token("eyes", ["read"])
    steers = keyring.new_token("pilot", ["read", "control"])
    rules = keyring.new_token("chief", ["admin"])
    for token in (reads, steers, rules):
        assert closed.get("/api/runs", headers=bearer(token)).json()["items"][0]["id"] == "tiny-1"
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
        answer = closed.request(method, path, headers=bearer(token), json=body)
        assert answer.status_code == status, (method, token)
        if status == 403:
            assert answer.json()["type"] == "urn:lineside:problem:not-allowed"
            assert "takes the role" in answer.json()["detail"]
    told = refused(house, 3)
    assert {(one["who"], one["role"], one["target"]) for one in told} == {
        ("eyes", "read", "/api/runs/tiny-1"),
        ("eyes", "read", "/api/runs/tiny-1/commands"),
        ("pilot", "read, control", "/api/runs/tiny-1"),
    }
    assert {one["action"] for one in told} == {"http"}


def test_an_unknown_and_a_revoked_token_are_refused_and_noted_without_being_kept(
    closed: httpx.Client, keyring: Keyring, house: House, broker: BrokerProcess
) -> None:
    gone = keyring.new_token("gone", ["read"])
    assert closed.get("/api/runs", headers=bearer(gone)).status_code == 200
    keyring.revoke("gone")
    for token in ("ls_guessed", "Ünknown", gone):
        answer = closed.get("/api/runs", headers={b"authorization": f"Bearer {token}".encode()})
        assert answer.status_code == 401
        assert "was revoked" in answer.json()["detail"]
    assert closed.post("/login", data={"token": gone}).status_code == 401
    told = {(one["who"], one["role"], one["target"]) for one in refused(house, 3)}
    assert told == {
        ("127.0.0.1", "", "/api/runs"),
        ("gone", "read", "/api/runs"),
        ("gone", "read", "/login"),
    }
    kept = "".join(file.read_text() for file in keyring.folder.iterdir())
    assert gone not in kept
    assert gone not in (house.settings.home / "broker.log").read_text()


def test_who_is_refused_over_a_proxy_is_an_address_whatever_he_says(
    closed: httpx.Client, house: House, broker: BrokerProcess
) -> None:
    for number, client in enumerate(("chief", "10.1.2.3", "2001:db8::1", "chief, 10.1.2.4")):
        forwarded = {"x-forwarded-for": client}
        assert closed.get(f"/api/{number}", headers=forwarded).status_code == 401
    told = {one["target"]: one["who"] for one in refused(house, 4)}
    assert list(map(told.get, sorted(told))) == ["", "10.1.2.3", "2001:db8::1", "10.1.2.4"]


def test_a_browser_is_led_to_a_form_and_its_cookie_is_for_this_site_alone(
    closed: httpx.Client, keyring: Keyring
) -> None:
    token = keyring.new_token("eyes", ["read"])
    led = closed.get("/runs/tiny-1?x=1", headers=HTML)
    assert led.status_code == 303
    form = closed.get(led.headers["location"], headers=HTML)
    assert 'name="next" value="/runs/tiny-1?x=1"' in form.text
    assert closed.get("/static/base.css").status_code in (200, 404)

    wrong = closed.post("/login", data={"token": "ls_no", "next": "/"})
    assert wrong.status_code == 401
    assert "not known here" in wrong.text
    assert "set-cookie" not in wrong.headers

    right = closed.post("/login", data={"token": f" {token} ", "next": "/runs/tiny-1?x=1"})
    assert (right.status_code, right.headers["location"]) == (303, "/runs/tiny-1?x=1")
    cookie = right.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie
    page = closed.get("/runs/tiny-1", headers=HTML)  # the client keeps cookies
    assert page.status_code == 200
    assert "Logged in as eyes" in closed.get("/login", headers=HTML).text
    not_his = closed.request("DELETE", "/runs/tiny-1", headers=HTML)
    assert not_his.status_code == 403

    crossed = closed.post("/logout", headers={"sec-fetch-site": "cross-site"})
    assert crossed.status_code == 403
    closed.post("/logout")
    assert COOKIE not in closed.cookies
    assert closed.get("/", headers=HTML).status_code == 303


@pytest.mark.parametrize(
    "onward", ["https://evil.example/", "//evil.example", "/\\evil.example", "", "/\r\nx: y", "x"]
)
def test_the_form_leads_nowhere_else(closed: httpx.Client, keyring: Keyring, onward: str) -> None:
    token = keyring.new_token("eyes", ["read"])
    answer = closed.post("/login", data={"token": token, "next": onward})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_a_form_that_is_none_is_a_wrong_token(closed: httpx.Client) -> None:
    for body in (b"", b"\xff\xfe", b"token=" + b"x" * 5000, b"next=/"):
        assert closed.post("/login", content=body).status_code == 401


def test_over_an_encrypted_proxy_the_cookie_is_for_encrypted_connections(
    closed: httpx.Client, keyring: Keyring
) -> None:
    token = keyring.new_token("eyes", ["read"])
    forwarded = {"x-forwarded-proto": "https"}
    answer = closed.post("/login", data={"token": token}, headers=forwarded)
    assert "secure" in answer.headers["set-cookie"].lower()


def test_a_live_stream_ends_with_its_token(
    closed: httpx.Client, keyring: Keyring, house: House
) -> None:
    token = keyring.new_token("eyes", ["read"])
    ended = threading.Event()
    begun = threading.Event()

    def follow() -> None:
        with closed.stream("GET", "/api/live", headers=bearer(token)) as answer:
            for _ in answer.iter_text():
                begun.set()
        ended.set()

    threading.Thread(target=follow, daemon=True).start()
    assert begun.wait(DEADLINE)
    keyring.revoke("eyes")
    number = iter(range(1000))

    def has_ended() -> bool:
        house.begin(f"more-{next(number)}")
        return ended.wait(0.2)

    wait_for(has_ended, "the stream ended")


def test_another_site_is_refused_and_noted_on_loopback_too(
    house: House, client: httpx.Client, broker: BrokerProcess
) -> None:
    assert client.get("/api/runs", headers={"host": "evil.example"}).status_code == 421
    crossed = client.delete("/api/runs/x", headers={"origin": "http://evil.example"})
    assert crossed.status_code == 403
    told = refused(house, 2)
    assert {(one["who"], one["target"]) for one in told} == {
        ("127.0.0.1", "/api/runs"),
        ("127.0.0.1", "/api/runs/x"),
    }


def test_what_was_refused_while_no_broker_was_there_is_told_when_there_is(
    house: House, client: httpx.Client
) -> None:
    for _ in range(3):
        client.get("/api/runs", headers={"host": "evil.example"})
    with BrokerProcess(house.settings.home):
        told = refused(house, 1)
        assert told[0]["target"] == "/api/runs"


def test_a_flood_of_refusals_is_one_stream_and_few_words(
    house: House, client: httpx.Client, broker: BrokerProcess
) -> None:
    def flood(times: int) -> None:
        for number in range(times):
            client.get(f"/api/x{number}", headers={"host": "evil.example"})

    flood(1)
    refused(house, 1)  # and all is said, so nothing more is to do
    flood(40)
    with Reader(house.settings.broker, start=START, streams=["audit/dashboard"]) as reader:
        streams, events = set(), 0
        while events < 9:
            batch = reader.poll(DEADLINE)
            assert batch is not None
            streams.add(batch.stream)
            events += len(batch.events)
        assert len(streams) == 1
        assert reader.poll(0.5) is None


def test_what_a_broker_does_not_take_of_the_dashboards_is_said_once_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(auditing, "_PAUSE_SECONDS", (0.3, 0.3))
    monkeypatch.setattr(producing, "_SILENCE_SECONDS", 0.2)
    wall = Wall(tmp_path)
    key, admin = wall.key("desk", "read"), wall.key("chief", "admin")
    with BrokerProcess(tmp_path, "--listen", LISTEN) as broker:
        wall.wait()
        audit = Audit(wall.address(key))
        for target in ("/a", "/b"):
            audit.note(Refusal("10.0.0.1", "", "http", target, "no"))
        wait_for(lambda: caplog.text.count("refusals cannot be told") > 1, "it was refused")
        assert [thread.name for thread in threading.enumerate()].count("audit") == 1
        key.write_bytes(admin.read_bytes())
        audit.note(Refusal("10.0.0.1", "", "http", "/c", "no"))

        def told(events: list[Event]) -> bool:
            return sorted((event.data or {})["target"] for event in events) == ["/a", "/b", "/c"]

        read_all(broker.address, ["audit/dashboard"], until=told)
        audit.close()


def test_off_loopback_it_takes_tokens_or_does_not_start(tmp_path: Path) -> None:
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
            url = announced(started).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
            named = {"host": "training.example:7431"}
            assert httpx.get(f"{url}/api/runs", headers=named).status_code == 401
            answer = httpx.get(f"{url}/api/runs", headers=bearer(token) | named, timeout=DEADLINE)
            assert answer.status_code == 503  # there is no store yet
