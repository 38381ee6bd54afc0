"""Verdicts on ranks, attempts and runs from the reports of their processes."""

from __future__ import annotations

import pytest

from lineside.store.status.verdict import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    KILLED,
    LOST,
    RAISED,
    RUNNING,
    STOPPED,
    SUPERSEDED,
    ProcessExit,
    RankState,
    Verdict,
    judge_attempt,
    judge_rank,
    judge_run,
)

TRAINING = RankState(began=True)
DONE = RankState(began=True, ended=True, ended_at=5.0)


@pytest.mark.parametrize(
    ("rank", "status", "reason"),
    [
        (RankState(), RUNNING, None),
        (TRAINING, RUNNING, None),
        (DONE, FINISHED, None),
        (RankState(began=True, ended=True, how="exit"), FINISHED, None),
        # An evaluation without a training.
        (RankState(how="exit"), FINISHED, None),
        # The user caught the exception, or sys.exit: no train_end, and an end without an error.
        (RankState(began=True, how="exit"), FAILED, "the process exited before training ended"),
        (RankState(began=True, how="exception", error="ValueError: x"), FAILED, "ValueError: x"),
        (RankState(began=True, how="exception"), FAILED, "an exception"),
        # train() raised; the script may have caught it, and the process may still run.
        (RankState(began=True, how=RAISED, error="ValueError: x"), FAILED, "ValueError: x"),
        (RankState(began=True, how=RAISED, error="E: x", lost=True), FAILED, "E: x"),
        (
            RankState(began=True, how=RAISED, error="KeyboardInterrupt"),
            INTERRUPTED,
            "SIGINT (KeyboardInterrupt)",
        ),
        (
            RankState(began=True, how="exception", error="KeyboardInterrupt: x"),
            INTERRUPTED,
            "SIGINT (KeyboardInterrupt)",
        ),
        (
            RankState(began=True, ended=True, how=RAISED, error="TrialPruned"),
            STOPPED,
            "pruned by the hyperparameter search",
        ),
        # The script failed after training had ended.
        (RankState(began=True, ended=True, how="exception", error="E: x"), FAILED, "E: x"),
        (RankState(began=True, how="restarted"), SUPERSEDED, None),
        (RankState(began=True, ended=True, how="restarted"), FINISHED, None),
        (RankState(began=True, lost=True), LOST, "the process vanished"),
        (RankState(began=True, lost=True, step=130), LOST, "the process vanished at step 130"),
        # The shipper's report comes in another stream; the rank's own, though later, counts.
        (RankState(began=True, ended=True, lost=True), FINISHED, None),
        (RankState(began=True, how="exception", error="E: x", lost=True), FAILED, "E: x"),
    ],
)
def test_the_verdict_on_a_rank_follows_its_events(
    rank: RankState, status: str, reason: str | None
) -> None:
    verdict = judge_rank(rank)
    assert (verdict.status, verdict.reason) == (status, reason)


def test_an_attempt_without_events_of_rank_0_is_running() -> None:
    assert judge_attempt({}).status == RUNNING


@pytest.mark.parametrize(
    ("rank", "exit_", "status", "reason"),
    [
        (DONE, ProcessExit(0, None, 9.0), FINISHED, None),
        (TRAINING, ProcessExit(None, "SIGKILL", 9.0), KILLED, "SIGKILL"),
        (TRAINING, ProcessExit(137, None, 9.0), KILLED, "SIGKILL"),
        (TRAINING, ProcessExit(None, "SIGKILL", 9.0, True), KILLED, "SIGKILL (out of memory)"),
        (TRAINING, ProcessExit(None, "SIGTERM", 9.0, True), KILLED, "SIGTERM"),
        (TRAINING, ProcessExit(None, "SIGINT", 9.0), INTERRUPTED, "SIGINT"),
        (
            RankState(began=True, lost=True),
            ProcessExit(1, None, 9.0, True),
            FAILED,
            "the process vanished (out of memory); exit code 1",
        ),
        # The exit code after a Ctrl-C.
        (
            RankState(began=True, how=RAISED, error="KeyboardInterrupt"),
            ProcessExit(130, None, 9.0),
            INTERRUPTED,
            "SIGINT (KeyboardInterrupt)",
        ),
        (TRAINING, ProcessExit(200, None, 9.0), FAILED, "exit code 200"),
        (TRAINING, ProcessExit(1, None, 9.0), FAILED, "exit code 1"),
        (TRAINING, ProcessExit(0, None, 9.0), FAILED, "the process exited before training ended"),
        (
            TRAINING,
            ProcessExit(None, None, 9.0),
            FAILED,
            "the process exited before training ended",
        ),
        (RankState(), ProcessExit(0, None, 9.0), FINISHED, None),
        (DONE, ProcessExit(1, None, 9.0), FAILED, "exit code 1 after training had ended"),
        (DONE, ProcessExit(None, "SIGSEGV", 9.0), KILLED, "SIGSEGV after training had ended"),
        # A clock was set back or is another machine's, or the training outlived the command.
        (DONE, ProcessExit(3, None, 0.1), FAILED, "exit code 3 after training had ended"),
        (DONE, ProcessExit(3, None, -0.1), FINISHED, None),
        (RankState(began=True, lost=True), ProcessExit(None, "SIGKILL", 9.0), KILLED, "SIGKILL"),
        (
            RankState(began=True, lost=True),
            ProcessExit(1, None, 9.0),
            FAILED,
            "the process vanished; exit code 1",
        ),
        (RankState(began=True, lost=True), ProcessExit(0, None, 9.0), LOST, "the process vanished"),
        # It vanished with its command, which was noticed later, or outlived the command.
        (
            RankState(began=True, lost=True, ended_at=14.0),
            ProcessExit(143, None, 9.0),
            KILLED,
            "SIGTERM",
        ),
        (
            RankState(began=True, lost=True, ended_at=69.0),
            ProcessExit(143, None, 9.0),
            LOST,
            "the process vanished",
        ),
        (
            RankState(began=True, lost=True, ended_at=69.0),
            ProcessExit(None, "SIGTERM", 9.0, True),
            LOST,
            "the process vanished (out of memory)",
        ),
        # Its last events are not recorded yet, but the signal that ended it is.
        (RankState(began=True, has_pending_events=True), ProcessExit(0, None, 9.0), RUNNING, None),
        (RankState(has_pending_events=True), ProcessExit(0, None, 9.0), RUNNING, None),
        (
            RankState(began=True, lost=True, has_pending_events=True),
            ProcessExit(0, None, 9.0),
            RUNNING,
            None,
        ),
        (
            RankState(began=True, lost=True, has_pending_events=True),
            ProcessExit(1, None, 9.0),
            FAILED,
            "exit code 1",
        ),
        (
            RankState(began=True, has_pending_events=True),
            ProcessExit(None, "SIGKILL", 9.0),
            KILLED,
            "SIGKILL",
        ),
        # The exception is the cause, the exit code a consequence.
        (
            RankState(began=True, how="exception", error="OOM: x"),
            ProcessExit(1, None, 9.0),
            FAILED,
            "OOM: x",
        ),
    ],
)
def test_the_exit_of_the_command_refines_the_status(
    rank: RankState, exit_: ProcessExit, status: str, reason: str | None
) -> None:
    verdict = judge_attempt({"rank0": rank}, exit_)
    assert (verdict.status, verdict.reason) == (status, reason)


def test_an_attempt_that_was_started_again_stays_superseded_whatever_the_command_did() -> None:
    given_up = RankState(began=True, how="restarted", ended_at=1.0)
    assert judge_attempt({"rank0": given_up}, ProcessExit(1, None, 9.0)).status == SUPERSEDED


def test_the_first_rank_to_fail_is_the_cause() -> None:
    ranks = {
        "rank0": RankState(began=True, how="exception", error="connection closed", ended_at=9.0),
        "rank1": RankState(how="exception", error="ValueError: true cause", ended_at=8.0),
        "rank2": RankState(lost=True, ended_at=8.5),
    }
    verdict = judge_attempt(ranks)
    assert verdict == Verdict(FAILED, "rank1: ValueError: true cause", 9.0, "rank1")


def test_a_rank_that_raised_beside_a_running_rank_0_is_the_end() -> None:
    """The other ranks wait for it until they notice, or for ever."""
    raised = RankState(began=True, how=RAISED, error="E: x", ended_at=8.0)
    verdict = judge_attempt({"rank0": TRAINING, "rank1": raised})
    assert verdict == Verdict(FAILED, "rank1: E: x", 8.0, "rank1")


def test_a_lost_rank_beside_a_running_rank_0_is_only_a_reason() -> None:
    ranks = {"rank0": TRAINING, "rank1": RankState(lost=True, step=4, ended_at=8.0)}
    verdict = judge_attempt(ranks)
    assert (verdict.status, verdict.ended_at) == (RUNNING, None)
    assert verdict.reason == "rank1: the process vanished at step 4"


def test_a_failing_rank_beside_a_finished_rank_0_is_not_shown_as_finished() -> None:
    ranks = {"rank0": DONE, "rank1": RankState(how="exception", error="E: x", ended_at=8.0)}
    for stopped_by in (None, "by me"):
        verdict = judge_attempt(ranks, None, stopped_by)
        assert verdict == Verdict(FAILED, "rank1: E: x", 8.0, "rank1")


def test_a_rank_0_that_vanished_because_another_rank_failed_makes_the_run_failed() -> None:
    """torchrun ends the other ranks with SIGTERM, which they cannot report."""
    ranks = {
        "rank0": RankState(began=True, lost=True, ended_at=9.0),
        "rank1": RankState(how="exception", error="E: x", ended_at=8.0),
    }
    assert judge_attempt(ranks) == Verdict(FAILED, "rank1: E: x", 9.0, "rank1")


@pytest.mark.parametrize(
    ("error", "noticed", "is_why"),
    [
        ("RuntimeError: [pair.cc:534] Connection closed by peer", 5.0, True),
        ("DistBackendError: NCCL error: remote process exited", 0.05, True),
        ("BrokenPipeError: [Errno 32] Broken pipe", -1.0, True),
        ("DistNetworkError: Failed to recv, got 0 bytes. Connection was likely closed.", 0.1, True),
        ("DistBackendError: timed out", -60.0, True),
        # It vanished for another reason, or because a launcher ended the other ranks.
        ("ConnectionResetError: [Errno 104] Connection reset by peer", 5.1, False),
        ("DistBackendError: NCCL error: GPU has fallen off the bus", 1.3, False),
        ("ConnectionError: ('Connection aborted.', RemoteDisconnected())", 1.3, False),
        ("ValueError: bad batch", 0.05, False),
    ],
)
@pytest.mark.parametrize(("other", "raiser"), [("rank1", "rank0"), ("rank0", "rank1")])
def test_a_rank_that_lost_a_peer_is_in_the_reason_but_not_the_cause(
    error: str, noticed: float, is_why: bool, other: str, raiser: str
) -> None:
    ranks = {
        raiser: RankState(began=True, how=RAISED, error=error, ended_at=80.0),
        other: RankState(began=True, lost=True, step=4, ended_at=80.0 + noticed),
        "rank2": RankState(lost=True, step=4, ended_at=80.1 + noticed),
    }
    raised = f"{raiser}: {error}" if is_why or raiser != "rank0" else error
    for memory, exit_ in (("", None), (" (out of memory)", ProcessExit(1, None, 90.0, True))):
        verdict = judge_attempt(ranks, exit_)
        vanished = f"{other}: the process vanished at step 4{memory}; " if is_why else ""
        assert (verdict.status, verdict.reason) == (FAILED, f"{vanished}{raised}")
        assert verdict.cause == raiser, "whose traceback is shown"


def test_a_ctrl_c_that_one_rank_received_first_is_no_failure_of_another_rank() -> None:
    interrupt = RankState(began=True, how=RAISED, error="KeyboardInterrupt", ended_at=8.0)
    lost_connection = RankState(began=True, how=RAISED, error="RuntimeError: closed", ended_at=9.0)
    interrupted_reason = "SIGINT (KeyboardInterrupt)"
    verdict = judge_attempt({"rank0": lost_connection, "rank1": interrupt})
    assert (verdict.status, verdict.reason) == (INTERRUPTED, f"rank1: {interrupted_reason}")
    verdict = judge_attempt({"rank0": interrupt, "rank1": lost_connection})
    assert (verdict.status, verdict.reason) == (INTERRUPTED, interrupted_reason)


@pytest.mark.parametrize(
    ("rank", "exit_", "status", "reason"),
    [
        (DONE, None, STOPPED, "by me"),
        (DONE, ProcessExit(0, None, 9.0), STOPPED, "by me"),
        # The exit of the script after the stop does not change the status.
        (DONE, ProcessExit(1, None, 9.0), STOPPED, "by me; then exit code 1"),
        (DONE, ProcessExit(143, None, 9.0), STOPPED, "by me; then SIGTERM"),
        # The same SIGTERM ended a shell at once while the training saved.
        (DONE, ProcessExit(143, None, 3.0), STOPPED, "by me"),
        # Only the end of training itself makes it stopped.
        (TRAINING, None, RUNNING, None),
        (RankState(began=True, lost=True), None, LOST, "the process vanished"),
        (RankState(began=True, ended=True, how="exception", error="E: x"), None, FAILED, "E: x"),
    ],
)
def test_a_command_to_stop_counts_once_training_has_ended(
    rank: RankState, exit_: ProcessExit | None, status: str, reason: str | None
) -> None:
    verdict = judge_attempt({"rank0": rank}, exit_, "by me")
    assert (verdict.status, verdict.reason) == (status, reason)


def test_the_exception_shown_is_that_of_the_cause() -> None:
    failed = RankState(began=True, how=RAISED, error="E: x", ended_at=8.0)
    assert judge_attempt({"rank0": failed}).cause == "rank0"
    assert judge_attempt({"rank0": failed}, ProcessExit(1, None, 9.0)).cause == "rank0"
    assert judge_attempt({"rank0": DONE}).cause is None


def test_the_status_of_a_run_is_that_of_its_newest_attempt() -> None:
    assert judge_run(None).status == RUNNING
    assert judge_run(Verdict(LOST, "gone", 5.0)) == Verdict(LOST, "gone", 5.0)


def test_a_run_whose_newest_attempt_is_superseded_is_being_started_again() -> None:
    assert judge_run(Verdict(SUPERSEDED)) == Verdict(RUNNING, "being started again")
