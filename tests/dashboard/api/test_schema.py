"""Schemathesis sends valid and invalid requests: no request makes the server fail.

Every response has a status, media type and schema of the description.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lineside.bus.protocol import commands
from lineside.bus.protocol.events import Stream
from lineside.bus.testing import BrokerProcess, read_all
from tests.conftest import ON_CI
from tests.dashboard.conftest import Harness

load = importlib.import_module if ON_CI else pytest.importorskip
schemathesis: Any = load("schemathesis")

EXAMPLES = 250  # of each kind of question, over all routes
ENDLESS = "/api/live"
READINESS = "/readyz"
OURS = {"run_id": "tiny-1", "name": "loss"}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_no_request_of_schemathesis_makes_the_server_fail(
    harness: Harness, site: str, mode: str
) -> None:
    checks: Any = importlib.import_module("schemathesis.specs.openapi.checks")
    expected = [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    training = harness.begin()
    training.train(harness.feeder, 1, 20)
    answers = Stream("tiny-1", commands.CONTROL_PRODUCER, training.attempt)
    harness.feeder.record(answers, commands.CONTROL_ON, 1.7e9, data={"ops": list(commands.OPS)})
    described = schemathesis.openapi.from_url(f"{site}/api/openapi.json")
    described = described.exclude(path=ENDLESS)
    last_heartbeat = 0.0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=described.as_strategy(generation_mode=schemathesis.GenerationMode[mode]),
        ours=st.booleans(),
    )
    def ask(case: Any, ours: bool) -> None:
        nonlocal last_heartbeat
        if time.monotonic() - last_heartbeat > 5:  # otherwise it is disconnected and can be deleted
            training.heartbeat(harness.feeder, time.time(), 20)
            last_heartbeat = time.monotonic()
        if ours and case.path_parameters:
            known = {name: OURS.get(name, value) for name, value in case.path_parameters.items()}
            case.path_parameters.update(known)
        answer = case.call()
        # No recorder runs here: after some seconds it is behind the broker, and that is not ready.
        assert answer.status_code < 500 or case.path == READINESS, answer.text
        case.validate_response(answer, checks=expected)

    with BrokerProcess(harness.settings.home) as broker:
        ask()
        sent = read_all(broker.address, ["tiny-1/control"])
    if mode == "POSITIVE":
        assert {commands.Command.from_data(event.data).op for event in sent} <= set(commands.OPS)
        assert sent
    assert harness.history.run("tiny-1").status == "running"
