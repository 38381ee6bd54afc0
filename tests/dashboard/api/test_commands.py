"""Commands over HTTP: sent once, listed with their state, refused if no training takes them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest

from lineside.bus.protocol import commands
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.testing import BrokerProcess, Producer, read_all
from lineside.dashboard.http.body_limit import BODY_MAX
from tests.dashboard.api.test_api import problem
from tests.dashboard.conftest import Harness
from tests.subscribers.conftest import ServiceProcess
from tests.support.waiting import DEADLINE, wait_until

COMMANDS = "/api/runs/tiny-1/commands"


@pytest.fixture
def broker(harness: Harness) -> Iterator[BrokerProcess]:
    with BrokerProcess(harness.settings.home) as process:
        yield process


@pytest.fixture
def recorder(harness: Harness, broker: BrokerProcess) -> Iterator[ServiceProcess]:
    with ServiceProcess("recorder", harness.settings) as process:
        yield process


def begin(harness: Harness) -> None:
    """A training in progress with a recent heartbeat."""
    training = harness.begin()
    training.heartbeat(harness.feeder, time.time(), 3)


def asked(broker: BrokerProcess) -> list[Event]:
    """The commands in the journal."""
    return [e for e in read_all(broker.address, ["tiny-1/control"]) if e.kind == "command"]


def listed(client: httpx.Client) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get(COMMANDS).json()["items"]
    return items


def test_a_command_goes_out_and_comes_back_with_each_state(
    harness: Harness, client: httpx.Client, recorder: ServiceProcess, broker: BrokerProcess
) -> None:
    del recorder
    begin(harness)
    sent = client.post(
        COMMANDS, json={"op": "set_lr", "args": {"lr": 0.5}, "reason": "a try", "expires_in": 60}
    )
    assert sent.status_code == 202
    command = sent.json()
    assert (command["state"], command["issued_by"]) == ("requested", "user@dashboard")
    [event] = asked(broker)
    assert event.data is not None
    assert event.data["args"] == {"lr": 0.5}
    assert event.data["expires_at"] == pytest.approx(time.time() + 60, abs=20)
    with Producer(broker.address, Stream("tiny-1", "control", "training")) as training:
        training.emit(commands.DELIVERED, step=4, data={"id": command["id"]})
        training.emit(commands.APPLIED, step=5, data={"id": command["id"], "from": 0.25, "to": 0.5})
        training.flush()
    wait_until(lambda: [c["state"] for c in listed(client)] == ["applied"], "it is recorded")
    [found] = listed(client)
    assert found["args"] == {"lr": 0.5}
    assert (found["step"], found["detail"], found["attempt"]) == (5, "from 0.25 to 0.5", "training")
    assert found["requested_at"] < found["settled_at"]
    entries = client.get("/api/audit", params={"run": "tiny-1"}).json()["items"]
    assert [(e["who"], e["action"], e["outcome"]) for e in entries] == [
        ("user@dashboard", "set_lr 0.5", outcome)
        for outcome in ("applied", "delivered", "requested")
    ]


def test_the_same_command_again_is_sent_once(
    harness: Harness, client: httpx.Client, recorder: ServiceProcess, broker: BrokerProcess
) -> None:
    begin(harness)
    body = {"op": "stop", "args": {"save": False}, "id": "only-once"}
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: client.post(COMMANDS, json=body), range(5)))
    assert [answer.status_code for answer in answers] == [202] * 5
    found = [answer.json() for answer in answers]
    same = ("id", "op", "args", "reason", "issued_by", "state", "expires_at")
    assert [[one[name] for name in same] for one in found] == [
        [found[0][name] for name in same]
    ] * 5
    wait_until(lambda: len(listed(client)) == 1, "it is recorded")
    again = client.post(COMMANDS, json=body)
    assert (again.status_code, again.json()) == (202, listed(client)[0])
    assert len(asked(broker)) == 1
    others: list[dict[str, Any]] = [{"op": "save", "args": {}}, {"args": {}}, {"reason": "another"}]
    for other in others:
        problem(client.post(COMMANDS, json={**body, **other}), 409, "other-command")
    recorder.kill()
    wanted = {"op": "log", "id": "not-recorded", "reason": "no\0text"}
    assert client.post(COMMANDS, json=wanted).json()["state"] == "requested"
    assert client.post(COMMANDS, json=wanted).status_code == 202
    problem(client.post(COMMANDS, json={**wanted, "op": "save"}), 409, "other-command")
    assert len(asked(broker)) == 2


def test_ended_and_unknown_runs_and_loops_take_no_commands(
    harness: Harness, client: httpx.Client, broker: BrokerProcess
) -> None:
    harness.begin("loop-1", source="loop").heartbeat(harness.feeder, time.time(), 3)
    loop = client.post("/api/runs/loop-1/commands", json={"op": "save"})
    detail = "It is a loop with start_run, which takes no commands."
    assert problem(loop, 409, "not-training")["detail"] == detail
    harness.train()
    refused = problem(client.post(COMMANDS, json={"op": "save"}), 409, "not-training")
    assert refused["detail"] == "The run is finished: it takes no commands any more."
    problem(client.post("/api/runs/nope/commands", json={"op": "save"}), 404, "unknown-run")
    problem(client.get("/api/runs/nope/commands"), 404, "unknown-run")
    assert read_all(broker.address) == []
    assert listed(client) == []


def test_without_a_broker_every_command_fails(harness: Harness, client: httpx.Client) -> None:
    begin(harness)
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post(COMMANDS, json={"op": "stop"}), range(8)))
    assert time.monotonic() - started < 20  # not one after the other at 3 s each
    for answer in answers:
        refused = problem(answer, 503, "not-sent")
        assert str(refused["id"]) in str(refused["detail"])
    assert listed(client) == []
    with BrokerProcess(harness.settings.home) as broker:
        assert asked(broker) == []
        assert client.post(COMMANDS, json={"op": "stop"}).status_code == 202


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "nothing",
        '{"op": "sing"}',
        '{"op": "save", "args": {"lr": 1}}',
        '{"op": "set_lr"}',
        '{"op": "set_lr", "args": {"lr": NaN}}',
        '{"op": "set_lr", "args": {"lr": 1e999}}',
        '{"op": "set_lr", "args": {"lr": "1"}}',
        '{"op": "stop", "args": {"save": 1}}',
        '{"op": "stop", "more": 1}',
        '{"op": "stop", "expires_in": 0}',
        '{"op": "stop", "expires_in": Infinity}',
        '{"op": "stop", "expires_in": "60"}',
        '{"op": "stop", "id": ""}',
        '{"op": "stop", "id": "a b"}',
        '{"op": "stop", "reason": null}',
        '{"op": "stop", "reason": "\\ud800"}',
        '{"op": "stop", "\\ud800": 1}',
        '{"op": "stop", "args": {"\\ud800": 1}}',
    ],
)
def test_an_invalid_command_is_refused_with_a_reason(
    harness: Harness, client: httpx.Client, body: str
) -> None:
    begin(harness)
    headers = {"content-type": "application/json"}
    refused = problem(client.post(COMMANDS, content=body, headers=headers), 422, "invalid-request")
    assert refused["errors"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("{", "body: expected a JSON object, with content-type: application/json"),
        ("[]", "body: expected a JSON object, with content-type: application/json"),
        (
            '{"op": "fly"}',
            "op: 'fly' is not valid; expected one of stop, save, evaluate, log, pause, ",
        ),
        (
            '{"op": "proceed", "args": {"seq": 1}}',
            "op: 'proceed' is not valid; expected one of stop, ",
        ),
        (
            '{"op": "set_lr", "args": {"lr": "x"}}',
            "set_lr lr: 'x' is not valid; expected a number above 0 and at most 1,000",
        ),
        ('{"op": "save", "args": {"x": [1]}}', "save x: [1] is not valid; expected no arguments"),
    ],
)
def test_a_refusal_names_the_bad_value_and_the_expectation(
    harness: Harness, client: httpx.Client, body: str, detail: str
) -> None:
    begin(harness)
    headers = {"content-type": "application/json"}
    refused = problem(client.post(COMMANDS, content=body, headers=headers), 422, "invalid-request")
    assert str(refused["detail"]).startswith(detail)
    assert "proceed" not in str(refused["detail"]).partition("expected")[2]


@pytest.mark.parametrize("framing", ["content-length", "transfer-encoding"])
def test_a_body_that_is_too_large_is_refused_before_it_is_complete(
    harness: Harness, site: str, framing: str
) -> None:
    begin(harness)
    for method, path in (("POST", COMMANDS), ("PATCH", "/api/runs/tiny-1")):
        with closing(HTTPConnection(site.partition("://")[2], timeout=DEADLINE)) as connection:
            connection.putrequest(method, path)
            connection.putheader("content-type", "application/json")
            is_chunked = framing == "transfer-encoding"
            connection.putheader(framing, "chunked" if is_chunked else str(1 << 32))
            connection.endheaders()
            piece = b" " * (BODY_MAX + 1)
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            answer = connection.getresponse()
            assert answer.status == 413
            assert json.loads(answer.read())["type"] == "urn:lineside:problem:too-large"


def test_a_command_from_another_site_is_refused(
    harness: Harness, client: httpx.Client, broker: BrokerProcess
) -> None:
    begin(harness)
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}):
        answer = client.post(COMMANDS, json={"op": "stop"}, headers=headers)
        problem(answer, 403, "cross-site")
    assert asked(broker) == []


def test_pages_of_commands_and_audit_follow_one_another(
    harness: Harness, client: httpx.Client
) -> None:
    begin(harness)
    stream = Stream("tiny-1", "control", "issuer")
    for number in range(5):
        command = commands.Command("log", id=f"c{number}")
        harness.feeder.record(stream, commands.COMMAND, 1.7e9 + number, data=command.to_data())
    for address, name in ((COMMANDS, "id"), ("/api/audit", "command")):
        first = client.get(address, params={"limit": "3"}).json()
        rest = client.get(address, params={"limit": "3", "cursor": first["next"]}).json()
        found = [item[name] for item in (*first["items"], *rest["items"])]
        assert found == ["c4", "c3", "c2", "c1", "c0"]
        assert rest["next"] is None
        problem(client.get(address, params={"cursor": "W10="}), 400, "bad-request")


def test_a_command_is_a_change_on_the_live_stream(harness: Harness, client: httpx.Client) -> None:
    begin(harness)
    with client.stream("GET", "/api/live", params={"run": "tiny-1"}) as live:
        lines = live.iter_lines()
        assert any("event: hello" in line for line in lines)
        command = commands.Command("log")
        stream = Stream("tiny-1", "control", "issuer")
        harness.feeder.record(stream, commands.COMMAND, time.time(), data=command.to_data())
        assert any("event: changes" in line for line in lines)
