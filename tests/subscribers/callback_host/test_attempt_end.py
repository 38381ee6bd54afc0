"""When an attempt is over, and with which status its tracker's run is closed."""

from __future__ import annotations

from typing import Any

import pytest

from lineside.bus.protocol.events import Event, Stream
from lineside.subscribers.callback_host.attempt_end import AttemptEnd

ATTEMPT, LATER = "20261121T000000.000-0000", "20261121T000001.000-0000"
RANK_0 = Stream("run", "rank0", ATTEMPT)
RANK_1 = Stream("run", "rank1", ATTEMPT)
CONTROL = Stream("run", "control", ATTEMPT)
SHIPPER = Stream("run", "shipper", "20260101T000000.000-0000")
LAUNCHER = Stream("run", "launcher", "20260101T000000.000-0000")

Given = tuple[Stream, str, dict[str, Any]]
BEGIN: list[Given] = [(RANK_0, "run_start", {}), (RANK_0, "train_begin", {})]
EXIT: Given = (RANK_0, "run_end", {"how": "exit"})
ERROR = {"error": {"type": "ValueError", "message": "no data"}}
APPLIED: Given = (CONTROL, "control_applied", {"op": "stop", "issued_by": "ada@host"})


def report(stream: Stream, kind: str, **data: Any) -> Given:
    """A report of another process on rank 0 of the attempt."""
    return stream, kind, {"attempt": ATTEMPT, **data}


LOST = report(SHIPPER, "process_lost", producer="rank0", emitted=2)


def end_of(*given: Given) -> AttemptEnd:
    end, seqs = AttemptEnd(ATTEMPT), dict.fromkeys((RANK_0, RANK_1), 0)
    for time, (stream, kind, data) in enumerate(given):
        seq = seqs.get(stream, 0)
        seqs[stream] = seq + 1
        end.observe(stream, Event(seq, float(time), 0, kind, 1, data=data))
    return end


@pytest.mark.parametrize(
    ("rest", "status", "error"),
    [
        ([(RANK_0, "train_end", {}), EXIT], "finished", None),
        ([EXIT], "failed", None),  # in the midst of training
        ([(RANK_0, "train_error", ERROR), EXIT], "failed", "ValueError"),
        ([(RANK_0, "run_end", {"how": "exception", **ERROR})], "failed", "ValueError"),
        ([(RANK_1, "train_error", ERROR), LOST], "failed", "ValueError"),
        ([APPLIED, (RANK_0, "train_end", {}), EXIT], "stopped", None),
        ([(RANK_0, "train_error", {"error": {"type": "KeyboardInterrupt"}}), EXIT], "stopped", "K"),
        ([(RANK_0, "run_end", {"how": "restarted"})], "finished", None),
        ([LOST], "lost", None),
        ([report(LAUNCHER, "process_exit", signal="SIGKILL")], "failed", None),
        ([(Stream("run", "rank0", LATER), "run_start", {})], "lost", None),
    ],
)
def test_an_attempt_is_over_with_the_status_that_its_processes_report(
    rest: list[Given], status: str, error: str | None
) -> None:
    found = end_of(*BEGIN, *rest).find()
    assert found is not None
    assert found.status == status
    assert str((found.error or {}).get("type") or "None").startswith(error or "None")


@pytest.mark.parametrize(
    "rest",
    [
        [],
        [(RANK_0, "train_end", {})],  # an evaluation may follow
        [(RANK_0, "train_error", ERROR)],  # the script may catch it and go on
        [(RANK_1, "run_end", {"how": "exit"})],
        [report(SHIPPER, "process_lost", producer="rank1", emitted=9)],
        [report(SHIPPER, "process_lost", producer="rank0", emitted=9)],  # events are on their way
        [report(LAUNCHER, "process_exit", exit_code=0, outlived=True)],
        [(SHIPPER, "process_lost", {"producer": "rank0", "attempt": LATER})],
        [LOST, (RANK_0, "step_end", {})],  # it lives
    ],
)
def test_an_attempt_is_not_over_while_its_process_may_go_on(rest: list[Given]) -> None:
    assert end_of(*BEGIN, *rest).find() is None


def test_a_lost_process_whose_last_events_are_missing_is_over_once_the_gap_is_reported() -> None:
    end = end_of(*BEGIN, report(SHIPPER, "process_lost", producer="rank0", emitted=9))
    end.skip_to(RANK_0, 9)
    found = end.find()
    assert found is not None
    assert found.status == "lost"


def test_a_silent_attempt_is_over_only_if_its_training_is() -> None:
    assert end_of(*BEGIN).find_silent() is None
    found = end_of(*BEGIN, (RANK_0, "train_end", {})).find_silent()
    assert found is not None
    assert found.status == "finished"
