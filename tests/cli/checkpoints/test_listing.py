"""``lineside checkpoints``: what a run has, where it is, and the newest whole one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lineside.bus.checkpoints.hold import hold_path
from lineside.bus.testing import BrokerProcess
from lineside.cli.checkpoints.catalog import read_catalog
from lineside.cli.checkpoints.progress import progress_text
from lineside.cli.checkpoints.wholeness import newest_whole
from lineside.dashboard.api.checkpoint_models import Checkpoint
from lineside.store.archive.archive import Archive
from lineside.store.archive.location import ArchiveLocation, open_archive
from lineside.store.database.engine import open_store
from lineside.store.history.history import History
from tests.cli.checkpoints.archives import (
    ATTEMPT,
    RUN,
    archive_checkpoint,
    checkpoint,
    manifest_of,
)
from tests.cli.checkpoints.stores import RecordedRun, trainer_checkpoint
from tests.cli.homes import Home

FIELDS = Checkpoint.model_fields.keys() | {"counts", "folder", "hold", "in_archive"}
"""The keys of each item, whatever is known of it."""
LATER = "20261129T080000.000-0002"


def newest(home: Home, *options: str) -> tuple[int, str, str]:
    """What ``$(lineside checkpoints RUN --newest-whole --path)`` gives."""
    done = home.lineside("checkpoints", RUN, "--newest-whole", "--path", *options)
    return done.returncode, done.stdout, done.stderr


def items(home: Home, *options: str) -> list[dict[str, object]]:
    done = home.lineside("checkpoints", RUN, "--json", *options)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)["items"]
    return found


def test_each_checkpoint_has_its_state_and_the_places_where_it_is(
    home: Home, tmp_path: Path
) -> None:
    out, run = tmp_path / "out", RecordedRun()
    paths = {step: trainer_checkpoint(out, step) for step in (100, 200, 300, 400)}
    run.start()
    for step, path in paths.items():
        run.save(path, step, left=[one for one in paths if step - 100 <= one <= step])
    shutil.copytree(paths[200], hold_path(paths[200]))
    for step in (100, 200):
        shutil.rmtree(paths[step])
    metrics = {"loss": 1.5, "eval_loss": 0.25}
    run.state(paths[100], 100, "archived", bytes=5_000_000, metrics=metrics, best=True, pinned=True)
    run.state(paths[200], 200, "copying", bytes=1000, done=400)
    run.state(paths[300], 300, "failed", why="no route to host", retry_at=4e9)
    run.record(home)

    done = home.lineside("checkpoints", RUN)
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["STEP", "SAVED", "STATE", "SIZE", "METRIC", "MARKS", "WHERE"]
    after = [line[header.index("STATE") :].split("  ") for line in lines[:4]]
    cells = [[cell.strip() for cell in line if cell] for line in after]
    assert cells == [
        ["not archived", "last", "local"],
        ["failed", "local"],
        ["copying 40 %", "1 kB", "held"],
        ["archived", "5 MB", "eval_loss 0.25", "best, pinned", "archived"],
    ]
    assert lines[4] == "step 300: no route to host"
    assert lines[5].startswith("step 300: it is tried again at 2096-")

    shown = {item["step"]: item for item in items(home)}
    assert {frozenset(item) for item in shown.values()} == {frozenset(FIELDS)}
    assert (shown[400]["folder"], shown[400]["in_archive"]) == (str(paths[400]), False)
    assert (shown[200]["folder"], shown[200]["hold"]) == (None, str(hold_path(paths[200])))
    assert (shown[100]["in_archive"], shown[100]["deleted"]) == (True, True)
    assert shown[100]["metrics"] == metrics


def test_the_newest_whole_one_is_the_newest_with_the_files_of_all_ranks(
    home: Home, tmp_path: Path
) -> None:
    run = RecordedRun()
    run.start(world_size=2)
    for step in (100, 200, 300):
        path = trainer_checkpoint(tmp_path, step)
        for rank in (0, 1):
            (path / f"rng_state_{rank}.pth").write_bytes(b"a state")
        run.save(path, step)
    (tmp_path / "checkpoint-300" / "rng_state_1.pth").unlink()
    weights = tmp_path / "checkpoint-200" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run.record(home)
    assert newest(home) == (0, f"{tmp_path}/checkpoint-100\n", "")
    assert [item["step"] for item in items(home, "--newest-whole")] == [100]
    shutil.rmtree(tmp_path / "checkpoint-100")
    code, out, error = newest(home)
    assert (code, out) == (1, "")
    assert f"no checkpoint of {RUN} is whole" in error


def test_a_hold_counts_where_rotation_was_first_until_the_archive_has_it(
    home: Home, tmp_path: Path
) -> None:
    run, path = RecordedRun(), trainer_checkpoint(tmp_path, 100)
    run.start()
    run.save(path, 100)
    hold = hold_path(path)
    shutil.copytree(path, hold)
    shutil.rmtree(path)
    run.record(home)
    assert newest(home) == (0, f"{hold}\n", "")

    run.state(path, 100, "archived")
    run.record(home)
    code, out, error = newest(home)
    assert (code, out) == (1, "")
    assert "step 100, is only in the archive" in error
    assert f"`lineside restore {RUN} --step 100 --to DIR`" in error


def test_a_checkpoint_that_another_run_has_replaced_is_not_this_runs(
    home: Home, tmp_path: Path
) -> None:
    run = RecordedRun()
    run.start()
    for step in (100, 200):
        run.save(trainer_checkpoint(tmp_path, step), step)
    shutil.rmtree(tmp_path / "checkpoint-200")
    trainer_checkpoint(tmp_path, 200, run="another")
    run.record(home)
    assert newest(home) == (0, f"{tmp_path}/checkpoint-100\n", "")


def test_what_a_later_attempt_went_back_behind_counts_only_without_another(
    home: Home, tmp_path: Path
) -> None:
    run = RecordedRun()
    run.start()
    for step in (100, 200):
        run.save(trainer_checkpoint(tmp_path, step), step)
    resumed = {"attempt": ATTEMPT, "step": 100, "path": str(tmp_path / "checkpoint-100")}
    run.start(LATER, resumed_from=resumed)
    run.record(home)
    assert newest(home) == (0, f"{tmp_path}/checkpoint-100\n", "")
    run.save(trainer_checkpoint(tmp_path, 150, LATER), 150, LATER)
    run.record(home)
    assert newest(home) == (0, f"{tmp_path}/checkpoint-150\n", "")
    assert [(item["step"], item["counts"]) for item in items(home)] == [
        (150, True),
        (100, True),
        (200, False),
    ]
    assert home.lineside("checkpoints", RUN).stdout.splitlines()[3].split()[-2:] == [
        "superseded",
        "local",
    ]
    for step in (100, 150):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    assert newest(home) == (0, f"{tmp_path}/checkpoint-200\n", "")


def test_a_request_is_about_the_attempt_whose_checkpoint_the_archive_has(
    home: Home, tmp_path: Path
) -> None:
    run, path = RecordedRun(), tmp_path / "checkpoint-200"
    run.start()
    run.save(path, 200)
    run.state(path, 200, "archived", why="a note")
    resumed = {"attempt": ATTEMPT, "step": 100, "path": str(tmp_path / "checkpoint-100")}
    run.start(LATER, resumed_from=resumed)
    run.save(path, 200, LATER)
    run.record(home)
    with BrokerProcess(home.path) as broker:
        broker_of = {"LINESIDE_BROKER": broker.address}
        command = ("pin", RUN, "--step", "200", "--no-wait", "--json")
        asked = json.loads(home.lineside(*command, env=broker_of).stdout)
        of_later = json.loads(home.lineside(*command, "--attempt", LATER, env=broker_of).stdout)
    assert (asked["attempt"], asked["state"]) == (ATTEMPT, "requested")
    assert of_later["attempt"] == LATER
    unknown = home.lineside("pin", RUN, "--step", "200", "--attempt", "x")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert f"no checkpoint of an attempt 'x'; `lineside show {RUN}` lists" in unknown.stderr
    shown = home.lineside("checkpoints", RUN).stdout.splitlines()
    assert shown[-1] == "step 200 (superseded): a note"


def test_a_newer_one_that_is_not_recorded_yet_is_listed_and_counts(
    home: Home, tmp_path: Path
) -> None:
    run = RecordedRun()
    run.start()
    run.save(trainer_checkpoint(tmp_path, 100), 100)
    run.record(home)
    path = trainer_checkpoint(tmp_path, 200)
    assert newest(home) == (0, f"{path}\n", "")
    assert home.lineside("checkpoints", RUN).stdout.splitlines()[1].split() == [
        *("200", "not", "recorded", "local")
    ]
    (item, _) = items(home)
    assert (item["step"], item["folder"], item["state"]) == (200, str(path), None)
    assert item.keys() == FIELDS


def test_of_store_and_archive_the_newest_whole_one_is_taken(home: Home, tmp_path: Path) -> None:
    run, url, out = RecordedRun(), tmp_path / "archive", tmp_path / "out"
    run.start()
    for step in (100, 200):
        path = trainer_checkpoint(out, step)
        archive_checkpoint(url, path, step)
        run.save(path, step)
    run.record(home)
    archive = open_archive(ArchiveLocation(str(url)))
    engine = open_store(f"sqlite:///{home.path}/store.db")
    history = History(engine)

    def newest_of(history: History | None, archive: Archive | None) -> tuple[int, Path | None]:
        found = newest_whole(read_catalog(RUN, history, archive), history)
        assert found is not None
        return found[0].step, found[1]

    path = out / "checkpoint-200"
    assert newest_of(history, archive) == newest_of(history, None) == (200, path)
    shutil.rmtree(path)
    assert newest_of(history, archive) == newest_of(None, archive) == (200, None)
    assert newest_of(history, None) == (100, out / "checkpoint-100")
    manifest_of(url, 200).unlink()
    weights = tmp_path / "weights" / "checkpoint-300"
    shutil.copytree(out / "checkpoint-100", weights)
    (weights / "trainer_state.json").unlink()
    archive_checkpoint(url, weights, 300)  # as `weights_only` has it
    archive_checkpoint(url, out / "checkpoint-100", 400)
    manifest_of(url, 400).write_text("{}")
    assert newest_of(history, archive) == (100, out / "checkpoint-100")
    engine.dispose()


def test_without_a_store_the_archive_is_listed(home: Home, tmp_path: Path) -> None:
    url = tmp_path / "archive"
    for step in (100, 200):
        path = checkpoint(tmp_path, step)
        archive_checkpoint(url, path, step, metrics={"eval_loss": step / 1000})
    manifest_of(url, 100).write_text("{}")
    done = home.lineside("checkpoints", RUN, "--archive", str(url))
    assert done.returncode == 0, done.stderr
    _, newer, damaged = done.stdout.splitlines()
    assert newer.split("  ")[0] == " 200"
    assert newer.endswith("archived  5.01 kB  eval_loss 0.2         archived")
    assert damaged.split() == ["100", "corrupt", "archived"]
    (item, corrupt) = items(home, "--archive", str(url))
    assert (item["path"], item["files"]) == (str(tmp_path / "checkpoint-200"), 2)
    assert (corrupt["state"], corrupt["path"]) == ("corrupt", None)
    assert item.keys() == corrupt.keys() == FIELDS


def test_the_command_that_restores_one_that_only_the_archive_has_is_whole(
    home: Home, tmp_path: Path
) -> None:
    url, path = tmp_path / "archive", trainer_checkpoint(tmp_path / "out", 100)
    archive_checkpoint(url, path, 100)
    shutil.rmtree(path)
    _, _, error = newest(home, "--archive", str(url))
    command = error.partition("`lineside ")[2].partition("`")[0].replace("DIR", str(path))
    assert home.lineside(*command.split()).returncode == 0, command
    assert newest(home, "--archive", str(url)) == (0, f"{path}\n", "")


def test_show_has_the_newest_and_names_the_command_that_lists_them_all(
    home: Home, tmp_path: Path
) -> None:
    run = RecordedRun()
    run.start()
    for step in range(1, 26):
        run.save(tmp_path / f"checkpoint-{step}", step)
    run.save(tmp_path / "checkpoint-26", 26, left=[26])
    run.record(home)
    shown = home.lineside("show", RUN).stdout.partition("Checkpoints\n")[2].splitlines()
    assert shown[0].split(None, 1) == ["older", f"6: `lineside checkpoints {RUN}` lists them"]
    assert [line.split()[1] for line in shown[1:]] == [str(step) for step in range(7, 27)]
    assert shown[-2].endswith("checkpoint-25  (gone locally)")
    assert shown[-1].endswith("checkpoint-26")


def test_a_manifest_that_is_gone_is_found_by_verify(home: Home, tmp_path: Path) -> None:
    run, url, path = RecordedRun(), tmp_path / "archive", trainer_checkpoint(tmp_path, 100)
    run.start()
    run.save(path, 100)
    run.state(path, 100, "verified")
    run.record(home)
    url.mkdir()
    shown = home.lineside("checkpoints", RUN, "--archive", str(url)).stdout
    assert shown.splitlines()[1].split()[-3:] == ["missing", "last", "local"]
    assert f"{path}  (verified)\n" in home.lineside("show", RUN).stdout
    done = home.lineside("verify", RUN, "--archive", str(url))
    assert done.returncode == 1
    assert "its manifest is missing; the store has the checkpoint as archived" in done.stdout


@pytest.mark.parametrize(
    ("done", "text"),
    [
        (0, "step 100 [....................] 0 %, 0 B of 4 GB"),
        (10**9, "step 100 [#####...............] 25 %, 1 GB of 4 GB, 50 MB/s, 1m 00s left"),
        (4 * 10**9, "step 100 [####################] 100 %, 4 GB of 4 GB, 200 MB/s, 0s left"),
    ],
)
def test_the_progress_has_the_rate_and_the_time_that_is_left(done: int, text: str) -> None:
    assert progress_text("step 100", done, 4 * 10**9, 20.0) == text
