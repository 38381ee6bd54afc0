"""``lineside restore RUN --to`` and ``verify`` on an archive in a real S3 server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lineside.store.archive.location import ArchiveLocation
from lineside.store.archive.manifest import Manifest
from tests.cli.checkpoints.archives import (
    RUN,
    archive_checkpoint,
    checkpoint,
    files_of,
    part_of,
)
from tests.cli.homes import Home
from tests.support.object_stores import BUCKET, KEY_ID, REGION, SECRET, ObjectServer, rclone_server

URL = f"s3://{BUCKET}/archive"


@dataclass(frozen=True)
class Archived:
    """Checkpoints of steps 100 and 200 in a server whose objects are the files of ``bucket``."""

    server: ObjectServer
    bucket: Path
    saved: dict[int, Path]
    manifests: dict[int, Manifest]

    @property
    def variables(self) -> dict[str, str]:
        """What the command needs without a configuration file, as other tools read it."""
        return {
            "AWS_ENDPOINT_URL": self.server.endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archived]:
    folder = tmp_path_factory.mktemp("s3")
    with rclone_server(folder) as rclone:
        location = ArchiveLocation(URL, rclone.server.options())
        saved = {step: checkpoint(folder, step) for step in (100, 200)}
        manifests = {step: archive_checkpoint(location, path, step) for step, path in saved.items()}
        yield Archived(rclone.server, rclone.bucket, saved, manifests)


def test_a_corrupted_object_is_found_and_the_newest_sound_checkpoint_is_restored(
    home: Home, archived: Archived, tmp_path: Path
) -> None:
    variables, target = archived.variables, tmp_path / "back"
    part = part_of(archived.bucket / "archive", archived.manifests[200], "model.bin")
    body = part.read_bytes()
    part.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    try:
        verified = home.lineside("verify", RUN, "--json", "--archive", URL, env=variables)
        refused = home.lineside(
            *("restore", RUN, "--to", str(target), "--archive", URL), env=variables
        )
    finally:
        part.write_bytes(body)
    items = json.loads(verified.stdout)["items"]
    assert (verified.returncode, [item["ok"] for item in items]) == (1, [False, True])
    assert items[0]["faults"][0]["files"] == ["model.bin"]
    assert (refused.returncode, target.exists()) == (1, False)
    offer = refused.stderr.splitlines()[-1].partition("The newest sound one is of step 100: ")[2]
    restored = home.lineside(*offer.split()[1:], env=variables)
    assert restored.returncode == 0, restored.stderr
    assert files_of(target) == files_of(archived.saved[100])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "denies access (403"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "cannot be reached: the connection was"),
    ],
)
def test_an_archive_that_cannot_be_used_is_one_sentence_and_exit_code_1(
    home: Home, archived: Archived, tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    environment = archived.variables | variables
    target = tmp_path / "back"
    for command in (["verify", RUN], ["restore", RUN, "--to", str(target)]):
        done = home.lineside(*command, "--archive", URL, env=environment)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert SECRET not in done.stderr
    assert not target.exists()
