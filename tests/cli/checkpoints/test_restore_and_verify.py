"""``lineside restore RUN --to`` and ``verify`` on an archive in a folder, without any service."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lineside.bus.checkpoints.hold import HoldLimits, write_limits
from lineside.store.archive.manifest import Manifest
from tests.cli.checkpoints.archives import (
    ATTEMPT,
    RUN,
    archive_checkpoint,
    checkpoint,
    files_of,
    manifest_of,
    part_of,
)
from tests.cli.homes import Home

STEPS = (100, 200, 300)
EVAL_LOSS = {100: 0.5, 200: 0.2, 300: 0.3}


@dataclass(frozen=True)
class Archived:
    """A run whose checkpoints of ``STEPS`` are in the archive ``url``."""

    url: Path
    saved: dict[int, Path]
    manifests: dict[int, Manifest]

    def part(self, step: int, file: str = "model.bin") -> Path:
        return part_of(self.url, self.manifests[step], file)


@pytest.fixture
def archived(tmp_path: Path) -> Archived:
    url = tmp_path / "archive"
    saved = {step: checkpoint(tmp_path / "out", step) for step in STEPS}
    manifests = {
        step: archive_checkpoint(url, path, step, metrics={"eval_loss": EVAL_LOSS[step]})
        for step, path in saved.items()
    }
    return Archived(url, saved, manifests)


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ([], 300),
        (["--last"], 300),
        (["--step", "100", "--attempt", ATTEMPT], 100),
        (["--best"], 200),
    ],
)
def test_a_restored_checkpoint_is_equal_to_the_one_that_was_saved(
    home: Home, archived: Archived, tmp_path: Path, options: list[str], step: int
) -> None:
    target = tmp_path / "back" / "checkpoint"
    command = ("restore", RUN[:8], "--to", str(target), "--archive", str(archived.url))
    done = home.lineside(*command, *options)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{target}: step {step} of {RUN}, 2 files, 5.01 kB\n"
    assert files_of(target) == files_of(archived.saved[step])


def test_the_folder_of_the_archiver_of_this_home_needs_no_option(
    home: Home, archived: Archived, tmp_path: Path
) -> None:
    home.path.mkdir(mode=0o700, exist_ok=True)
    write_limits(home.path, HoldLimits(), str(archived.url))
    done = home.lineside("restore", RUN, "--to", str(tmp_path / "back"))
    assert (done.returncode, done.stderr) == (0, "")
    assert files_of(tmp_path / "back") == files_of(archived.saved[300])

    write_limits(home.path, HoldLimits(), "s3://bucket/prefix")
    refused = home.lineside("verify", RUN)
    assert refused.returncode == 2
    assert "archive s3://bucket/prefix needs its options: give --archive URL" in refused.stderr


def test_a_restore_as_json_names_what_was_restored(
    home: Home, archived: Archived, tmp_path: Path
) -> None:
    target = tmp_path / "back"
    command = ("restore", RUN, "--to", str(target), "--archive", str(archived.url), "--json")
    assert json.loads(home.lineside(*command).stdout) == {
        "run": RUN,
        "attempt": ATTEMPT,
        "step": 300,
        "to": str(target),
        "files": 2,
        "bytes": 5013,
        "scrubbed": [],
    }


def corrupt(path: Path) -> None:
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


# A manifest that is gone makes no faulty checkpoint: without it there is none.
@pytest.mark.parametrize(
    ("damaged_object", "damage"),
    [
        ("part", corrupt),
        ("part", truncate),
        ("part", Path.unlink),
        ("manifest", corrupt),
        ("manifest", truncate),
    ],
)
def test_a_damaged_object_is_found_and_the_newest_sound_checkpoint_is_offered(
    home: Home,
    archived: Archived,
    tmp_path: Path,
    damaged_object: str,
    damage: Callable[[Path], None],
) -> None:
    damage(archived.part(200))
    damage(archived.part(300) if damaged_object == "part" else manifest_of(archived.url, 300))
    assert_found_and_refused(home, archived, tmp_path)


def test_a_swapped_object_is_found_and_the_newest_sound_checkpoint_is_offered(
    home: Home, archived: Archived, tmp_path: Path
) -> None:
    body = archived.part(200).read_bytes()
    archived.part(200).write_bytes(archived.part(300).read_bytes())
    archived.part(300).write_bytes(body)
    assert_found_and_refused(home, archived, tmp_path)


def test_a_swapped_manifest_is_found_and_the_newest_sound_checkpoint_is_offered(
    home: Home, archived: Archived, tmp_path: Path
) -> None:
    body = manifest_of(archived.url, 200).read_bytes()
    manifest_of(archived.url, 200).write_bytes(manifest_of(archived.url, 300).read_bytes())
    manifest_of(archived.url, 300).write_bytes(body)
    assert_found_and_refused(home, archived, tmp_path)


def assert_found_and_refused(home: Home, archived: Archived, tmp_path: Path) -> None:
    """Of the three checkpoints those of steps 200 and 300 are damaged."""
    url = ("--archive", str(archived.url))
    verified = home.lineside("verify", RUN, "--json", *url)
    items = json.loads(verified.stdout)["items"]
    assert (verified.returncode, verified.stderr) == (1, "")
    assert [(item["step"], item["ok"]) for item in items] == [
        (300, False),
        (200, False),
        (100, True),
    ]

    target = tmp_path / "back"
    refused = home.lineside("restore", RUN, "--to", str(target), *url)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert not target.exists()
    assert [path.name for path in tmp_path.iterdir() if "back" in path.name] == []
    fault = items[0]["faults"][0]["key"]
    assert fault in refused.stderr
    offer = refused.stderr.splitlines()[-1].partition("The newest sound one is of step 100: ")[2]
    assert offer.startswith("lineside restore ")

    restored = home.lineside(*offer.split()[1:])
    assert restored.returncode == 0, restored.stderr
    assert files_of(target) == files_of(archived.saved[100])


def test_verify_reads_one_checkpoint_or_all_and_names_faulty_objects_and_their_files(
    home: Home, archived: Archived
) -> None:
    url = ("--archive", str(archived.url))
    sound = home.lineside("verify", RUN, *url)
    assert (sound.returncode, sound.stderr) == (0, "")
    lines = [f"step {step}: sound, 5.01 kB" for step in reversed(STEPS)]
    assert sound.stdout.splitlines() == lines

    corrupt(archived.part(200))
    assert home.lineside("verify", RUN, "--step", "300", *url).returncode == 0
    found = home.lineside("verify", RUN, "--step", "200", *url)
    title, fault = found.stdout.splitlines()
    assert (found.returncode, title) == (1, "step 200: 1 faulty object")
    key = archived.part(200).relative_to(archived.url)
    assert fault.startswith(f"  model.bin: {key} ")


def test_an_object_that_several_checkpoints_share_makes_all_of_them_faulty(
    home: Home, archived: Archived, tmp_path: Path
) -> None:
    corrupt(archived.part(300, "merged/config.json"))
    url = ("--archive", str(archived.url))
    refused = home.lineside("restore", RUN, "--to", str(tmp_path / "back"), *url)
    assert refused.returncode == 1
    assert refused.stderr.endswith("No other checkpoint of the run in the archive is sound\n")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["restore", RUN, "--step", "7", "--to", "new"], 2, "the newest are of the steps 100, "),
        (["restore", "gpt", "--to", "new"], 2, f"has {RUN}"),
        (["restore", RUN, "--to", "new", "--step", "100", "--best"], 2, "one of --step, --best"),
        (["restore", RUN, "--to", "new", "--check"], 2, "--check and --force are for a backup"),
        (["restore", RUN, "--to", "/"], 2, "--to /: it exists"),
        (["restore", RUN, "--step", "7"], 2, "--to is missing"),
        (["verify", RUN, "--step", "7"], 2, "no checkpoint of step 7"),
        (["verify", RUN, "--attempt", "x"], 2, "no checkpoint of an attempt 'x'"),
        (["restore", RUN, "--to", "new", "--attempt", "x"], 2, "no checkpoint of an attempt 'x'"),
    ],
)
def test_a_wrong_use_is_one_sentence(
    home: Home, archived: Archived, words: list[str], code: int, message: str
) -> None:
    done = home.lineside(*words, "--archive", str(archived.url))
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_an_archive_the_error_names_the_option_and_the_key(home: Home) -> None:
    done = home.lineside("restore", RUN, "--to", "new")
    assert (done.returncode, done.stdout) == (2, "")
    assert "give --archive URL, or set archive.url in a configuration file" in done.stderr


def test_a_folder_that_is_not_there_has_lost_nothing(home: Home, archived: Archived) -> None:
    archived.url.rename(archived.url.with_name("moved"))
    done = home.lineside("verify", RUN, "--archive", str(archived.url))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"the folder {archived.url} of the archive is not there" in done.stderr


def test_the_configuration_names_the_archive_and_the_metric_that_decides(
    home: Home, archived: Archived, tmp_path: Path
) -> None:
    config = tmp_path / "lineside.yaml"
    config.write_text("archive: {url: archive, monitor: [eval_loss], mode: max}\n")
    target = tmp_path / "back"
    options = ("--to", str(target), "--best", "--config", str(config))
    done = home.lineside("restore", RUN, *options)
    assert done.returncode == 0, done.stderr
    assert files_of(target) == files_of(archived.saved[100])
