"""No secret that a training handles is found in anything that Lineside writes or shows."""

from __future__ import annotations

import json
import urllib.request
from functools import partial
from pathlib import Path

from tests.emitter.redaction.corpus import planted
from tests.faults.stack import Stack
from tests.support.forked import ForkedScript
from tests.support.processes import environment
from tests.support.waiting import DEADLINE, wait_until

SCRIPT = Path(__file__).with_name("secrets_train.py")
PLACES = ("config", "log", "log_names", "event", "exception", "argv")
RUN = "/api/runs/planted"
PATHS = (
    *("/", "/runs/planted", "/parts/planted", "/timeline/planted", "/api/runs", RUN),
    *(f"{RUN}/config", f"{RUN}/events?limit=1000", f"{RUN}/metrics", f"{RUN}/account"),
)


def test_a_secret_in_any_place_of_a_training_is_found_nowhere(tmp_path: Path) -> None:
    values = {place: planted(place) for place in PLACES}
    places = {place: values_of_place for place, (values_of_place, _) in values.items()}
    places["name"] = ["tuned with hf_" + "NaMe1" * 7, "postgres://u:pRoJeCt1@db"]
    secrets = {secret: place for place in PLACES for secret in values[place][1]}
    forms = {secret: form for place in PLACES for secret, form in values[place][1].items()}
    secrets |= {"NaMe1": "name", "pRoJeCt1": "project"}
    forms |= {"NaMe1": "name", "pRoJeCt1": "project"}
    given = tmp_path / "values.json"
    given.write_text(json.dumps(places))
    words = [value for value in places["argv"] if isinstance(value, str)]
    with Stack(tmp_path / "home") as stack:
        stack.start()
        env = environment(stack.home, LINESIDE_BROKER=stack.broker.address)
        with ForkedScript([SCRIPT, given, *words], env=env) as process:
            assert process.wait(DEADLINE) == 0
        stack.wait_recorded("planted")
        history, address = stack.history(), stack.serve()
        seen = {str(path): path.read_bytes() for path in stack.home.rglob("*") if path.is_file()}
        assert {Path(path).suffix for path in seen} >= {".seg", ".db"}
        for path in PATHS:
            seen[path] = wait_until(partial(_get, address + path), f"{path} answers")
    found = [
        (place, forms[secret], where)
        for where, content in seen.items()
        for secret, place in secrets.items()
        if secret.encode() in content
    ]
    assert found == []
    names = {metric.name for metric in history.metrics("planted")}
    assert {"loss", "num_tokens", "eval_token_accuracy"} <= names
    assert history.run("planted").event_counts["log"] > len(places["log"])


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own address
            content: bytes = answer.read()
            return content
    except OSError:
        return b""
