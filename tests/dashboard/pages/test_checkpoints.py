"""The checkpoints on the page of a run: states, notes, buttons by role, and without an archive."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest

from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.bus.protocol.event_kinds import CHECKPOINT_HELD, CHECKPOINT_REQUEST, CHECKPOINT_STATE
from lineside.bus.protocol.events import Stream
from lineside.dashboard.app import create_app
from lineside.dashboard.pages import timeline
from lineside.store.database.values import to_datetime
from lineside.store.history.records import EventRow
from tests.dashboard.checkpoints import record_hold, record_state
from tests.dashboard.conftest import Harness, serving
from tests.support.waiting import DEADLINE


def section(html: str) -> str:
    """The section of checkpoints as text, with its buttons in brackets and tags in parentheses."""
    found = re.search(r'<section id="checkpoints".*?</section>', html, re.S)
    assert found
    html = re.sub(r'<span class="visually-hidden">.*?</span>', "", found[0])
    html = re.sub(r"<(button|a)\b([^>]*)>(.*?)</\1>", _button, html)
    html = re.sub(r'<span class="tag[^>]*>(.*?)</span>', r"(\1)", html)
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def _button(match: re.Match[str]) -> str:
    off = "-" if "disabled" in match[2] else ""
    return f"[{off}{match[3]}]"


def rows(html: str) -> dict[str, str]:
    """The rows of the list by their steps."""
    return dict(re.findall(r"Step (\d+) ((?:(?!Step \d).)*)", section(html)))


def test_a_run_without_an_archiver_shows_the_paths_of_its_checkpoints(
    harness: Harness, client: httpx.Client
) -> None:
    harness.train()
    text = section(client.get("/runs/tiny-1").text)
    assert "2 of 2 kept" in text
    assert "/data/tiny-1/checkpoint-40" in text
    assert "archived" not in text
    assert "[" not in text


def test_each_state_has_its_notes_and_what_can_be_asked(
    harness: Harness, client: httpx.Client
) -> None:
    training = harness.train(steps=80, eval_every=10, save_every=10)
    record_hold(harness, training, 10)
    record_state(harness, training, 20, "waiting", why="waits for the files of rank 3")
    record_state(harness, training, 30, "copying", done=480_000_000)
    record_state(harness, training, 40, "failed", why="503 SlowDown", retry_at=1.7e9)
    record_state(harness, training, 50, "archived", best=True)
    record_state(harness, training, 60, "verified", pinned=True, request="r0", refused="it is last")
    record_state(harness, training, 70, "evicted", why="5 newer ones were held")
    found = rows(client.get("/runs/tiny-1").text)
    assert "2 of 8 archived" in section(client.get("/runs/tiny-1").text)
    assert re.match(r"eval_loss [\d.]+ 1.2 GB \S+ held /data\S+ \[Pin\]$", found["10"].strip())
    assert "waiting" in found["20"]
    assert "waits for the files of rank 3" in found["20"]
    assert "copying 40 %" in found["30"]
    assert re.search(r"480 MB of 1.2 GB · reported (just now|\d+ s ago)", found["30"])
    assert "503 SlowDown · tried again at 2023-11-14 22:13:20 UTC" in found["40"]
    assert found["50"].startswith("(best)")
    assert "[Pin] [Verify] [Delete…] [-Download]" in found["50"]
    assert found["60"].startswith("(pinned)")
    assert "[Unpin…] [Verify] [Delete…]" in found["60"]
    assert "not done as asked: it is last" in found["60"]
    assert "5 newer ones were held" in found["70"]
    assert "[" not in found["70"]
    assert found["80"].startswith("(last)")
    assert "not archived" in found["80"]
    control = Stream("tiny-1", "control", "c1")
    asked = {
        "id": "r1",
        "op": "verify",
        "checkpoint": "/data/tiny-1/checkpoint-50",
        "attempt": training.attempt,
        "step": 50,
        "issuer": "ada@lab",
    }
    harness.feeder.record(control, CHECKPOINT_REQUEST, time.time(), data=asked)
    found = rows(client.get("/parts/tiny-1").text)
    assert "ada@lab asked to verify it; the archiver has not answered yet" in found["50"]
    assert "[Pin]" not in found["50"]


def test_a_viewer_asks_for_nothing_and_downloads_where_there_is_an_archive(
    harness: Harness,
) -> None:
    training = harness.train()
    record_state(harness, training, 20, "archived")
    keyring = Keyring(keys_folder(harness.settings.home))
    viewer = {"authorization": f"Bearer {keyring.new_token('viewer', ['read'])}"}
    app = create_app(
        harness.history,
        harness.feeder.writer,
        harness.settings,
        keyring=keyring,
        archive=lambda: object(),  # type: ignore[arg-type,return-value]
    )
    with serving(app) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
        html = client.get("/runs/tiny-1", headers=viewer).text
    assert "[-Pin] [-Verify] [-Delete…] [Download]" in rows(html)["20"]
    assert "Asking the archiver takes the role control" in html
    identity = harness.history.checkpoints("tiny-1")[0].id
    assert f'href="../api/runs/tiny-1/checkpoints/{identity}/download"' in html


def test_a_save_at_the_same_path_replaces_the_one_before(
    harness: Harness, client: httpx.Client
) -> None:
    training = harness.train()
    record_state(harness, training, 40, "archived")
    again = {"checkpoint": "/data/tiny-1/checkpoint-40", "state": {}}
    harness.feeder.record(training.stream, "save", time.time(), 40, again)
    record_state(harness, training, 20, "corrupt")
    text = section(client.get("/runs/tiny-1").text)
    assert "1 of 3 archived, 1 corrupt" in text
    assert re.findall(r"Step \d+ |replaced|archived /|corrupt /", text) == [
        *("Step 40 ", "archived /", "Step 40 ", "replaced", "Step 20 ", "corrupt /")
    ]


def test_a_step_that_two_attempts_saved_names_the_attempt_and_what_is_superseded(
    harness: Harness, client: httpx.Client
) -> None:
    first = harness.train(attempt="20261121T082653.000-4f2a")
    resumed = (first.attempt, 20)
    second = harness.train(attempt="20261122T082653.000-4f2a", resumed=resumed)
    record_state(harness, second, 40, "archived")
    text = section(client.get("/runs/tiny-1").text)
    assert re.findall(r"Step (\d+) \((attempt \d)\)( \(superseded\))?", text) == [
        ("40", "attempt 2", ""),
        ("40", "attempt 1", " (superseded)"),
        ("20", "attempt 1", ""),
    ]


def test_of_many_checkpoints_the_newest_are_listed_and_sent_again_only_if_they_changed(
    harness: Harness, client: httpx.Client
) -> None:
    training = harness.train(steps=150, save_every=1)
    record_state(harness, training, 1, "corrupt")
    record_state(harness, training, 2, "archived", pinned=True)
    page = client.get("/runs/tiny-1").text
    assert [int(step) for step in rows(page)] == [*range(150, 50, -1), 2]
    assert "[Show 49 older]" in section(page)
    assert "1 of 150 archived, 1 corrupt" in section(page)
    everything = client.get("/runs/tiny-1?checkpoints=all").text
    assert [int(step) for step in rows(everything)] == list(range(150, 0, -1))
    assert "older]" not in section(everything)
    for options, step in (({}, 150), ({"checkpoints": "all"}, 3)):
        digest = re.search(r'data-digest="(\w+)"', client.get("/runs/tiny-1", params=options).text)
        assert digest
        known = {"seen": digest[1], **options}
        parts = client.get("/parts/tiny-1", params=known).text
        assert 'id="controls"' in parts
        assert 'id="checkpoints"' not in parts
        record_state(harness, training, step, "archived")
        assert "archived" in rows(client.get("/parts/tiny-1", params=known).text)[str(step)]


@pytest.mark.parametrize(
    ("kind", "data", "label", "text", "tone"),
    [
        (
            CHECKPOINT_STATE,
            {"state": "archived", "checkpoint": "/d/c-5", "step": 5, "bytes": 1_200_000},
            "Checkpoint archived",
            "c-5, 1.2 MB",
            "clear",
        ),
        (
            CHECKPOINT_STATE,
            {"state": "evicted", "checkpoint": "/d/c-5", "bytes": 0, "why": "no room"},
            "Checkpoint evicted",
            "c-5: no room",
            "caution",
        ),
        (CHECKPOINT_STATE, {"state": 5}, "Checkpoint state", "", ""),
        (CHECKPOINT_HELD, {"checkpoint": "/d/c-5"}, "Checkpoint held", "c-5", ""),
        (
            CHECKPOINT_REQUEST,
            {"op": "pin", "checkpoint": "/d/c-5", "issuer": "ada@lab"},
            "Checkpoint request",
            "pin c-5, by ada@lab",
            "",
        ),
    ],
)
def test_an_event_about_a_checkpoint_is_a_line_of_the_timeline(
    kind: str, data: dict[str, Any], label: str, text: str, tone: str
) -> None:
    at = to_datetime(1.7e9)
    row = EventRow(1, "archiver", "a", 0, kind, 18, None, at, 0, data, None)
    entry = timeline.entry(row, at)
    assert (entry.label, entry.text, entry.tone) == (label, text, tone)
    assert entry.where == f"step {data.get('step', 18)} · archiver"
