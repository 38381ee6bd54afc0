"""The uploader beside a real broker and a receiver that misbehaves: what is sent, and when."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside.bus.protocol.events import Event
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess, Producer
from lineside.subscribers.context import RunFilter
from lineside.subscribers.testing import deliver, synthetic_run
from lineside.subscribers.uploader.dead_letters import DeadLetters
from lineside.subscribers.uploader.options import CollectOptions, ReceiverOptions
from lineside.subscribers.uploader.sinks.registry import make_sink
from lineside.subscribers.uploader.sinks.sink import Unavailable
from lineside.subscribers.uploader.uploader import Uploader
from tests.subscribers.kit import ATTEMPT, published, train
from tests.subscribers.uploader.kit import Lake, batch_of, uploading
from tests.support.http_receiver import DRIP, DROP, HANG, HttpReceiver, http_receiver
from tests.support.waiting import wait_until

STREAM = f"run/rank0/{ATTEMPT}"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineside.subscribers.service._TICK_SECONDS", 0.05)
    monkeypatch.setattr("lineside.subscribers.uploader.uploader.RETRY_SECONDS", (0.05, 0.2))


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as made:
        yield made


@pytest.fixture
def lake(receiver: HttpReceiver) -> Lake:
    return Lake(receiver)


def test_each_log_is_one_point_and_a_batch_has_its_place_in_the_stream(
    settings: Settings, broker: BrokerProcess, receiver: HttpReceiver, lake: Lake
) -> None:
    train(broker.address, "run", range(5))
    options = ReceiverOptions("http", receiver.url, key="secret-key", headers={"X-Team": "a"})
    with uploading(settings, "", options, batch=3):
        wait_until(lambda: len(lake.rows) == 5, "all points")
    first, *_ = receiver.taken
    assert first.headers["authorization"] == "Bearer secret-key"
    assert first.headers["x-team"] == "a"
    body = batch_of(first)
    assert first.headers["idempotency-key"] == body["key"]
    assert body["version"] == 1
    assert (body["run"], body["name"], body["project"]) == ("run", "name of run", "tests")
    assert (body["producer"], body["attempt"], body["stream"]) == ("rank0", ATTEMPT, STREAM)
    assert body["n"] == len(body["points"]) <= 3
    assert (body["first_seq"], body["last_seq"]) == (2, body["points"][-1]["seq"])
    assert body["points"][0]["values"] == {"loss": 0}
    assert lake.steps(STREAM) == list(range(5))


@pytest.mark.parametrize(
    "answers",
    [
        [500, 502, 503],
        [408, 425, (429, {"Retry-After": "0"})],
        [401, 403, 404, 415],  # about the upload, which a person mends
        [(302, {"Location": "/elsewhere"}), DROP, 500],
    ],
    ids=str,
)
def test_a_receiver_that_fails_for_a_while_gets_the_same_batch_again(
    settings: Settings,
    broker: BrokerProcess,
    receiver: HttpReceiver,
    lake: Lake,
    answers: list[object],
) -> None:
    receiver.answers[:] = answers
    train(broker.address, "run", range(3))
    with uploading(settings, receiver.url):
        wait_until(lambda: len(lake.rows) == 3, "all points")
    keys = [request.headers["idempotency-key"] for request in receiver.requests[: len(answers) + 1]]
    assert len(set(keys)) == 1
    assert lake.steps(STREAM) == [0, 1, 2]
    assert not list((settings.home / "uploads").glob("*/*"))


@pytest.mark.parametrize("answer", [HANG, DRIP])
def test_a_receiver_that_does_not_end_its_answer_is_left_and_asked_again(
    settings: Settings, broker: BrokerProcess, receiver: HttpReceiver, lake: Lake, answer: str
) -> None:
    receiver.answers[:] = [answer]
    train(broker.address, "run", range(3))
    with uploading(settings, "", ReceiverOptions("http", receiver.url, timeout=0.3)):
        wait_until(lambda: len(lake.rows) == 3, "all points")
    assert receiver.requests[1].time - receiver.requests[0].time >= 0.3


def test_the_pause_that_a_receiver_asks_for_is_kept_by_ticks_and_events_alike(
    settings: Settings, broker: BrokerProcess, receiver: HttpReceiver, lake: Lake
) -> None:
    receiver.answers[:] = [(429, {"Retry-After": "1"}), (503, {"Retry-After": "1"})]
    with uploading(settings, receiver.url, batch=1):
        train(broker.address, "run", range(4))
        wait_until(lambda: len(lake.rows) == 4, "all points")
    times = [request.time for request in receiver.requests]
    assert times[1] - times[0] >= 1
    assert times[2] - times[1] >= 1


def test_a_batch_that_is_refused_for_good_is_put_aside_shown_and_may_be_sent_again(
    settings: Settings, broker: BrokerProcess, receiver: HttpReceiver, lake: Lake
) -> None:
    receiver.answers[:] = [(422, {}, b"no key=secret-key may send a loss of 0. " + b"x" * 2000)]
    train(broker.address, "run", range(4))
    options = ReceiverOptions("http", receiver.url, key="secret-key")
    with uploading(settings, "", options, batch=2):
        wait_until(lambda: len(lake.rows) == 2, "the points behind it")
        wait_until(lambda: bool(published(settings, "run", "subscriber_error")), "a report")
    [report] = published(settings, "run", "subscriber_error")
    assert report.data is not None
    assert report.data["action"] == "skipped"
    message = report.data["error"]["message"]
    assert "points 2 to 3 of run/rank0/" in message
    assert "the answer was 422 Unprocessable Entity: no key=<redacted> may send" in message
    assert "secret-key" not in message
    assert len(message) < 800

    dead_letters, sink = DeadLetters(settings.home, "lake"), make_sink(options)
    [path] = dead_letters.files()
    assert str(path) in message
    assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0
    receiver.answers[:] = [400, 503]
    assert [(one, bool(why)) for one, why in dead_letters.resend(sink)] == [(path, True)]
    with pytest.raises(Unavailable):
        list(dead_letters.resend(sink))
    other = path.with_name("notes.json")
    other.write_text("[]")
    assert list(dead_letters.resend(sink)) == [(path, ""), (other, "the file has no batch")]
    assert dead_letters.files() == [other]
    assert sorted(lake.steps(STREAM)) == [0, 1, 2, 3]


def test_what_is_put_aside_has_a_limit_and_what_is_beyond_it_is_reported_as_lost(
    settings: Settings,
    broker: BrokerProcess,
    receiver: HttpReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.subscribers.uploader.kit.DeadLetters", _small_dead_letters)
    receiver.answers[:] = [400] * 4
    train(broker.address, "run", range(5))
    with uploading(settings, receiver.url, batch=1):
        wait_until(lambda: len(receiver.taken) == 1, "the batch behind them")
        wait_until(lambda: len(published(settings, "run", "subscriber_error")) == 2, "reports")
        monkeypatch.setattr("lineside.subscribers.uploader.uploader.REPORT_SECONDS", 0)
        receiver.answers[:] = [400]
        train(broker.address, "run", range(1), "20261122T000000-0000")
        wait_until(lambda: len(published(settings, "run", "subscriber_error")) == 3, "a report")
    texts = [str(one.data) for one in published(settings, "run", "subscriber_error")]
    assert ["They are lost" in text for text in texts] == [False, True, True]
    assert "were refused, after 1 batch before: the answer was 400" in texts[2]
    assert len(DeadLetters(settings.home, "lake").files()) == 2


def _small_dead_letters(home: Path, name: str) -> DeadLetters:
    return DeadLetters(home, name, max_bytes=1200)


def test_a_batch_that_is_too_large_is_halved(
    settings: Settings, broker: BrokerProcess, receiver: HttpReceiver, lake: Lake
) -> None:
    receiver.answers[:] = [413, 413]
    train(broker.address, "run", range(8))
    with uploading(settings, receiver.url, interval=0.5):
        wait_until(lambda: len(lake.rows) == 8, "all points")
    assert lake.steps(STREAM) == list(range(8))
    sizes = [batch_of(one)["n"] for one in receiver.requests]
    assert sizes[1] == sizes[0] // 2
    assert sizes[2] == max(1, sizes[1] // 2)


def test_a_receiver_that_is_down_holds_only_the_runs_that_are_full(
    settings: Settings,
    broker: BrokerProcess,
    receiver: HttpReceiver,
    lake: Lake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lineside.subscribers.service.LATE_SECONDS", 0.2)
    receiver.answers[:] = [503] * 100_000
    train(broker.address, "long", range(30))
    with uploading(settings, receiver.url, batch=10) as kit:
        wait_until(lambda: kit.is_late("long"), "a cursor of its own")
        train(broker.address, "run", range(3))
        wait_until(lambda: "run" in kit.service._queues, "the other run")
        wait_until(lambda: kit.service._queues["run"].stays, "points that wait")
        assert not kit.is_late("run")
        wait_until(lambda: bool(published(settings, "run", "subscriber_error")), "a report")
    receiver.answers.clear()
    with uploading(settings, receiver.url, batch=10):  # a restart, and no further event
        wait_until(lambda: len(lake.rows) == 33, "all points")
        wait_until(lambda: len(published(settings, "run", "subscriber_error")) == 2, "recovery")
    assert lake.steps(f"long/rank0/{ATTEMPT}") == list(range(30))
    assert lake.steps(STREAM) == [0, 1, 2]
    reports = [one.data for one in published(settings, "run", "subscriber_error")]
    assert [one["action"] for one in reports if one] == ["retrying", "recovered"]
    assert reports[0] is not None
    assert "503 Service Unavailable" in reports[0]["error"]["message"]


def test_an_interval_collects_points_and_the_end_of_the_run_sends_the_rest(
    settings: Settings, broker: BrokerProcess, receiver: HttpReceiver, lake: Lake
) -> None:
    with (
        uploading(settings, receiver.url, interval=1000.0),
        Producer(broker.address, STREAM) as producer,
    ):
        producer.emit("run_start")
        producer.emit("log", step=1, data={"logs": {"loss": 1}})
        producer.flush(30)
        wait_until(lambda: len(lake.rows) == 1, "the first point")
        for step in range(2, 6):
            producer.emit("log", step=step, data={"logs": {"loss": step}})
        producer.flush(30)
        time.sleep(0.5)
        assert len(lake.rows) == 1
        producer.emit("run_end")
        producer.flush(30)
        wait_until(lambda: len(lake.rows) == 5, "the rest")
    assert [one["n"] for one in lake.batches] == [1, 4]


def test_a_point_that_does_not_fit_into_the_state_is_reported_and_the_next_is_sent() -> None:
    with http_receiver() as receiver:
        sink = make_sink(ReceiverOptions("http", receiver.url))
        large = {
            f"a metric with a long name {number}": 1 / (number + 1) for number in range(20_000)
        }
        stream, start = next(iter(synthetic_run(1)))
        events = [
            (stream, start),
            (stream, Event(1, start.time, 0, "log", 1, data={"logs": large})),
            (stream, Event(2, start.time, 0, "log", 2, data={"logs": {"loss": 1}})),
        ]
        uploader = Uploader(sink, CollectOptions(), None)  # type: ignore[arg-type]
        outcome = deliver(uploader, events)
        assert Lake(receiver).steps(str(stream)) == [2]
    [error] = outcome.errors
    assert "a point of 1" in error["error"]["message"]
    assert "at most 655360 can be sent" in error["error"]["message"]


def sizes(run: object, **collect: object) -> list[int]:
    """How many points each batch has, if ``tick`` comes after each event."""
    with http_receiver() as receiver:
        sink = make_sink(ReceiverOptions("http", receiver.url))

        class Ticking(Uploader):
            def on_log(self, run, event):  # type: ignore[no-untyped-def]
                super().on_log(run, event)
                self.tick(run, time.time() + event.step)

        options = CollectOptions(**collect)  # type: ignore[arg-type]
        deliver(Ticking(sink, options, None), run)  # type: ignore[arg-type]
        return [one["n"] for one in Lake(receiver).batches]


def test_steps_seconds_and_parts_of_the_run_are_intervals() -> None:
    assert sizes(synthetic_run(30), interval=10.0) == [1, 10, 10, 9]
    assert sizes(synthetic_run(30), steps=10) == [1, 10, 10, 9]
    assert sizes(synthetic_run(30), frequency=0.5) == [1, 14, 15]
    assert sizes(synthetic_run(30), frequency=0.1) == [1, 2, *[3] * 9]
    assert sizes(synthetic_run(30), interval=1000.0, batch=20) == [1, 20, 9]


def test_names_are_filtered_and_prefixed_and_other_producers_may_be_included(
    settings: Settings, broker: BrokerProcess, receiver: HttpReceiver, lake: Lake
) -> None:
    logs = {
        "loss": math.nan,
        "eval": {"loss": 0.5, "note": "a text"},
        "grad_norm": math.inf,
        "is_good": True,
        "lr": 1e-5,
    }
    with Producer(broker.address, STREAM) as producer:
        producer.emit("run_start", data={"project": "a"})
        producer.emit("log", step=1, data={"logs": logs})
        producer.emit("log", step=1, data={"logs": {"lr": 1}})  # nothing of it is wanted
        producer.emit("run_end")
        producer.flush(30)
    with Producer(broker.address, "run/judge/x") as producer:
        producer.emit("metrics", step=1, data={"metrics": {"score": 7}})
        producer.flush(30)
    train(broker.address, "other", range(2))
    with uploading(
        settings,
        receiver.url,
        run_filter=RunFilter(["r*"], ["a"]),
        metrics=["*loss", "grad*", "is*", "score"],
        exclude=["lr"],
        producers=["rank0", "judge"],
        log_key_prefix="train/",
    ):
        wait_until(lambda: len(lake.rows) == 2, "the points")
    values = {stream: point["values"] for (stream, _), point in lake.rows.items()}
    assert values == {
        STREAM: {
            "train/loss": "NaN",
            "train/eval/loss": 0.5,
            "train/grad_norm": "Infinity",
            "train/is_good": 1,
        },
        "run/judge/x": {"train/score": 7},
    }


def test_an_evaluation_is_one_point_though_it_is_reported_twice(
    settings: Settings, broker: BrokerProcess, receiver: HttpReceiver, lake: Lake
) -> None:
    with Producer(broker.address, STREAM) as producer:
        producer.emit("run_start")
        producer.emit("log", step=1, data={"logs": {"eval_loss": 0.5}})
        producer.emit("evaluate", step=1, data={"metrics": {"eval_loss": 0.5, "extra": 1}})
        producer.emit("run_end")
        producer.flush(30)
    with uploading(settings, receiver.url):
        wait_until(lambda: len(lake.rows) == 2, "both events")
    assert [point["values"] for point in lake.rows.values()] == [{"eval_loss": 0.5}, {"extra": 1}]


def test_the_state_file_holds_no_key(
    settings: Settings, broker: BrokerProcess, receiver: HttpReceiver
) -> None:
    receiver.answers[:] = [(403, {}, b"bad key secret-key")] * 20
    train(broker.address, "run", range(2))
    options = ReceiverOptions("http", f"{receiver.url}/w?token=secret-token", key="secret-key")
    with uploading(settings, "", options):
        wait_until(lambda: bool(published(settings, "run", "subscriber_error")), "a report")
    [report] = published(settings, "run", "subscriber_error")
    assert "(check the key)" in json.dumps(report.data)
    for path in (settings.home / "subscribers").glob("lake*"):
        assert b"secret" not in path.read_bytes()
    assert "secret" not in json.dumps(report.data)
