"""``lineside archiver`` beside a real Trainer that keeps one checkpoint, to a folder and to S3."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lineside.bus.checkpoints.hold import HoldLimits, read_limits, write_limits
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
PARALLEL = 4  # the default of archive.parallel


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
        write_limits(settings.home, None)  # as `lineside up` does that has no archive
        wait_until(lambda: is_over(settings, range(1, 7)), "all are archived")
        wait_until(lambda: read_limits(settings.home) == HoldLimits(max_held=50), "it asks again")
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
def test_after_kills_of_archiver_trainer_and_store_the_archive_has_what_the_policy_keeps(
    settings: Settings, broker: BrokerProcess, tmp_path: Path, output: Path, rng: Random
) -> None:
    with rclone_server(tmp_path) as rclone, SlowLink(rclone.server.port, 400_000) as link:
        archive = settings_of(rclone.server, link)
        with configured(settings, **archive, save_total_limit=2) as archiver:
            train_with_kills(settings, output, archiver, rclone.server, rng)
        opened = open_archive(ArchiveLocation(**archive))
        found = archived(opened)
        named = {
            part.sha256
            for key in opened.entries("run")
            for part in opened.read_manifest(key).parts()
        }
        on_disk = [path.name for path in rclone.bucket.rglob("*") if path.is_file()]
    assert {11, 12} <= set(found) <= {11, 12} | resumed_from(settings)
    for step, files in found.items():
        assert files in saves(output)[step], f"checkpoint {step} is as one of its saves was"
    assert sorted(name for name in on_disk if not name.endswith(".json")) == sorted(named)
    # The answers to the parts under way are lost with the store, which ignores If-None-Match.
    assert len(sent_again((tmp_path / "rclone.log").read_text())) <= PARALLEL


def resumed_from(settings: Settings) -> set[int]:
    """The steps from which an attempt resumed."""
    starts = [event.data or {} for event in published(settings, "run/rank0", "run_start")]
    return {start["resumed_from"]["step"] for start in starts if start.get("resumed_from")}


def sent_again(log: str) -> list[str]:
    """The objects that were sent while the store had them already."""
    stored: set[str] = set()
    again = []
    for line in log.splitlines():
        if created := re.search(r"CREATE OBJECT: \S+ (\S+)", line):
            again += [created[1]] if created[1] in stored else []
        elif moved := re.search(rf"\(server-side\) to: {BUCKET}/(\S+)", line):
            stored.add(moved[1])
        elif deleted := re.search(r"DELETE.*? (prefix/\S+)", line):
            stored.discard(deleted[1])
    assert stored, "rclone logs what it stores"
    return again


def settings_of(server: ObjectServer, link: SlowLink) -> dict[str, Any]:
    options = server.options(link.endpoint) | {"allow_http": "true"}
    return {"url": f"s3://{BUCKET}/prefix", "options": options}


def train_with_kills(
    settings: Settings,
    output: Path,
    archiver: ServiceProcess,
    store: ObjectServer,
    rng: Random,
) -> None:
    """Train 12 steps while archiver, trainer and store are killed and started again."""
    archiver.wait_started()
    train = training(settings, output, 12, 0.3)
    with train:
        for killed in (archiver, train, store, archiver):
            time.sleep(rng.uniform(1, 4))
            killed.kill()
            if killed is store:
                time.sleep(rng.uniform(1, 3))
            elif killed is archiver:
                archiver.log.unlink()
            killed.start()
            if killed is archiver:
                archiver.wait_started()
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
