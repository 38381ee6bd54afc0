"""What the process of a callback does with the events of an attempt, in the test's process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lineside.bus.protocol.events import Event, Stream
from lineside.subscribers.callback_host import hosted_callback, worker
from lineside.subscribers.callback_host.hook_watch import HANG_SECONDS, HookWatch
from lineside.subscribers.callback_host.worker_spec import DONE, SUSPENDED, UNUSABLE
from lineside.subscribers.state.state_file import StateFileError
from lineside.subscribers.testing import synthetic_run
from tests.subscribers.callback_host.host_process import ATTEMPT, read_lines, steps_of
from tests.subscribers.callback_host.hosting import (
    RUN,
    Hosting,
    NotingTracker,
    at_now,
    in_process,
)

LATER_ATTEMPT = "20261121T000001.000-0000"
RANK_0 = Stream(RUN, "rank0", ATTEMPT)


@pytest.fixture(autouse=True)
def tracker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[NotingTracker]]:
    """Each callback has a tracker that takes notes; folder and variables are put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hosted_callback, "tracker_of", lambda _: NotingTracker)
    monkeypatch.setattr(NotingTracker, "notes", [])
    monkeypatch.setattr(NotingTracker, "failures", 0)
    monkeypatch.setattr(CallbackWorkerPause, "pauses", [])
    monkeypatch.setattr(worker.CallbackWorker, "_pause", CallbackWorkerPause.note)
    monkeypatch.setattr(worker, "_SENDER_SECONDS", 0.0)  # there is no broker
    variables = dict(os.environ)
    yield NotingTracker
    os.environ.clear()
    os.environ.update(variables)


class CallbackWorkerPause:
    """In place of waiting before another try."""

    pauses: list[float] = []  # noqa: RUF012 - of the test that runs

    @staticmethod
    def note(_: worker.CallbackWorker, seconds: float) -> None:
        CallbackWorkerPause.pauses.append(seconds)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "calls"


def appender(file: Path, name: str = "Appender") -> dict[str, Any]:
    return in_process(name, args={"file": str(file)})


def test_a_run_is_closed_when_its_process_ends_and_not_when_training_does(
    tmp_path: Path, file: Path, tracker: type[NotingTracker]
) -> None:
    *events, run_end = at_now(synthetic_run(3))
    evaluated = Event(run_end[1].seq, 0.0, 0, "evaluate", 3, data={"metrics": {"eval_loss": 1}})
    end = Event(run_end[1].seq + 1, 0.0, 0, "run_end", 3, data={"how": "exit"})
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver(events)
        assert not hosting.worker.should_exit
        hosting.deliver([(RANK_0, evaluated), (RANK_0, end)])
        assert hosting.worker.exit_code == DONE
    assert [line.hook for line in read_lines(file)][-2:] == ["end", "evaluate"]
    assert tracker.notes[-1] == ("close", "finished", None)


def test_a_later_process_begins_at_the_state_as_it_is_and_goes_on_behind_the_last_event(
    tmp_path: Path, file: Path, tracker: type[NotingTracker]
) -> None:
    events = at_now(synthetic_run(6))
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver(events[:12])  # up to the log of step 3
    first = read_lines(file)
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver(events)
    assert steps_of(first) == [1, 2, 3]
    later = read_lines(file)[len(first) :]
    assert (later[0].hook, later[0].step, later[0].rest) == ("begin", 3, "3")
    assert steps_of(later) == [4, 5, 6]
    assert ("suspend",) in tracker.notes
    assert [note for note in tracker.notes if note[0] == "close"] == [("close", "finished", None)]


def test_a_later_process_goes_on_though_the_journal_lost_the_beginning(
    tmp_path: Path, file: Path
) -> None:
    events = at_now(synthetic_run(6, facts={"taken_over": ["x"]}))
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver(events[:12])
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver(events[12:])
        assert hosting.worker.hosted._tracker is not None
        assert hosting.worker.hosted._tracker.run.facts["taken_over"] == ["x"]
    assert steps_of(read_lines(file)) == [1, 2, 3, 4, 5, 6]


def test_a_closed_attempt_is_not_closed_again(
    tmp_path: Path, file: Path, tracker: type[NotingTracker]
) -> None:
    events = at_now(synthetic_run(2))
    for _ in range(2):
        with Hosting(tmp_path, appender(file)) as hosting:
            hosting.deliver(events)
            assert hosting.worker.exit_code == DONE
    assert [note[0] for note in tracker.notes].count("close") == 1
    assert steps_of(read_lines(file)) == [1, 2]


def test_events_that_come_after_the_close_open_the_run_again(
    tmp_path: Path, file: Path, tracker: type[NotingTracker]
) -> None:
    *events, _ = at_now(synthetic_run(3))
    lost = {"producer": "rank0", "attempt": ATTEMPT, "emitted": 9}
    shipper = Stream(RUN, "shipper", "20260101T000000.000-0000")
    events.insert(9, (shipper, Event(0, events[8][1].time, 0, "process_lost", data=lost)))
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver(events[:10])
        assert hosting.worker.exit_code == DONE
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver(events)
        assert hosting.worker.exit_code == SUSPENDED
    assert [note[1] for note in tracker.notes if note[0] == "close"] == ["lost"]
    assert steps_of(read_lines(file)) == [1, 2, 3]


def test_exported_state_outlives_the_process_and_not_the_attempt(
    tmp_path: Path, file: Path
) -> None:
    events = at_now(synthetic_run(4))
    with Hosting(tmp_path, appender(file, "Counter")) as hosting:
        hosting.deliver(events[:9])
    with Hosting(tmp_path, appender(file, "Counter")) as hosting:
        hosting.deliver(events)
    with Hosting(tmp_path, appender(file, "Counter"), LATER_ATTEMPT) as hosting:
        hosting.deliver(at_now(synthetic_run(1), LATER_ATTEMPT))
    counts = [int(line.rest) for line in read_lines(file) if line.hook == "log"]
    assert counts == [1, 2, 3, 4, 1]


def test_state_that_cannot_be_kept_is_reported_once_and_the_hooks_go_on(
    tmp_path: Path, file: Path
) -> None:
    with Hosting(tmp_path, appender(file, "Unkept")) as hosting:
        hosting.deliver(at_now(synthetic_run(3)))
        [error] = hosting.errors
    assert "state() is not kept over a restart" in error["error"]["message"]
    assert steps_of(read_lines(file)) == [1, 2, 3]


def test_a_silent_run_gives_its_process_up_and_is_closed_only_if_training_had_ended(
    tmp_path: Path, file: Path, tracker: type[NotingTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SILENT_SECONDS", 0.0)
    *events, _ = at_now(synthetic_run(3))
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver(events[:6])
        assert hosting.worker.should_exit
        assert hosting.worker.exit_code == SUSPENDED
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver(events)
        assert hosting.worker.exit_code == DONE
    assert [n[1] for n in tracker.notes if n[0] == "close"] == ["finished"]
    assert steps_of(read_lines(file)) == [1, 2, 3]


def test_a_tracker_keeps_its_identity_over_processes_and_attempts(
    tmp_path: Path, file: Path, tracker: type[NotingTracker]
) -> None:
    events = at_now(synthetic_run(2))
    identity = {"key": f"made in {ATTEMPT}"}
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver(events[:6])
        assert os.environ["NOTING_RUN"] == RUN
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver(events)
    with Hosting(tmp_path, appender(file), LATER_ATTEMPT) as hosting:
        hosting.deliver(at_now(synthetic_run(2), LATER_ATTEMPT))
    made = [note[1:] for note in tracker.notes if note[0] == "created"]
    assert made == [(False, {}), (True, identity), (True, identity)]


def test_a_newer_attempt_ends_an_older_one_and_is_left_to_another_process(
    tmp_path: Path, file: Path, tracker: type[NotingTracker]
) -> None:
    events = at_now(synthetic_run(2))[:6]
    later = at_now(synthetic_run(2), LATER_ATTEMPT)
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver([*events, *later])
        assert hosting.worker.exit_code == DONE
    assert tracker.notes[-1] == ("close", "lost", None)
    assert steps_of(read_lines(file)) == [1]
    with Hosting(tmp_path, appender(file), LATER_ATTEMPT) as hosting:
        hosting.deliver([*events, *later])
    assert steps_of(read_lines(file)) == [1, 1, 2]


def test_an_event_is_tried_again_until_the_tracker_has_it(
    tmp_path: Path, file: Path, tracker: type[NotingTracker]
) -> None:
    events = at_now(synthetic_run(2))
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver(events[:5])
        tracker.failures = 7
        hosting.deliver(events[5:])
        assert [(e["action"], e["method"], e["error"]) for e in hosting.errors] == [
            (
                "retrying",
                "on_log",
                {"type": "RetryLater", "message": "TrackerAway: connection refused"},
            ),
            ("recovered", "on_log", None),
        ]
    assert steps_of(read_lines(file)) == [1] * 8 + [2]
    assert [note for note in tracker.notes if note[0] == "on_log"] == [("on_log", 1), ("on_log", 2)]
    assert len(CallbackWorkerPause.pauses) == 7


def test_a_hook_that_the_tracker_has_already_is_not_called(
    tmp_path: Path, file: Path, tracker: type[NotingTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "skipped_hooks", frozenset({"on_log"}))
    with Hosting(tmp_path, appender(file)) as hosting:
        hosting.deliver(at_now(synthetic_run(2)))
    assert [line.hook for line in read_lines(file)] == ["begin", "end"]
    assert ("on_log", 2) in tracker.notes  # the tracker still proves that it has it


def test_a_callback_that_always_raises_is_reported_at_its_first_and_tenth_time(
    tmp_path: Path,
) -> None:
    with Hosting(tmp_path, in_process("Raiser")) as hosting:
        hosting.deliver(at_now(synthetic_run(25)))
        assert [(e["action"], e["method"], e["errors"], e["error"]) for e in hosting.errors] == [
            ("skipped", "on_log", n, {"type": "ValueError", "message": f"no value at step {n}"})
            for n in (1, 10)
        ]
        assert hosting.worker.exit_code == DONE


def test_a_hook_that_exits_is_skipped_as_one_that_raises(tmp_path: Path, file: Path) -> None:
    with Hosting(tmp_path, appender(file, "Exiter")) as hosting:
        hosting.deliver(at_now(synthetic_run(2)))
        [error] = hosting.errors
        assert hosting.worker.exit_code == DONE
    assert (error["action"], error["error"]["message"]) == ("skipped", "SystemExit: 0")
    assert steps_of(read_lines(file)) == [1, 2]


def test_a_process_that_a_callback_forked_does_not_hold_up_the_next_worker(
    tmp_path: Path, file: Path
) -> None:
    events = at_now(synthetic_run(2))
    with Hosting(tmp_path, appender(file, "Forker")) as hosting:
        hosting.deliver(events[:6])
    [child] = [line.step for line in read_lines(file) if line.hook == "fork"]
    try:
        with Hosting(tmp_path, appender(file, "Forker")) as hosting:
            hosting.deliver(events)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert steps_of(read_lines(file)) == [1, 2]


def test_an_error_is_published_without_the_secrets_in_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPANY", "s3cr3t-value")
    with Hosting(tmp_path, in_process("Leaker", args={"api_key": "${COMPANY}"})) as hosting:
        hosting.deliver(at_now(synthetic_run(1)))
        [error] = hosting.errors
    assert error["error"]["message"] == "401 of https://<user>@host/?key=<COMPANY>"


def test_flags_that_a_hook_sets_become_commands(tmp_path: Path) -> None:
    flags = ["should_evaluate", "should_save", "should_log"]
    with Hosting(tmp_path, in_process("Switch", args={"flags": flags})) as hosting:
        hosting.deliver(at_now(synthetic_run(1)))
        sent = hosting.commands
    assert [command.op for command in sent] == ["save", "evaluate", "log"]
    assert {command.attempt for command in sent} == {ATTEMPT}
    assert "Switch, on_log" in sent[0].reason


def test_a_stop_is_sent_once_however_often_the_flag_is_set(tmp_path: Path) -> None:
    flags = ["should_training_stop", "should_save"]
    events = at_now(synthetic_run(5))
    with Hosting(tmp_path, in_process("Switch", args={"flags": flags})) as hosting:
        hosting.deliver(events[:10])
    with Hosting(tmp_path, in_process("Switch", args={"flags": flags})) as hosting:
        hosting.deliver(events)
        assert [(one.op, one.args) for one in hosting.commands] == [("stop", {"save": True})]


def test_an_old_event_sends_no_command(tmp_path: Path) -> None:
    events = [
        (Stream(RUN, "rank0", ATTEMPT), event) for _, event in synthetic_run(2)
    ]  # of January 2026
    with Hosting(tmp_path, in_process("Switch", args={"flags": ["should_save"]})) as hosting:
        hosting.deliver(events)
        assert hosting.commands == []


@pytest.mark.parametrize(
    "keys", [{"flags": ["should_epoch_stop"]}, {"flags": ["should_log"], "value": False}]
)
def test_a_flag_that_no_command_can_change_is_reported_once(
    tmp_path: Path, keys: dict[str, Any]
) -> None:
    events = [
        (stream, Event(e.seq, e.time, 0, e.kind, e.step, e.epoch, 16, e.data))
        for stream, e in at_now(synthetic_run(3))
    ]
    with Hosting(tmp_path, in_process("Switch", args=keys)) as hosting:
        hosting.deliver(events)
        assert hosting.commands == []
        [error] = hosting.errors
    assert f"it changed {keys['flags'][0]}" in error["error"]["message"]
    assert "where: training" in error["error"]["message"]


def test_nothing_is_called_while_its_place_cannot_be_kept(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hosting(tmp_path, appender(file)) as hosting:
        tries, save = count(), hosting.worker._state_file.save

        def full_disk_twice(*arguments: Any) -> None:
            if 3 <= next(tries) < 5:
                raise StateFileError("the disk is full")
            save(*arguments)

        monkeypatch.setattr(hosting.worker._state_file, "save", full_disk_twice)
        hosting.deliver(at_now(synthetic_run(5)))
        assert hosting.worker.exit_code == DONE
    assert steps_of(read_lines(file)) == [1, 2, 3, 4, 5]
    assert len(CallbackWorkerPause.pauses) == 2


def test_a_callback_that_cannot_be_made_ends_the_process_and_is_reported_once(
    tmp_path: Path, file: Path
) -> None:
    entry = in_process("Appender", args={"files": "x"})
    for _ in range(2):
        with Hosting(tmp_path, entry) as hosting:
            hosting.deliver(at_now(synthetic_run(2)))
            assert hosting.worker.exit_code == UNUSABLE
            [error] = hosting.errors
            assert error["action"] == "retrying"
            assert "files" in error["error"]["message"]
    with Hosting(tmp_path, in_process("Appender", args={"file": str(file)})) as hosting:
        hosting.deliver(at_now(synthetic_run(2)))
        assert [error["action"] for error in hosting.errors] == ["retrying", "recovered"]
    assert steps_of(read_lines(file)) == [1, 2]


def test_a_hook_that_hangs_is_reported_at_a_minute_and_at_ten(tmp_path: Path, file: Path) -> None:
    with Hosting(tmp_path, appender(file)) as hosting:
        hosted, reports = hosting.worker.hosted, []
        watch = HookWatch(hosted, lambda *report: reports.append(report[:2]))
        hosted.hook, hosted.hook_since = "on_log", 100.0
        for seconds in (HANG_SECONDS - 1, HANG_SECONDS, 2 * HANG_SECONDS, 10 * HANG_SECONDS):
            watch.check(100.0 + seconds)
        hosted.hook = ""
        watch.check(1000.0)
    assert reports == [("hanging", "on_log"), ("hanging", "on_log"), ("recovered", "on_log")]
