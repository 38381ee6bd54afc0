"""``lineside archiver`` beside a real Trainer that keeps one checkpoint, to a folder and to S3."""

from __future__ import annotations

import json
import random
import re
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.settings import Settings
from lineside.bus.testing import BrokerProcess
from lineside.store.archive.archive import Archive
from lineside.store.archive.location import ArchiveLocation, open_archive
from tests.subscribers.archiver import archived_train
from tests.subscribers.conftest import ServiceProcess
from tests.subscribers.kit import published
from tests.support.object_stores import (
    BUCKET,
    SECRET,
    ObjectServer,
    SlowLink,
    moto_server,
    rclone_server,
)
from tests.support.processes import Child, supervised
from tests.support.waiting import wait_until

Digests = dict[int, dict[str, str]]


def training(settings: Settings, output: Path, steps: int, pause: float = 0.0) -> Child:
    env = supervised(settings.home, LINESIDE_BROKER=settings.broker, LINESIDE_SAMPLER="0")
    command = [archived_train.__file__, str(output), str(steps), str(pause)]
    return Child(command, env, output.with_suffix(".log"), fork=True)


def saved(output: Path) -> Digests:
    """The digests of each checkpoint as it was once all callbacks had been called."""
    lines = output.with_suffix(".jsonl").read_text().splitlines()
    return dict(json.loads(line) for line in lines)


def saves(output: Path) -> dict[int, list[dict[str, str]]]:
    """The digests of each save of each step: a training that was killed saves a step again."""
    found: dict[int, list[dict[str, str]]] = {}
    for line in output.with_suffix(".jsonl").read_text().splitlines():
        step, digests = json.loads(line)
        found.setdefault(step, []).append(digests)
    return found


def holds(output: Path) -> list[str]:
    return [path.name for path in (output / "_lineside").glob("*")]


def secret_free(process: ServiceProcess) -> bool:
    return SECRET not in process.log_text()


def newest(archive: Archive) -> Digests:
    """``archived``, of each step the save of the newest attempt."""
    found: Digests = {}
    for key in archive.entries("run"):
        manifest = archive.read_manifest(key)
        assert archive.find_faults(manifest) == []
        found.setdefault(key.step, {file.path: file.parts[0].sha256 for file in manifest.files})
    return found


def archived(archive: Archive) -> Digests:
    """The digests of the files of each checkpoint in the archive, read back."""
    found: Digests = {}
    for key in archive.entries("run"):
        manifest = archive.read_manifest(key)
        assert archive.find_faults(manifest) == []
        assert key.step not in found, "one manifest for each checkpoint"
        found[key.step] = {file.path: file.parts[0].sha256 for file in manifest.files}
    return found


def states(settings: Settings) -> dict[int, str]:
    """The last published state of each step."""
    events = published(settings, "run/archiver", "checkpoint_state")
    return {event.data["step"]: event.data["state"] for event in events if event.data}


def configured(settings: Settings, **archive: Any) -> ServiceProcess:
    settings.home.mkdir(exist_ok=True)
    file = settings.home / "lineside.yaml"
    file.write_text(json.dumps({"archive": {"max_held": 50, **archive}}))
    return ServiceProcess("archiver", settings, "--config", str(file))


def is_over(settings: Settings, steps: Sequence[int]) -> bool:
    final = {"archived", "verified", "evicted", "skipped", "incomplete", "deleted"}
    found = states(settings)
    return all(found.get(step) in final for step in steps)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_every_checkpoint_of_a_rotating_training_is_archived_as_it_was_saved(
    settings: Settings, broker: BrokerProcess, tmp_path: Path, output: Path
) -> None:
    archive = open_archive(ArchiveLocation(str(tmp_path / "archive")))
    with configured(settings, url=archive.url, verify=True) as archiver:
        archiver.wait_started()
        with training(settings, output, 6) as train:
            assert train.wait() == 0
        wait_until(lambda: is_over(settings, range(1, 7)), "all are archived")
        assert archiver.stop() == 0
    assert states(settings) == dict.fromkeys(range(1, 7), "verified")
    assert archived(archive) == saved(output)
    assert [path.name for path in output.iterdir()] == ["checkpoint-6"], "no hold is left"


@pytest.mark.long
def test_through_a_slow_network_what_the_policy_keeps_arrives_whole(
    settings: Settings, broker: BrokerProcess, tmp_path: Path, output: Path
) -> None:
    with moto_server(tmp_path) as server, SlowLink(server.port, 200_000) as link:
        archive = settings_of(server, link)
        with configured(settings, **archive, save_total_limit=2) as archiver:
            archiver.wait_started()
            with training(settings, output, 12) as train:
                assert train.wait() == 0
            wait_until(lambda: is_over(settings, range(1, 13)), "all are archived or given up")
            wait_until(lambda: holds(output) == [], "the holds are released")
            assert archiver.stop() == 0
        found = archived(open_archive(ArchiveLocation(**archive)))
    assert sorted(found) == [11, 12]
    assert found == {step: saved(output)[step] for step in found}
    final = states(settings)
    kept = {step for step, state in final.items() if state == "archived"}
    assert kept == {11, 12}
    assert set(final.values()) <= {"archived", "skipped", "deleted"}
    assert secret_free(archiver)


@pytest.mark.fault
@pytest.mark.long
def test_kills_of_archiver_and_trainer_leave_each_checkpoint_whole_and_sent_once(
    settings: Settings, broker: BrokerProcess, tmp_path: Path, output: Path
) -> None:
    with moto_server(tmp_path) as server, SlowLink(server.port, 400_000) as link:
        archive = settings_of(server, link)
        with configured(settings, **archive) as archiver:
            train_with_faults(settings, output, archiver, link)
        found = newest(open_archive(ArchiveLocation(**archive)))
        puts = re.findall(r'"PUT /(\S+) HTTP/1.1" 200', (tmp_path / "moto.log").read_text())
    assert 12 in found
    for step, files in found.items():
        assert files in saves(output)[step], f"checkpoint {step} is as one of its saves was"
    assert len(puts) > len(found)
    assert {name: puts.count(name) for name in puts if puts.count(name) > 1} == {}


@pytest.mark.fault
@pytest.mark.long
def test_a_store_that_is_killed_has_in_the_end_what_the_policy_keeps_and_nothing_else(
    settings: Settings, broker: BrokerProcess, tmp_path: Path, output: Path
) -> None:
    with rclone_server(tmp_path) as rclone, SlowLink(rclone.server.port, 400_000) as link:
        archive = settings_of(rclone.server, link)
        with configured(settings, **archive, save_total_limit=2) as archiver:
            train_with_faults(settings, output, archiver, link, rclone.server)
        opened = open_archive(ArchiveLocation(**archive))
        found = newest(opened)
        named = {
            part.sha256
            for key in opened.entries("run")
            for part in opened.read_manifest(key).parts()
        }
        on_disk = {path.name for path in rclone.bucket.rglob("parts/*/*")}
    assert 12 in found
    for step, files in found.items():
        assert files in saves(output)[step], f"checkpoint {step} is as one of its saves was"
    assert on_disk == named


def settings_of(server: ObjectServer, link: SlowLink) -> dict[str, Any]:
    options = server.options(link.endpoint) | {"allow_http": "true"}
    return {"url": f"s3://{BUCKET}/prefix", "options": options}


def train_with_faults(
    settings: Settings,
    output: Path,
    archiver: ServiceProcess,
    link: SlowLink,
    store: ObjectServer | None = None,
) -> None:
    """Train 12 steps while archiver, trainer, and the store or its network are killed."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    archiver.wait_started()
    train = training(settings, output, 12, 0.3)
    with train:
        for part in ("archiver", "trainer", "store", "archiver"):
            time.sleep(chosen.uniform(1, 4))
            if part == "archiver":
                archiver.kill()
                archiver.log.unlink()
                archiver.start()
                archiver.wait_started()
            elif part == "trainer":
                train.kill()
                train.start()
            elif store is not None:
                store.kill()
                time.sleep(chosen.uniform(1, 3))
                store.start()
            else:
                link.cut()
                time.sleep(chosen.uniform(1, 3))
                link.restore()
        assert train.wait() == 0
    wait_until(lambda: is_over(settings, sorted(saves(output))), "all are archived or given up")
    wait_until(lambda: holds(output) == [], "the holds are released")
    wait_until(lambda: not has_work(settings), "nothing is left to do")
    assert archiver.stop() == 0


def has_work(settings: Settings) -> bool:
    """Whether the archiver keeps a run in memory for what is still to be done."""
    file = settings.home / "subscribers" / "archiver.1.db"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT json_extract(context, '$.stays') FROM runs").fetchall()
    return any(stays for (stays,) in rows)
