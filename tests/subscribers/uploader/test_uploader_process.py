"""``lineside uploader`` as a process: killed, and beside a receiver that goes and comes back."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from lineside.subscribers.uploader.batch import Batch
from lineside.subscribers.uploader.dead_letters import DeadLetters
from tests.cli.homes import Home
from tests.subscribers.conftest import ServiceProcess
from tests.subscribers.kit import ATTEMPT, published
from tests.subscribers.uploader.kit import Lake, batch, batch_of
from tests.support.http_receiver import DRIP, DROP, HANG, HttpReceiver, http_receiver
from tests.support.waiting import DEADLINE, wait_until

RUNS = ("one", "two")
LOGS = 240
FAULTS = [500, DROP, (429, {"Retry-After": "0"}), HANG, 503, DRIP, 408]


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as made:
        yield made


@pytest.fixture
def config(tmp_path: Path, receiver: HttpReceiver) -> Path:
    file = tmp_path / "lineside.yaml"
    file.write_text(
        f"""
uploads:
  lake: {{url: "{receiver.url}/metrics", key: "${{LAKE_KEY:-secret-key}}",
         interval: 0.1, batch: 16, timeout: 1}}
"""
    )
    return file


@pytest.fixture
def uploader(settings: Settings, broker: BrokerProcess, config: Path) -> Iterator[ServiceProcess]:
    process = ServiceProcess("uploader", settings, "lake", "--config", str(config))
    with process:
        yield process


def train_slowly(address: str, run: str, seconds: float) -> None:
    with Producer(address, f"{run}/rank0/{ATTEMPT}") as producer:
        producer.emit("run_start", data={"name": run})
        for step in range(LOGS):
            producer.emit("log", step=step, data={"logs": {"loss": 1 / (step + 1)}})
            if step % 10 == 0:
                producer.flush(DEADLINE)
                time.sleep(seconds * 10 / LOGS)
        producer.emit("run_end")
        producer.flush(DEADLINE)


@pytest.mark.fault
@pytest.mark.long
def test_each_point_arrives_once_and_in_order_though_uploader_and_receiver_are_killed(
    broker: BrokerProcess, uploader: ServiceProcess, receiver: HttpReceiver
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    receiver.answers[:] = [answer for fault in FAULTS for answer in (204, fault)]
    trainings = [
        threading.Thread(target=train_slowly, args=(broker.address, run, 8)) for run in RUNS
    ]
    for training in trainings:
        training.start()
    port, requests = receiver.port, receiver.requests
    taken = list[Any]()
    for _ in range(3):
        uploader.wait_started()
        time.sleep(chosen.uniform(0.2, 1.5))
        uploader.kill()
        uploader.log.unlink()
        uploader.start()
    receiver.close()
    time.sleep(1.5)
    with_faults = HttpReceiver([500, 204, HANG, 204, DROP], port)
    try:
        uploader.wait_started()
        time.sleep(chosen.uniform(0.2, 1.5))
        uploader.kill()
        uploader.start()
        for training in trainings:
            training.join()

        def rows() -> dict[tuple[str, int], Any]:
            taken[:] = [*receiver.taken, *with_faults.taken]
            found: dict[tuple[str, int], Any] = {}
            for body in map(batch_of, list(taken)):
                for point in body["points"]:
                    found.setdefault((body["stream"], point["seq"]), point)
            return found

        wait_until(lambda: len(rows()) == 2 * LOGS, "all points")
    finally:
        with_faults.close()
    for run in RUNS:
        stream = f"{run}/rank0/{ATTEMPT}"
        steps = [point["step"] for (name, _), point in rows().items() if name == stream]
        assert steps == list(range(LOGS)), run
    # What came twice, or without an answer, came as the same batch with the same key.
    keys: dict[tuple[str, int], str] = {}
    for request in [*requests, *with_faults.requests]:
        body = batch_of(request)
        assert body["key"] == Batch.from_json(body).key == request.headers["idempotency-key"]
        for point in body["points"]:
            place = (body["stream"], point["seq"])
            assert keys.setdefault(place, body["key"]) == body["key"]


def test_a_batch_that_was_refused_is_sent_again_by_a_command(
    settings: Settings,
    broker: BrokerProcess,
    uploader: ServiceProcess,
    receiver: HttpReceiver,
    config: Path,
) -> None:
    receiver.answers[:] = [(400, {}, b"not with secret-key")]
    train_slowly(broker.address, "one", 0)
    wait_until(lambda: bool(published(settings, "one", "subscriber_error")), "a report")
    lake, home = Lake(receiver), Home(settings.home)
    [path] = DeadLetters(settings.home, "lake").files()
    refused = json.loads(path.read_text())["batch"]["n"]
    wait_until(lambda: len(lake.rows) == LOGS - refused, "the points behind it")
    checks = json.loads(home.lineside("doctor", "--json").stdout)["checks"]
    [check] = [one for one in checks if one["subject"] == "upload lake"]
    assert "its receiver refused 1 batch" in check["detail"]
    receiver.answers[:] = [400]
    command = ("uploader", "lake", "--resend", "--config", str(config))
    ended = home.lineside(*command)
    assert (ended.returncode, "1 batch left in" in ended.stdout) == (1, True)
    ended = home.lineside(*command)
    assert (ended.returncode, "0 batches left in" in ended.stdout) == (0, True)
    assert sorted(lake.steps(f"one/rank0/{ATTEMPT}")) == list(range(LOGS))
    receiver.answers[:] = [503]
    DeadLetters(settings.home, "lake").keep(batch({"loss": 1}), "no")
    ended = home.lineside(*command)
    assert ended.returncode == 1
    assert "the receiver does not take batches now: the answer was 503" in ended.stderr
    assert "secret-key" not in uploader.log_text()


def test_an_upload_that_is_not_in_the_file_is_refused(config: Path, tmp_path: Path) -> None:
    ended = Home(tmp_path / "home").lineside("uploader", "lac", "--config", str(config))
    assert ended.returncode == 2
    assert "'lac' is no upload: expected the name of one in the section `uploads`" in ended.stderr
    assert "which has lake" in ended.stderr


def test_the_configuration_is_shown_without_secrets(config: Path, tmp_path: Path) -> None:
    config.write_text(
        "uploads: {a: {url: 'https://u:secret1@h/secret2?t=secret3', key: secret4, "
        "headers: {X: secret5}}}"
    )
    ended = Home(tmp_path / "home").lineside("config", "show", str(config))
    assert ended.returncode == 0
    assert "https://h/<redacted>" in ended.stdout
    assert "secret" not in ended.stdout
