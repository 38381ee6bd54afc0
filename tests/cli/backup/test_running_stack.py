"""Backups of a stack under load, and restores while a training goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.broker.storage.journal import Write
from lineside.bus.broker.storage.sqlite_journal import SqliteJournal
from lineside.bus.protocol.events import Stream
from tests.cli.backup.homes import make_home, opened, settings_of
from tests.cli.homes import Home
from tests.support.waiting import wait_until

RUN, FORGETFUL = "long-run", "forgetful-run"
LARGE = Stream("large", "rank0", "a")
KINDS = ("step_begin", "step_end", "log")
TRAINING = """
import sys, time
from pathlib import Path
from lineside.emitter import start_run

run_id, notes, end = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
text = "x" * int(sys.argv[4])
pause = max(0.05, len(text) / 1e5)

def note(text):
    draft = notes.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(notes)

with start_run("long", run_id=run_id) as run:
    step = 0
    while not end.exists():
        step += 1
        run.event("step_begin", step=step)
        run.event("step_end", step=step)
        run.log(dict(loss=1 / step, text=text), step=step)
        if step % 50 == 0:
            note(f"{step}")
            time.sleep(pause)
note(f"{step}")
"""


@pytest.fixture
def other_home(tmp_path: Path) -> Iterator[Home]:
    it = Home(tmp_path / "other")
    yield it
    it.close()


class Training:
    """A training in the background that notes its steps after they were published."""

    def __init__(self, home: Home, folder: Path, run: str, size: int) -> None:
        self._notes, self._end = folder / f"{run}.notes", folder / f"{run}.end"
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINING, run, str(self._notes), str(self._end), str(size)],
            env=home.environment(),
            stdin=subprocess.DEVNULL,
        )

    def steps(self) -> int:
        return int(self._notes.read_text()) if self._notes.exists() else 0

    def end(self) -> int:
        """End it; its steps."""
        self._end.touch()
        assert self.process.wait(100) == 0
        return self.steps()


@contextmanager
def training(home: Home, folder: Path, run: str = RUN, size: int = 500) -> Iterator[Training]:
    """``size`` is the bytes of a text in each log."""
    started = Training(home, folder, run, size)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def run_facts(home: Home, run: str = RUN) -> dict[str, Any]:
    shown = home.lineside("show", run, "--json").stdout
    return dict(json.loads(shown)) if shown else {}


def account_of(home: Home, run: str = RUN) -> dict[str, Any]:
    return dict(run_facts(home, run).get("loss_account", {}))


def segments(home: Home) -> list[Path]:
    """The spool's segments of the run that loses them, the newest last."""
    return sorted((home.path / "spool" / FORGETFUL).glob("rank0/*/*.seg"))


def recorded_exactly(home: Home, steps: int) -> bool:
    counts = run_facts(home).get("event_counts", {})
    return all(counts.get(kind) == steps for kind in KINDS)


def events_in_journal(home: Path) -> dict[str, int]:
    """The number of the run's events, by producer."""
    with closing(SqliteJournal(home / "journal.db")) as journal:
        return {s.producer: journal.next_seq(s) for s in journal.streams() if s.run == RUN}


def test_a_backup_under_load_is_restored_with_every_event_and_training_goes_on(
    home: Home, other_home: Home, tmp_path: Path
) -> None:
    archive = tmp_path / "backup.tar.gz"
    up, _ = home.up("--quiet")
    with training(home, tmp_path) as job, training(home, tmp_path, FORGETFUL, 50_000) as other:
        wait_until(lambda: job.steps() > 500 and other.steps())
        before = job.steps()
        made = json.loads(home.lineside("backup", str(archive), "--json").stdout)
        assert archive.stat().st_mode & 0o777 == 0o600
        assert made["journal"]["head"] > 0
        later, last = job.steps() + 500, segments(home)[-1]
        wait_until(lambda: run_facts(home).get("step", 0) > later)
        wait_until(lambda: sum(found > last for found in segments(home)) > 1)

        refused = home.lineside("restore", str(archive), "--force")
        assert (refused.returncode, "stop it first" in refused.stderr) == (1, True)
        up.send(signal.SIGTERM)
        assert up.wait() == 0

        other_home.lineside("restore", str(archive)).check_returncode()
        restored = events_in_journal(other_home.path)
        assert restored["rank0"] >= len(KINDS) * before  # what was published before the backup
        other_home.up("--quiet")
        expected = sum(restored.values())
        wait_until(lambda: account_of(other_home).get("recorded") == expected)
        assert account_of(other_home)["gaps"] == 0

        done = home.lineside("restore", str(archive), "--force")
        assert (done.returncode, "before-restore-" in done.stdout) == (0, True), done.stderr
        assert events_in_journal(home.path) == restored
        # What was confirmed five minutes ago is no longer in the spool.
        for segment in segments(home)[:-1]:
            segment.unlink()
        home.up("--quiet")
        steps, other_steps = job.end(), other.end()
    wait_until(lambda: recorded_exactly(home, steps))
    wait_until(lambda: {run_facts(home, r)["status"] for r in (RUN, FORGETFUL)} == {"finished"})
    account = account_of(home)
    assert (account["gaps"], account["recorded"]) == (0, account["emitted"])
    account = account_of(home, FORGETFUL)
    assert account["gaps"] > 0
    assert account["recorded"] + account["gaps"] == account["emitted"] > 3 * other_steps


def test_a_backup_killed_half_way_leaves_no_file_that_restores(
    home: Home, other_home: Home, tmp_path: Path
) -> None:
    settings = settings_of(home.path)
    make_home(settings)
    with opened(settings) as journal:
        for _ in range(20):
            journal.append([Write(LARGE, journal.next_seq(LARGE), 1, os.urandom(1 << 20))], {})
    archive, partial = tmp_path / "backup.tar", tmp_path / ".backup.tar.partial"
    process = home.start("backup", str(archive))
    wait_until(lambda: partial.exists() and (partial / "copy").exists())
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not archive.exists()
    half = other_home.lineside("restore", str(partial / "archive"))
    assert (half.returncode, "damaged" in half.stderr) == (1, True), half.stderr
    assert home.lineside("backup", str(archive)).returncode == 0
    assert not partial.exists()
    checked = other_home.lineside("restore", str(archive), "--check")
    assert (checked.returncode, "is whole" in checked.stdout) == (0, True)


def test_the_commands_report_what_they_did_and_why_they_did_not(
    home: Home, other_home: Home, tmp_path: Path
) -> None:
    archive = tmp_path / "backup.tar"
    refused = home.lineside("backup", str(archive))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("lineside: there is nothing to back up in ")
    make_home(settings_of(home.path))
    config = tmp_path / "lineside.yaml"
    config.write_text("broker: {}\n")
    done = home.lineside("backup", str(archive), env={"LINESIDE_CONFIG": str(config)})
    assert f"{archive}: " in done.stdout
    assert "journal  up to offset 2" in done.stdout
    assert "exists: choose another name" in home.lineside("backup", str(archive)).stderr
    checked = json.loads(other_home.lineside("restore", str(archive), "--check", "--json").stdout)
    assert checked["members"]["home/journal.db"]["bytes"] > 0
    assert not other_home.path.exists()
    restored = other_home.lineside("restore", str(archive)).stdout
    assert f"LINESIDE_CONFIG={other_home.path}/lineside.yaml lineside up" in restored
    again = json.loads(other_home.lineside("restore", str(archive), "--force", "--json").stdout)
    assert again["kept"].startswith(str(other_home.path / "before-restore-"))
    missing = home.lineside("restore", str(tmp_path / "none"))
    assert (missing.returncode, "there is no file" in missing.stderr) == (2, True)
