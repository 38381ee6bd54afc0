"""The recorder process stores each event once, whatever process is killed, full or locked."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from lineside.bus.errors import RunNotFound, StoreError
from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess
from lineside.store.database.engine import open_store, raw_sqlite_connection
from lineside.store.database.sqlite import files_set_aside
from lineside.store.history.history import History
from lineside.store.recording.writer import Writer
from tests.faults.session import repeats
from tests.store.database.postgres import Postgres, find_binaries
from tests.subscribers.conftest import ServiceProcess
from tests.subscribers.recorder.published_run import Training
from tests.support.waiting import wait_until


def test_events_are_on_the_page_moments_after_they_happened(
    settings: Settings, broker: BrokerProcess, history: History
) -> None:
    with ServiceProcess("recorder", settings) as recorder, Training(broker.address) as training:
        training.producer.flush()
        wait_until(lambda: training.is_recorded(history), "the recorder is up")
        waits = []
        for _ in range(9):
            training.train(1)
            training.producer.flush()
            began = time.monotonic()
            wait_until(lambda: training.is_recorded(history), "a step")
            waits.append(time.monotonic() - began)
        assert sorted(waits)[4] < 0.5
        assert recorder.stop() == 0
        training.check(history)


@pytest.mark.fault
def test_a_recorder_killed_repeatedly_records_each_event_once(
    settings: Settings, broker: BrokerProcess, history: History
) -> None:
    rng = random.Random()
    recorder = ServiceProcess("recorder", settings)
    with recorder, Training(broker.address) as training:
        for _ in repeats(6):
            for _ in range(rng.randrange(2, 12)):
                training.train(rng.randrange(1, 400))
                training.producer.flush()
                time.sleep(rng.random() / 20)
            recorder.kill()
            training.train(50)
            recorder.start()
        training.producer.flush()
        wait_until(lambda: training.is_recorded(history), "all is recorded")
        training.check(history)


@pytest.mark.fault
def test_a_killed_broker_costs_no_event(
    settings: Settings, broker: BrokerProcess, history: History
) -> None:
    with ServiceProcess("recorder", settings), Training(broker.address) as training:
        for _ in repeats(3):
            training.train(300)
            training.producer.poll(0.05)
            broker.kill()
            training.train(100)
            broker.start()
            training.producer.flush(30)
        wait_until(lambda: training.is_recorded(history), "all is recorded")
        training.check(history)


@pytest.mark.fault
def test_a_new_journal_is_read_from_its_start_without_duplicates(
    settings: Settings, broker: BrokerProcess, history: History
) -> None:
    with ServiceProcess("recorder", settings):
        with Training(broker.address) as training:
            training.train(200)
            training.producer.flush()
            wait_until(lambda: training.is_recorded(history), "the first half")
        broker.stop()
        for path in settings.home.glob("journal.db*"):
            path.unlink()
        broker.start()
        with Training(broker.address) as again:
            again.train(300)
            again.producer.flush()
            wait_until(lambda: again.is_recorded(history), "the second half")
            again.check(history)


@pytest.mark.fault
def test_a_journal_that_is_put_back_to_an_older_copy_is_read_again(
    settings: Settings, broker: BrokerProcess, history: History
) -> None:
    """Later events then get offsets that were recorded before with other events."""
    with ServiceProcess("recorder", settings):
        with Training(broker.address) as training:
            training.train(10)
            training.producer.flush()
            broker.stop()
            older = settings.journal.read_bytes()
            broker.start()
            for _ in range(20):
                training.train(20)
                training.producer.flush()
            wait_until(lambda: training.is_recorded(history), "the first run")
        broker.stop()
        for path in settings.home.glob("journal.db*"):
            path.unlink()
        settings.journal.write_bytes(older)
        broker.start()
        with Training(broker.address, "another") as another:
            another.train(50)
            another.producer.flush()
            wait_until(lambda: another.is_recorded(history), "the second run")
            another.check(history)
        training.check(history)


@pytest.mark.fault
def test_a_store_that_is_removed_or_put_back_is_filled_again_from_the_journal(
    settings: Settings, broker: BrokerProcess, tmp_path: Path
) -> None:
    store = settings.home / "store.db"
    old = tmp_path / "old.db"
    with ServiceProcess("recorder", settings), Training(broker.address) as training:
        wait_until(store.exists, "the store is made")
        engine = open_store(settings.store, create=True)
        history = History(engine)
        training.train(100)
        training.producer.flush()
        wait_until(lambda: training.is_recorded(history), "the first part")
        with raw_sqlite_connection(engine) as raw:
            raw.execute("VACUUM INTO ?", (str(old),))
        for replacement in (None, old):
            training.train(100)
            training.producer.flush()
            wait_until(lambda: training.is_recorded(history), "more of it")
            store.unlink()
            if replacement is not None:
                for left in settings.home.glob("store.db-*"):
                    left.unlink()
                replacement.rename(store)
            training.train(100)
            training.producer.flush()
            wait_until(lambda: _is_recorded(training, history), "all is recorded again")
            training.check(history)
        engine.dispose()


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["truncated", "overwritten", "no database"])
def test_a_damaged_store_is_set_aside_and_filled_again_from_the_journal(
    settings: Settings, broker: BrokerProcess, damage: str
) -> None:
    store = settings.home / "store.db"
    recorder = ServiceProcess("recorder", settings)
    with recorder, Training(broker.address) as training:
        wait_until(store.exists, "the store is made")
        engine = open_store(settings.store, create=True)
        history = History(engine)
        training.train(500)
        training.producer.flush()
        wait_until(lambda: training.is_recorded(history), "the first part")
        with raw_sqlite_connection(engine) as raw:
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if damage == "truncated":  # under a recorder that runs and gets no event
            os.truncate(store, store.stat().st_size // 2)
        else:
            recorder.kill()
            whole = store.read_bytes()
            kept = 100 if damage == "overwritten" else 0
            store.write_bytes(whole[:kept] + bytes([0xAA]) * (len(whole) - kept))
            recorder.start()
        wait_until(lambda: files_set_aside(store), "the store is set aside")
        training.train(100)
        training.producer.flush()
        wait_until(lambda: _is_recorded(training, history), "all is recorded again")
        training.check(history)
        engine.dispose()
    assert len(files_set_aside(store)) == 1


def _is_recorded(training: Training, history: History) -> bool:
    """The same while the store may be missing."""
    with contextlib.suppress(StoreError):
        return training.is_recorded(history)
    return False


@pytest.mark.fault
def test_a_locked_store_is_retried(
    settings: Settings, broker: BrokerProcess, engine: Engine, history: History
) -> None:
    with ServiceProcess("recorder", settings) as recorder, Training(broker.address) as training:
        training.producer.flush()
        wait_until(lambda: training.is_recorded(history), "the recorder is up")
        holder = sqlite3.connect(engine.url.database or "", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        training.train(100)
        training.producer.flush()
        wait_until(lambda: "locked" in recorder.log.read_text(), "the recorder logs it")
        holder.execute("ROLLBACK")
        holder.close()
        wait_until(lambda: training.is_recorded(history), "all is recorded")
        training.check(history)


@pytest.mark.fault
def test_sigterm_while_the_store_is_unavailable_ends_without_loss(
    settings: Settings, broker: BrokerProcess, engine: Engine, history: History
) -> None:
    recorder = ServiceProcess("recorder", settings)
    with recorder, Training(broker.address) as training:
        training.producer.flush()
        wait_until(lambda: training.is_recorded(history), "the recorder is up")
        holder = sqlite3.connect(engine.url.database or "", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        training.train(10)
        training.producer.flush()
        wait_until(lambda: "locked" in recorder.log.read_text(), "the recorder logs it")
        assert recorder.stop() == 0
        holder.close()
        recorder.start()
        wait_until(lambda: training.is_recorded(history), "all is recorded")
        training.check(history)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.fault
def test_a_full_disk_is_retried(
    small_disk: Path, settings: Settings, broker: BrokerProcess
) -> None:
    settings = replace(settings, store=f"sqlite:///{small_disk}/store.db")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3_400_000))
    engine = open_store(settings.store, create=True)
    history = History(engine)
    with ServiceProcess("recorder", settings) as recorder, Training(broker.address) as training:
        training.train(5000)
        training.producer.flush(30)
        wait_until(lambda: "full" in recorder.log.read_text(), "the recorder logs it")
        assert not training.is_recorded(history)
        ballast.unlink()
        wait_until(lambda: training.is_recorded(history), "all is recorded")
        training.check(history)
    engine.dispose()


@pytest.mark.fault
def test_an_absent_database_server_is_retried(settings: Settings, broker: BrokerProcess) -> None:
    with Postgres(find_binaries()) as server:
        settings = replace(settings, store=server.new_database())
        engine = open_store(settings.store, create=True)
        history = History(engine)
        with ServiceProcess("recorder", settings) as recorder, Training(broker.address) as training:
            training.train(100)
            training.producer.flush()
            wait_until(lambda: training.is_recorded(history), "the first part")
            server.stop()
            training.train(100)
            training.producer.flush()
            wait_until(lambda: "cannot be had" in recorder.log.read_text(), "it logs it")
            server.start()
            wait_until(lambda: training.is_recorded(history), "all is recorded")
            training.check(history)
        engine.dispose()


@pytest.mark.fault
def test_twenty_runs_with_a_page_open_and_a_person_at_work_never_see_a_lock(
    settings: Settings, broker: BrokerProcess, engine: Engine, history: History
) -> None:
    """Readers as a page makes them, and renames and a deletion from another process than the
    recorder's."""
    done = threading.Event()
    failures: list[BaseException] = []

    def read_pages() -> None:
        try:
            for revision in itertools.count():
                for run in history.runs(sort="-updated_at").items[:3]:
                    with contextlib.suppress(RunNotFound):  # deleted since
                        history.points(run.id, "loss")
                        history.events(run.id)
                history.changes(revision)
                if done.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - shown by the test itself
            failures.append(error)

    def edit_runs() -> None:
        writer = Writer(engine)
        try:
            for number in itertools.count():
                if done.is_set():
                    return
                for run in history.runs(limit=5).items:
                    if run.id == "run-7" and number > 3:
                        writer.delete_run(run.id)
                    else:
                        writer.update_run(run.id, note=f"looked at {number} times")
                time.sleep(0.01)
        except BaseException as error:  # noqa: BLE001 - shown by the test itself
            failures.append(error)

    trainings = [Training(broker.address, f"run-{number}") for number in range(20)]
    threads = [threading.Thread(target=target) for target in (read_pages, read_pages, edit_runs)]
    with ServiceProcess("recorder", settings) as recorder:
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                for training in trainings:
                    training.train(30)
                    training.producer.poll(0)
            for training in trainings:
                training.producer.flush(30)
            kept = [training for training in trainings if training.run != "run-7"]
            for training in kept:
                wait_until(lambda t=training: t.is_recorded(history), training.run)  # type: ignore[misc]
        finally:
            done.set()
            for thread in threads:
                thread.join()
            for training in trainings:
                training.producer.close()
        assert failures == []
        assert "cannot be had" not in recorder.log.read_text()
        for training in kept:
            training.check(history)
