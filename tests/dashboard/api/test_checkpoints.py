"""Checkpoints over HTTP: their states, requests to the archiver, downloads of the archived ones."""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lineside.bus.auth.keyring import Keyring, keys_folder
from lineside.bus.errors import MissingExtra
from lineside.bus.testing import BrokerProcess
from lineside.dashboard.app import create_app
from lineside.dashboard.backend.archive_access import ArchiveAccess
from lineside.store.archive.archive import Archive
from lineside.store.archive.errors import ArchiveDenied
from tests.dashboard.api.test_api import problem
from tests.dashboard.checkpoints import address_of, archived, record_hold, record_state
from tests.dashboard.conftest import Harness, serving
from tests.dashboard.synthetic import Training
from tests.subscribers.conftest import ServiceProcess
from tests.support.waiting import DEADLINE, wait_until

ROOT = "/api/runs/tiny-1/checkpoints"
FILES = {
    "model.safetensors": bytes(range(256)) * 700,
    "empty.txt": b"",
    f"{'deep/' * 30}{'long' * 20}.json": b"{}",
}


def listed(client: httpx.Client) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get(ROOT).json()["items"]
    return items


def test_checkpoints_are_listed_with_their_states_sizes_and_metrics(
    harness: Harness, client: httpx.Client
) -> None:
    training = harness.train(save_every=10)
    record_hold(harness, training, 10)
    record_state(harness, training, 20, "copying", done=480_000_000)
    record_state(
        harness,
        training,
        30,
        "archived",
        metrics={"eval_loss": math.nan},
        best=True,
        pinned=True,
        keep=["best", "pinned"],
        archive="s3://bucket/m.json",
    )
    first, second, third, fourth = listed(client)
    assert (first["state"], first["bytes"], first["files"]) == ("held", 1_200_000_000, 14)
    assert (second["state"], second["done"]) == ("copying", 480_000_000)
    assert second["metrics"]["eval_loss"] > 0
    assert (third["state"], third["best"], third["pinned"]) == ("archived", True, True)
    assert (third["keep"], third["archive"]) == (["best", "pinned"], "s3://bucket/m.json")
    assert third["metrics"]["eval_loss"] is None
    assert third["non_finite"] == {"/metrics/eval_loss": "nan"}
    assert (fourth["state"], fourth["bytes"], fourth["last"]) == (None, None, True)
    assert client.get(f"{ROOT}/{third['id']}").json() == third
    problem(client.get(f"{ROOT}/zz"), 404, "unknown-checkpoint")
    problem(client.get("/api/runs/zz/checkpoints"), 404, "unknown-run")


@pytest.fixture
def recording(harness: Harness) -> Iterator[None]:
    """A broker, and a recorder of what it takes."""
    with BrokerProcess(harness.settings.home), ServiceProcess("recorder", harness.settings):
        yield


@pytest.mark.usefixtures("recording")
def test_requests_are_recorded_and_the_audit_has_who_asked(
    harness: Harness, client: httpx.Client
) -> None:
    training = harness.train()
    record_state(harness, training, 20, "archived")
    root = f"{ROOT}/{listed(client)[0]['id']}"
    for op in ("pin", "unpin", "verify", "delete"):
        answer = client.post(f"{root}/{op}")
        assert (answer.status_code, answer.json()["requested"]) == (202, op)
        assert answer.json()["requested_by"] == "user@dashboard"
        wait_until(lambda op=op: client.get(root).json()["requested"] == op, "it is recorded")  # type: ignore[misc]
    entries = client.get("/api/audit", params={"run": "tiny-1"}).json()["items"]
    path = "/data/tiny-1/checkpoint-20"
    assert [(e["who"], e["action"], e["outcome"]) for e in reversed(entries)] == [
        ("user@dashboard", f"{op} checkpoint {path}", "requested")
        for op in ("pin", "unpin", "verify", "delete")
    ]


@pytest.mark.usefixtures("impatient")
def test_a_request_that_no_archiver_can_answer_is_refused(
    harness: Harness, client: httpx.Client
) -> None:
    training = harness.train()
    record_state(harness, training, 20, "evicted", why="5 newer ones are held")
    evicted, unknown = (f"{ROOT}/{found['id']}" for found in listed(client))
    problem(client.post(f"{unknown}/pin"), 409, "no-archiver")
    for op in ("delete", "verify"):
        found = problem(client.post(f"{evicted}/{op}"), 409, "not-archived")
        assert "is not in the archive; it is evicted: 5 newer ones are held" in str(found["detail"])
    problem(client.get(f"{evicted}/download"), 409, "not-archived")
    problem(client.post(f"{evicted}/burn"), 422, "invalid-request")
    problem(client.post(f"{ROOT}/zz/pin"), 404, "unknown-checkpoint")
    problem(client.post(f"{evicted}/pin"), 503, "not-sent")
    assert listed(client)[0]["requested"] is None


class Site:
    """A run with one archived checkpoint, and a dashboard over it."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        self.harness = harness
        self.training: Training = harness.train(save_every=40)
        self.folder = folder
        self.archive = archived(folder, self.training, 40, FILES)
        address = address_of(self.archive, "tiny-1")
        record_state(harness, self.training, 40, "verified", archive=address)
        self.path = f"{ROOT}/{harness.history.checkpoints('tiny-1')[0].id}/download"

    def get(self, opener: Any, **headers: str) -> httpx.Response:
        harness, home = self.harness, self.harness.settings.home
        keyring = Keyring(keys_folder(home)) if headers else None
        app = create_app(
            harness.history,
            harness.feeder.writer,
            harness.settings,
            keyring=keyring,
            archive=opener,
        )
        with serving(app) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
            return client.get(self.path, headers=headers)


@pytest.fixture
def made(harness: Harness, tmp_path: Path) -> Site:
    return Site(harness, tmp_path)


def test_an_archived_checkpoint_is_downloaded_as_a_tar_of_its_files(made: Site) -> None:
    answer = made.get(lambda: made.archive)
    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["content-disposition"].endswith('"tiny-1-checkpoint-40.tar"')
    with tarfile.open(fileobj=io.BytesIO(answer.content), mode="r:") as tar:
        found = {
            member.name: handle.read()
            for member in tar.getmembers()
            if (handle := tar.extractfile(member)) is not None
        }
    assert found == {f"checkpoint-40/{name}": body for name, body in FILES.items()}


def test_a_damaged_part_ends_the_download_before_its_length(made: Site) -> None:
    parts = [path for path in (made.folder / "archive").rglob("parts/*/*") if path.stat().st_size]
    largest = max(parts, key=lambda path: path.stat().st_size)
    body = bytearray(largest.read_bytes())
    body[5] ^= 1
    largest.chmod(0o600)
    largest.write_bytes(body)
    with pytest.raises(httpx.RemoteProtocolError, match="closed"):
        made.get(lambda: made.archive)


def refuse(error: Exception) -> Any:
    def opener() -> Archive:
        raise error

    return opener


@pytest.mark.parametrize(
    ("opener", "text"),
    [
        (None, "start it with `--archive URL`"),
        (lambda: None, "start it with `--archive URL`"),
        (refuse(MissingExtra("the archive", "obstore", "archive")), "lineside[archive]"),
        (refuse(ArchiveDenied("s3://b refuses: no credentials")), "no credentials"),
    ],
)
def test_without_an_archive_or_its_credentials_a_download_names_what_is_missing(
    made: Site, opener: Any, text: str
) -> None:
    found = problem(made.get(opener), 503, "archive-unavailable")
    assert text in str(found["detail"])


def test_an_archive_that_is_there_later_needs_no_other_dashboard(made: Site) -> None:
    found: list[Archive | None] = [None, made.archive]
    access = ArchiveAccess(lambda: found.pop(0))
    assert "--archive URL" in access.unavailable_reason
    assert not access.unavailable_reason
    assert not access.unavailable_reason  # opened once


def test_a_download_of_a_missing_manifest_names_both_places(made: Site) -> None:
    for manifest in (made.folder / "archive").rglob("checkpoints/*.json"):
        manifest.unlink()
    found = problem(made.get(lambda: made.archive), 502, "archive-damaged")
    assert "is missing" in str(found["detail"])
    assert made.archive.url in str(found["detail"])


def test_an_address_of_another_runs_manifest_is_not_downloaded(made: Site) -> None:
    training = made.harness.train("tiny-2", save_every=40)
    address = address_of(made.archive, "tiny-1")
    record_state(made.harness, training, 40, "archived", archive=address)
    identity = made.harness.history.checkpoints("tiny-2")[0].id
    made.path = f"/api/runs/tiny-2/checkpoints/{identity}/download"
    found = problem(made.get(lambda: made.archive), 502, "archive-damaged")
    assert "no address of a manifest of run tiny-2" in str(found["detail"])


@pytest.mark.usefixtures("impatient")
def test_a_download_takes_the_role_read_and_a_request_the_role_control(made: Site) -> None:
    harness = made.harness
    keyring = Keyring(keys_folder(harness.settings.home))
    viewer = {"authorization": f"Bearer {keyring.new_token('viewer', ['read'])}"}
    pilot = {"authorization": f"Bearer {keyring.new_token('pilot', ['control'])}"}
    app = create_app(
        harness.history,
        harness.feeder.writer,
        harness.settings,
        keyring=keyring,
        archive=lambda: made.archive,
    )
    pin = made.path.replace("download", "pin")
    with serving(app) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
        problem(client.get(made.path), 401, "no-access")
        problem(client.get(made.path, headers=pilot), 403, "not-allowed")
        assert client.get(made.path, headers=viewer).status_code == 200
        problem(client.post(pin, headers=viewer), 403, "not-allowed")
        problem(client.post(pin, headers=pilot), 503, "not-sent")
        elsewhere = {**pilot, "origin": "http://elsewhere.example"}
        problem(client.post(pin, headers=elsewhere), 403, "cross-site")
