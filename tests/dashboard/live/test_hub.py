from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lineside.bus.errors import StoreError
from lineside.dashboard.backend.store_access import StoreAccess
from lineside.dashboard.live.hub import QUEUE_LENGTH, Change, LiveHub
from lineside.dashboard.live.store_feed import MAX_CHANGES, StoreFeed
from lineside.store.recording.progress import MIN_STALL_SECONDS
from lineside.store.recording.writer import Writer
from tests.dashboard.conftest import Harness, serving
from tests.dashboard.synthetic import Feeder, Training
from tests.store.trainer import FakeJournal, FakeProducer, heartbeat
from tests.support.waiting import DEADLINE, wait_until

Message = tuple[str, int, dict[str, Any]]


def messages(answer: httpx.Response) -> Iterator[Message]:
    """The events of a stream as (event, id, data); comments come as ("", -1, {})."""
    found: dict[str, str] = {}
    for line in answer.iter_lines():
        if line.startswith(":"):
            yield "", -1, {}
        elif line:
            name, _, value = line.partition(": ")
            found[name] = value
        elif "event" in found:
            yield found["event"], int(found["id"]), json.loads(found["data"])
            found = {}


def test_a_change_arrives_and_a_reconnecting_listener_gets_what_it_missed(
    harness: Harness, client: httpx.Client
) -> None:
    with client.stream("GET", "/api/live", headers={"accept-encoding": "gzip"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in answer.headers
        received = messages(answer)
        event, revision, data = next(received)
        assert (event, data) == ("hello", {"revision": revision})
        training = harness.begin()
        event, last, data = next(received)
        assert (event, data["runs"][0]["id"], data["deleted"]) == ("changes", "tiny-1", [])
        assert last > revision
    training.train(harness.feeder)
    with client.stream("GET", "/api/live", headers={"last-event-id": str(last)}) as answer:
        received = messages(answer)
        assert next(received)[0] == "hello"
        event, _, data = next(received)
        assert (event, data["runs"][0]["step"]) == ("changes", 40)


def test_a_listener_of_one_run_receives_only_its_changes_and_its_deletion(
    harness: Harness, client: httpx.Client
) -> None:
    harness.train("mine")
    with client.stream("GET", "/api/live", params={"run": "mine"}) as answer:
        received = messages(answer)
        next(received)
        harness.train("other")
        assert client.delete("/api/runs/mine").status_code == 204
        event, _, data = next(received)
        assert (event, data["runs"], data["deleted"]) == ("changes", [], ["mine"])


@pytest.mark.parametrize("last", ["999999", "9999999999999999999"])
def test_a_revision_of_another_store_means_start_over(
    harness: Harness, client: httpx.Client, last: str
) -> None:
    harness.train()
    with client.stream("GET", "/api/live", headers={"last-event-id": last}) as answer:
        received = messages(answer)
        assert [next(received)[0], next(received)[0]] == ["hello", "reset"]


@pytest.mark.parametrize("last", ["", "-1", "one", "\xb2", "9" * 5000])
def test_a_last_event_id_that_is_no_revision_means_from_now(
    client: httpx.Client, last: str
) -> None:
    headers = {b"last-event-id": last.encode("latin-1")}
    with client.stream("GET", "/api/live", headers=headers) as answer:
        received = messages(answer)
        assert next(received)[0] == "hello"


def test_leaving_listeners_are_forgotten_and_ending_the_server_ends_the_rest(
    harness: Harness,
) -> None:
    hub = harness.app.state.hub
    with serving(harness.app) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
        with client.stream("GET", "/api/live") as answer:
            received = messages(answer)
            assert next(received)[0] == "hello"
            assert hub.listeners == 1
        wait_until(lambda: hub.listeners == 0, "the listener was forgotten")
        ended = threading.Event()

        def listen() -> None:
            with httpx.stream("GET", f"{url}/api/live", timeout=DEADLINE) as answer:
                list(messages(answer))
            ended.set()

        thread = threading.Thread(target=listen)
        thread.start()
        wait_until(lambda: hub.listeners == 1, "the second listener came")
    assert ended.wait(DEADLINE)
    thread.join()


def test_a_run_that_disconnects_is_published_without_an_event(harness: Harness) -> None:
    past = Writer(harness.engine, clock=lambda: time.time() - 14.0)
    Training("quiet", "quiet", time.time() - 60).begin(Feeder(past))
    feed = StoreFeed(StoreAccess("", harness.history, past), status_interval=0.0)
    assert not feed.status_timeouts(1)
    wait_until(
        lambda: harness.history.run("quiet").status == "disconnected", "it was silent for 15 s"
    )
    change = feed.status_timeouts(1)
    assert change.runs["quiet"]["status"] == "disconnected"
    assert not feed.status_timeouts(1)


def test_a_run_that_stalls_is_published_without_an_event(harness: Harness) -> None:
    trainer = FakeProducer("stuck", at=time.time() - 60)
    shipper = FakeProducer("stuck", "shipper")
    trainer.begin()
    for _ in range(3):
        trainer.do_step()
    shipper.emit("heartbeat", heartbeat(trainer, hook_age=MIN_STALL_SECONDS - 1.0))
    FakeJournal(harness.feeder.writer).deliver(trainer, shipper)
    feed = StoreFeed(StoreAccess("", harness.history, harness.feeder.writer), status_interval=0.0)
    assert not feed.status_timeouts(1)
    wait_until(lambda: harness.history.run("stuck").status == "stalled", "it did not move")
    change = feed.status_timeouts(1)
    assert change.runs["stuck"]["status"] == "stalled"
    assert not feed.status_timeouts(1)


def test_more_changes_than_a_page_shows_mean_start_over(harness: Harness) -> None:
    feed = StoreFeed(StoreAccess("", harness.history, harness.feeder.writer))
    before = feed.revision()
    for number in range(MAX_CHANGES + 1):
        harness.begin(f"run-{number}")
    assert feed.changes_since(before) is None
    assert feed.changes_since(feed.revision()) == Change(feed.revision())


class ScriptedFeed:
    """A feed that a test controls: one change for each poll, or an error."""

    def __init__(self) -> None:
        self.now = 0
        self.step = 1
        self.error: Exception | None = None
        self.lost = False
        self.unavailable = False

    def revision(self) -> int:
        if self.unavailable:
            raise StoreError("not there yet")
        return self.now

    def changes_since(self, revision: int) -> Change | None:
        if self.error is not None:
            raise self.error
        if self.lost:
            self.lost = False
            return None
        self.now += self.step
        return Change(self.now, {"a": {"id": "a"}} if self.step else {})

    def status_timeouts(self, revision: int) -> Change:
        return Change(revision)


async def receive(stream: Any, count: int) -> list[str]:
    return [await asyncio.wait_for(stream.__anext__(), DEADLINE) for _ in range(count)]


@pytest.mark.anyio
async def test_a_listener_too_slow_for_its_queue_receives_a_reset() -> None:
    feed = ScriptedFeed()
    hub = LiveHub(feed, interval=0.0)
    slow, fast = hub.stream(), hub.stream()
    await receive(slow, 1)
    while feed.now < 3 * QUEUE_LENGTH:
        await receive(fast, 1)
    text = (await receive(slow, 1))[0]
    assert "event: reset" in text
    assert hub.skipped > 0
    assert "event: changes" in (await receive(slow, 1))[0]
    await slow.aclose()
    await fast.aclose()
    assert hub.listeners == 0


@pytest.mark.anyio
async def test_silence_is_filled_with_comments_and_closing_ends_the_stream() -> None:
    feed = ScriptedFeed()
    feed.step = 0
    hub = LiveHub(feed, interval=0.01, heartbeat=0.05)
    stream = hub.stream()
    hello, comment = await receive(stream, 2)
    assert "event: hello" in hello
    assert comment == ": heartbeat\n\n"
    hub.close()
    with pytest.raises(StopAsyncIteration):
        await receive(stream, 2)


@pytest.mark.anyio
async def test_the_stream_of_a_quiet_run_has_signs_of_life_beside_a_busy_run() -> None:
    feed = ScriptedFeed()
    hub = LiveHub(feed, interval=0.0, heartbeat=0.1)
    quiet = hub.stream(run="b")
    await receive(quiet, 1)
    while feed.now < 3 * QUEUE_LENGTH:  # more than its queue would hold
        await asyncio.sleep(0.01)
    assert await receive(quiet, 2) == [": heartbeat\n\n"] * 2
    assert hub.skipped == 0
    await quiet.aclose()


@pytest.mark.anyio
async def test_a_store_that_fails_for_a_while_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    feed = ScriptedFeed()
    feed.error = StoreError("gone fishing")
    hub = LiveHub(feed, interval=0.01, heartbeat=0.05)
    stream = hub.stream()
    assert ": heartbeat" in (await receive(stream, 2))[1]
    feed.error = None
    while "event: changes" not in (await receive(stream, 1))[0]:
        pass
    assert caplog.text.count("gone fishing") == 1
    await stream.aclose()


@pytest.mark.anyio
async def test_a_stream_without_a_store_ends_so_that_the_listener_comes_again() -> None:
    feed = ScriptedFeed()
    feed.unavailable = True
    hub = LiveHub(feed)
    assert [text async for text in hub.stream()] == []
    assert hub.listeners == 0


@pytest.mark.anyio
async def test_a_poller_that_lost_its_position_resets_every_listener() -> None:
    feed = ScriptedFeed()
    feed.step = 0
    hub = LiveHub(feed, interval=0.01)
    stream = hub.stream()
    await receive(stream, 1)
    feed.lost = True
    assert "event: reset" in (await receive(stream, 1))[0]
    await stream.aclose()
