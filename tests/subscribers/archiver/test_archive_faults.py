"""An archive that is away, refuses, is full or holds damaged objects; and what people ask for."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lineside.store.archive.archive import Archive
from lineside.store.archive.errors import ArchiveDenied, ArchiveUnavailable
from lineside.store.archive.location import ArchiveLocation, open_archive
from lineside.subscribers.archiver.slots import Slots
from tests.subscribers.archiver.kit import FIRST, ScriptedRun

HOUR, DAY = 3_600.0, 86_400.0


class Switch:
    """An archive in a folder whose calls fail with ``error`` while there is one."""

    def __init__(self, folder: Path) -> None:
        self._archive = open_archive(ArchiveLocation(str(folder)))
        self.error: Exception | None = None
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._archive, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            self.tries += 1
            if self.error is not None:
                raise self.error
            return value(*arguments, **options)

        return call


@pytest.fixture
def switch(tmp_path: Path) -> Switch:
    return Switch(tmp_path / "archive")


@pytest.fixture
def run(tmp_path: Path, switch: Switch) -> ScriptedRun:
    archive: Archive = switch  # type: ignore[assignment]
    made = ScriptedRun(tmp_path, archive)
    made.start()
    return made


def test_an_outage_of_a_week_gives_nothing_up_and_ends_with_everything_archived(
    run: ScriptedRun, switch: Switch
) -> None:
    run.saved(1)
    run.complete()
    switch.error, switch.tries = ArchiveUnavailable("connection refused"), 0
    for step in range(2, 9):  # one a day
        run.saved(step)
        run.tick(60, times=int(DAY / 60))
    assert set(run.states.values()) == {"archived", "failed", "waiting"}
    assert 7 * 24 * 3 < switch.tries < 7 * 24 * 12, "each ten minutes, give or take a quarter"
    assert run.status.problem == "connection refused"
    event = run.last_event(8)
    assert (event["state"], event["why"]) == ("waiting", "connection refused")
    assert event["retry_at"] > run.now - 60, "the next tick is the first that can try"
    assert len(run.events) < 2 * switch.tries, "not one for each that waits"
    run.send("run_end", 8, how="exit")
    switch.error = None
    run.complete(seconds=60)
    assert run.archived == list(range(1, 9))
    assert set(run.states.values()) == {"archived"}
    assert run.status.problem == ""
    assert not (run.output / "_lineside").exists(), "no hold is left"


def test_a_new_process_tries_at_once(run: ScriptedRun, switch: Switch) -> None:
    switch.error = ArchiveDenied("403: bucket models is not yours")
    run.saved(1)
    run.tick(60, times=60)
    tries = switch.tries
    assert tries < 10, "a refusal is mended by a person, so it is tried seldom"
    assert run.status.problem == "403: bucket models is not yours"
    switch.error = None
    run.restart()
    run.complete(seconds=1)
    assert run.states == {1: "archived"}


def test_a_clock_that_is_set_back_delays_nothing_and_makes_no_older_checkpoint_the_last(
    tmp_path: Path, switch: Switch
) -> None:
    archive: Archive = switch  # type: ignore[assignment]
    run = ScriptedRun(tmp_path, archive, save_total_limit=1)
    run.start()
    run.saved(1)
    run.complete()
    switch.error = ArchiveUnavailable("connection refused")
    run.saved(2)
    run.tick(600, times=30)
    run.now -= 10 * DAY
    run.saved(3)
    switch.error = None
    run.tick(60, times=30)
    assert run.archived == [3]
    assert run.last_event(3)["last"]
    assert not run.runner.run.stays


def test_a_disk_that_is_full_keeps_the_last_archived_checkpoint(
    tmp_path: Path, switch: Switch
) -> None:
    archive: Archive = switch  # type: ignore[assignment]
    run = ScriptedRun(tmp_path, archive, save_total_limit=1)
    run.start()
    run.saved(1)
    run.complete()
    switch.error = ArchiveUnavailable("no space left")
    run.saved(2)
    run.tick(60, times=30)
    switch.error = None
    assert run.archived == [1]
    run.complete(seconds=60)
    assert run.archived == [2]


def request(run: ScriptedRun, op: str, step: int, number: str = "a") -> dict[str, Any]:
    """Ask for ``op``, and return the answer."""
    path = str(run.output / f"checkpoint-{step}")
    asked = {"op": op, "checkpoint": path, "issuer": "eve@host", "id": number}
    run.send("checkpoint_request", step, producer="control", **asked)
    run.complete(lambda: any(one.get("request") == number for one in run.events))
    [answer] = [one for one in run.events if one.get("request") == number]
    return answer


def test_a_pinned_checkpoint_is_kept_until_it_is_unpinned(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, save_total_limit=1)
    run.start()
    run.saved(1)
    run.complete()
    answer = request(run, "pin", 1)
    assert (answer["pinned"], answer["refused"]) == (True, None)
    run.saved(2)
    run.complete()
    assert run.archived == [1, 2]
    assert "unpin" in request(run, "delete", 1, "b")["refused"]
    assert request(run, "unpin", 1, "c")["pinned"] is False
    run.complete()
    assert run.archived == [2]


def test_what_the_state_has_lost_is_not_deleted_by_the_policy_until_it_is_unpinned(
    tmp_path: Path,
) -> None:
    run = ScriptedRun(tmp_path)
    run.start()
    for step in (1, 2):
        run.saved(step)
        run.complete()
    request(run, "pin", 1)
    run.end()
    (tmp_path / "archiver.db").unlink()
    again = ScriptedRun(tmp_path, save_total_limit=1)
    again.now = run.now
    again.start()
    again.saved(3)
    again.complete()
    assert again.archived == [1, 2, 3]
    assert again.last_event(1)["keep"] == ["found"]
    request(again, "unpin", 1)
    again.complete()
    assert again.archived == [2, 3]


def test_a_checkpoint_is_deleted_on_request_and_its_parts_are_freed(
    run: ScriptedRun, tmp_path: Path
) -> None:
    run.saved(1)
    run.saved(2)
    run.complete()
    answer = request(run, "delete", 1)
    assert (answer["state"], answer["why"]) == ("deleted", "deleted by eve@host")
    run.complete()
    assert run.archived == [2]
    assert len(list((tmp_path / "archive").rglob("parts/*/*"))) == 2
    assert "not in the archive" in request(run, "delete", 1, "b")["refused"]
    assert "does not know" in request(run, "pin", 7, "c")["refused"]


def test_a_damaged_part_is_found_on_request(run: ScriptedRun, tmp_path: Path) -> None:
    run.saved(1)
    run.complete()
    assert request(run, "verify", 1)["state"] == "verified"
    part = max((tmp_path / "archive").rglob("parts/*/*"), key=lambda path: path.stat().st_size)
    part.chmod(0o600)
    part.write_bytes(b"x" * part.stat().st_size)
    answer = request(run, "verify", 1, "b")
    assert answer["state"] == "corrupt"
    assert "weights.npz" in answer["why"]
    run.saved(2, text="weights of step 1")  # it has the same part
    run.complete()
    assert run.states == {1: "corrupt", 2: "archived"}
    assert request(run, "verify", 2, "d")["state"] == "verified"
    assert request(run, "verify", 1, "c")["state"] == "verified"


def test_a_part_that_is_damaged_on_its_way_is_sent_again(
    run: ScriptedRun, switch: Switch, tmp_path: Path
) -> None:
    run.verify = True
    run.restart()
    write = switch._archive.write_checkpoint
    tries = 0

    def damage(*arguments: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ArchiveUnavailable("connection refused")
        written = write(*arguments)
        for part in (tmp_path / "archive").rglob("parts/*/*"):
            part.chmod(0o600)
            part.write_bytes(b"x" * part.stat().st_size)
        switch._archive.write_checkpoint = write  # type: ignore[method-assign]
        return written

    switch._archive.write_checkpoint = damage  # type: ignore[method-assign, assignment]
    run.saved(1)
    run.complete()
    assert "failed" in run.published(1)
    assert run.states == {1: "verified"}


def test_a_checkpoint_that_is_removed_from_the_archive_by_hand_is_shown_as_deleted(
    run: ScriptedRun, tmp_path: Path
) -> None:
    run.saved(1)
    run.complete()
    shutil.rmtree(tmp_path / "archive" / "runs" / "r" / "checkpoints")
    run.restart()
    run.saved(2)
    run.complete()
    assert run.states == {1: "deleted", 2: "archived"}
    assert run.last_event(1)["why"] == "it is not in the archive any more"


def test_a_panic_of_the_object_store_is_a_failed_copy(run: ScriptedRun, switch: Switch) -> None:
    class Panic(BaseException):
        pass

    write = switch._archive.write_checkpoint

    def panic(*_: Any) -> Any:
        switch._archive.write_checkpoint = write  # type: ignore[method-assign]
        raise Panic("called unwrap on None")

    switch._archive.write_checkpoint = panic  # type: ignore[method-assign, assignment]
    run.saved(1)
    run.complete()
    assert "failed" in run.published(1)
    assert run.states == {1: "archived"}


def test_a_manifest_of_a_newer_format_keeps_its_parts_and_is_reported_once(
    tmp_path: Path,
) -> None:
    run = ScriptedRun(tmp_path, save_total_limit=1)
    run.start()
    run.saved(1)
    run.complete()
    folder = tmp_path / "archive" / "runs" / "r" / "checkpoints"
    body = b'{"format": 2}'
    newer = f"{7:012}-{FIRST}-{hashlib.sha256(body).hexdigest()[:12]}.json"
    (folder / newer).write_bytes(body)
    parts = set((tmp_path / "archive").rglob("parts/*/*"))
    for step in (2, 3):
        run.saved(step)
        run.complete()
        run.now += 2 * HOUR
    assert run.archived == [3, 7]
    assert parts < set((tmp_path / "archive").rglob("parts/*/*"))
    [report] = run.reports
    assert newer in report
    assert "format 2" in report


def test_a_folder_that_is_away_is_waited_for_and_not_made_anew(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path)
    run.start()
    run.saved(1)
    run.complete()
    folder, away = tmp_path / "archive", tmp_path / "away"
    folder.rename(away)
    run.saved(2)
    run.tick(60, times=5)
    assert "mount its disk" in run.status.problem
    run.restart()
    run.tick(60, times=5)
    assert "mount its disk" in run.status.problem
    assert not folder.exists()
    assert run.states == {1: "archived", 2: "waiting"}
    away.rename(folder)
    run.complete(seconds=60)
    assert run.archived == [1, 2]


def test_runs_take_turns() -> None:
    slots, stopped = Slots(most=1), threading.Event()
    asks: list[Callable[[], bool]] = [
        lambda name=name: slots.take(name, stopped.set)  # type: ignore[misc]
        for name in ("a", "b", "c")
    ]
    assert [ask() for ask in asks] == [True, False, False]
    assert slots.has_waiting
    slots.give_back("a")
    assert [ask() for ask in asks] == [False, True, False], "the one that asked first is next"
    slots.withdraw("c")
    slots.give_back("b")
    assert asks[0]()
    assert not slots.stop(0.05)
    assert stopped.is_set()
    assert not asks[1](), "nothing begins after that"
