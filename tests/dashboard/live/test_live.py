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
from lineside.dashboard.backend.door import Door
from lineside.dashboard.live.feed import TOO_MANY, StoreFeed
from lineside.dashboard.live.live import QUEUE_LENGTH, Change, Hub
from lineside.store.recording.writes import Writer
from lineside.store.status.pulse import SHORTEST
from tests.dashboard.conftest import DEADLINE, House, serving, wait_for
from tests.dashboard.synthetic import Feeder, Training
from tests.store.trainer import Journal, Teller, heartbeat

Said = tuple[str, int, dict[str, Any]]


def messages(answer: httpx.Response) -> Iterator[Said]:
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
    house: House, client: httpx.Client
) -> None:
    with client.stream("GET", "/api/live", headers={"accept-encoding": "gzip"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in answer.headers
        said = messages(answer)
        event, revision, data = next(said)
        assert (event, data) == ("hello", {"revision": revision})
        training = house.begin()
        event, last, data = next(said)
        assert (event, data["runs"][0]["id"], data["deleted"]) == ("changes", "tiny-1", [])
        assert last > revision
    training.train(house.feeder)
    with client.stream("GET", "/api/live", headers={"last-event-id": str(last)}) as answer:
        said = messages(answer)
        assert next(said)[0] == "hello"
        event, _, data = next(said)
        assert (event, data["runs"][0]["step"]) == ("changes", 40)


def test_a_listener_of_one_run_hears_of_no_other_and_of_its_deletion(
    house: House, client: httpx.Client
) -> None:
    house.train("mine")
    with client.stream("GET", "/api/live", params={"run": "mine"}) as answer:
        said = messages(answer)
        next(said)
        house.train("other")
        assert client.delete("/api/runs/mine").status_code == 204
        event, _, data = next(said)
        assert (event, data["runs"], data["deleted"]) == ("changes", [], ["mine"])


@pytest.mark.parametrize("last", ["999999", "9999999999999999999"])
def test_a_revision_of_another_store_means_start_over(
    house: House, client: httpx.Client, last: str
) -> None:
    house.train()
    with client.stream("GET", "/api/live", headers={"last-event-id": last}) as answer:
        said = messages(answer)
        assert [next(said)[0], next(said)[0]] == ["hello", "reset"]


@pytest.mark.parametrize("last", ["", "-1", "one", "\xb2", "9" * 5000])
def test_a_last_event_id_that_is_no_revision_means_from_now(
    client: httpx.Client, last: str
) -> None:
    headers = {b"last-event-id": last.encode("latin-1")}
    with client.stream("GET", "/api/live", headers=headers) as answer:
        said = messages(answer)
        assert next(said)[0] == "hello"


def test_leaving_listeners_are_forgotten_and_ending_the_server_ends_the_rest(
    house: House,
) -> None:
    hub = house.app.state.hub
    with serving(house.app) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
        with client.stream("GET", "/api/live") as answer:
            said = messages(answer)
            assert next(said)[0] == "hello"
            assert hub.listeners == 1
        wait_for(lambda: hub.listeners == 0, "the listener was forgotten")
        ended = threading.Event()

        def listen() -> None:
            with httpx.stream("GET", f"{url}/api/live", timeout=DEADLINE) as answer:
                list(messages(answer))
            ended.set()

        thread = threading.Thread(target=listen)
        thread.start()
        wait_for(lambda: hub.listeners == 1, "the second listener came")
    assert ended.wait(DEADLINE)
    thread.join()


def test_a_run_that_falls_silent_is_told_although_nothing_came(house: House) -> None:
    past = Writer(house.engine, clock=lambda: time.time() - 14.0)
    Training("quiet", "quiet", time.time() - 60).begin(Feeder(past))
    feed = StoreFeed(Door("", house.history, past), silence=0.0)
    assert not feed.silent(1)
    wait_for(lambda: house.history.run("quiet").status == "disconnected", "it was silent for 15 s")
    change = feed.silent(1)
    assert change.runs["quiet"]["status"] == "disconnected"
    assert not feed.silent(1)


def test_a_run_that_stalls_is_told_although_nothing_came(house: House) -> None:
    teller = Teller("stuck", at=time.time() - 60)
    shipper = Teller("stuck", "shipper")
    teller.begin()
    for _ in range(3):
        teller.do_step()
    shipper.tell("heartbeat", heartbeat(teller, hook_age=SHORTEST - 1.0))
    Journal(house.feeder.writer).deliver(teller, shipper)
    feed = StoreFeed(Door("", house.history, house.feeder.writer), silence=0.0)
    assert not feed.silent(1)
    wait_for(lambda: house.history.run("stuck").status == "stalled", "it did not move")
    change = feed.silent(1)
    assert change.runs["stuck"]["status"] == "stalled"
    assert not feed.silent(1)


def test_more_changes_than_a_page_shows_mean_start_over(house: House) -> None:
    feed = StoreFeed(Door("", house.history, house.feeder.writer))
    before = feed.revision()
    for number in range(TOO_MANY + 1):
        house.begin(f"run-{number}")
    assert feed.since(before) is None
    assert feed.since(feed.revision()) == Change(feed.revision())


class Script:
    """A feed that says what a test wants: one change a look, or an error."""

    def __init__(self) -> None:
        self.now = 0
        self.step = 1
        self.error: Exception | None = None
        self.lost = False
        self.away = False

    def revision(self) -> int:
        if self.away:
            raise StoreError("not there yet")
        return self.now

    def since(self, revision: int) -> Change | None:
        if self.error is not None:
            raise self.error
        if self.lost:
            self.lost = False
            return None
        self.now += self.step
        return Change(self.now, {"a": {"id": "a"}} if self.step else {})

    def silent(self, revision: int) -> Change:
        return Change(revision)


async def heard(stream: Any, count: int) -> list[str]:
    return [await asyncio.wait_for(stream.__anext__(), DEADLINE) for _ in range(count)]


@pytest.mark.anyio
async def test_a_listener_too_slow_for_its_queue_is_told_to_start_over() -> None:
    script = Script()
    hub = Hub(script, every=0.0)
    slow, fast = hub.stream(), hub.stream()
    await heard(slow, 1)
    while script.now < 3 * QUEUE_LENGTH:
        await heard(fast, 1)
    text = (await heard(slow, 1))[0]
    assert "event: reset" in text
    assert hub.skipped > 0
    assert "event: changes" in (await heard(slow, 1))[0]
    await slow.aclose()
    await fast.aclose()
    assert hub.listeners == 0


@pytest.mark.anyio
async def test_silence_is_filled_with_comments_and_closing_ends_the_stream() -> None:
    script = Script()
    script.step = 0
    hub = Hub(script, every=0.01, heartbeat=0.05)
    stream = hub.stream()
    hello, comment = await heard(stream, 2)
    assert "event: hello" in hello
    assert comment == ": still here\n\n"
    hub.close()
    with pytest.raises(StopAsyncIteration):
        await heard(stream, 2)


@pytest.mark.anyio
async def test_a_store_that_fails_for_a_while_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Script()
    script.error = StoreError("gone fishing")
    hub = Hub(script, every=0.01, heartbeat=0.05)
    stream = hub.stream()
    assert "still here" in (await heard(stream, 2))[1]
    script.error = None
    while "event: changes" not in (await heard(stream, 1))[0]:
        pass
    assert caplog.text.count("gone fishing") == 1
    await stream.aclose()


@pytest.mark.anyio
async def test_a_stream_without_a_store_ends_so_that_the_listener_comes_again() -> None:
    script = Script()
    script.away = True
    hub = Hub(script)
    assert [text async for text in hub.stream()] == []
    assert hub.listeners == 0


@pytest.mark.anyio
async def test_a_poller_that_lost_its_place_tells_everybody_to_start_over() -> None:
    script = Script()
    script.step = 0
    hub = Hub(script, every=0.01)
    stream = hub.stream()
    await heard(stream, 1)
    script.lost = True
    assert "event: reset" in (await heard(stream, 1))[0]
    await stream.aclose()
