"""How a run stands, from what its processes said."""

from __future__ import annotations

import pytest

from lineside.store.status.status import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    KILLED,
    LOST,
    RAISED,
    RUNNING,
    STOPPED,
    SUPERSEDED,
    Exit,
    Rank,
    Verdict,
    judge_attempt,
    judge_rank,
    judge_run,
)

TRAINING = Rank(began=True)
DONE = Rank(began=True, ended=True, ended_at=5.0)


@pytest.mark.parametrize(
    ("rank", "status", "reason"),
    [
        (Rank(), RUNNING, None),
        (TRAINING, RUNNING, None),
        (DONE, FINISHED, None),
        (Rank(began=True, ended=True, how="exit"), FINISHED, None),
        # Evaluation alone, with no training.
        (Rank(how="exit"), FINISHED, None),
        # An exception caught by the user, sys.exit: no train_end, and a quiet end.
        (Rank(began=True, how="exit"), FAILED, "the process exited before training ended"),
        (Rank(began=True, how="exception", error="ValueError: x"), FAILED, "ValueError: x"),
        (Rank(began=True, how="exception"), FAILED, "an exception"),
        # train() raised; whatever the script made of it, and wherever its process is now.
        (Rank(began=True, how=RAISED, error="ValueError: x"), FAILED, "ValueError: x"),
        (Rank(began=True, how=RAISED, error="E: x", lost=True), FAILED, "E: x"),
        (
            Rank(began=True, how=RAISED, error="KeyboardInterrupt"),
            INTERRUPTED,
            "SIGINT (KeyboardInterrupt)",
        ),
        (
            Rank(began=True, how="exception", error="KeyboardInterrupt: x"),
            INTERRUPTED,
            "SIGINT (KeyboardInterrupt)",
        ),
        # Training was done, the script failed after it.
        (Rank(began=True, ended=True, how="exception", error="E: x"), FAILED, "E: x"),
        (Rank(began=True, how="restarted"), SUPERSEDED, None),
        (Rank(began=True, ended=True, how="restarted"), FINISHED, None),
        (Rank(began=True, lost=True), LOST, "the process vanished"),
        (Rank(began=True, lost=True, step=130), LOST, "the process vanished at step 130"),
        # The shipper's word comes on a stream of its own; the rank's own word, late, stands.
        (Rank(began=True, ended=True, lost=True), FINISHED, None),
        (Rank(began=True, how="exception", error="E: x", lost=True), FAILED, "E: x"),
    ],
)
def test_a_rank_stands_as_it_said(rank: Rank, status: str, reason: str | None) -> None:
    verdict = judge_rank(rank)
    assert (verdict.status, verdict.reason) == (status, reason)


def test_an_attempt_of_which_nothing_is_known_of_rank_0_is_running() -> None:
    assert judge_attempt({}).status == RUNNING


@pytest.mark.parametrize(
    ("rank", "exit_", "status", "reason"),
    [
        (DONE, Exit(0, None, 9.0), FINISHED, None),
        (TRAINING, Exit(None, "SIGKILL", 9.0), KILLED, "SIGKILL"),
        (TRAINING, Exit(137, None, 9.0), KILLED, "SIGKILL"),
        (TRAINING, Exit(None, "SIGKILL", 9.0, True), KILLED, "SIGKILL (out of memory)"),
        (TRAINING, Exit(None, "SIGTERM", 9.0, True), KILLED, "SIGTERM"),
        (TRAINING, Exit(None, "SIGINT", 9.0), INTERRUPTED, "SIGINT"),
        (
            Rank(began=True, lost=True),
            Exit(1, None, 9.0, True),
            FAILED,
            "the process vanished (out of memory); exit code 1",
        ),
        # The echo of a Ctrl-C.
        (
            Rank(began=True, how=RAISED, error="KeyboardInterrupt"),
            Exit(130, None, 9.0),
            INTERRUPTED,
            "SIGINT (KeyboardInterrupt)",
        ),
        (TRAINING, Exit(200, None, 9.0), FAILED, "exit code 200"),
        (TRAINING, Exit(1, None, 9.0), FAILED, "exit code 1"),
        (TRAINING, Exit(0, None, 9.0), FAILED, "the process exited before training ended"),
        (TRAINING, Exit(None, None, 9.0), FAILED, "the process exited before training ended"),
        (Rank(), Exit(0, None, 9.0), FINISHED, None),
        (DONE, Exit(1, None, 9.0), FAILED, "exit code 1 after training had ended"),
        (DONE, Exit(None, "SIGSEGV", 9.0), KILLED, "SIGSEGV after training had ended"),
        # A clock was set back, or is another machine's; or the training went on after it.
        (DONE, Exit(3, None, 0.1), FAILED, "exit code 3 after training had ended"),
        (DONE, Exit(3, None, -0.1), FINISHED, None),
        (Rank(began=True, lost=True), Exit(None, "SIGKILL", 9.0), KILLED, "SIGKILL"),
        (
            Rank(began=True, lost=True),
            Exit(1, None, 9.0),
            FAILED,
            "the process vanished; exit code 1",
        ),
        (Rank(began=True, lost=True), Exit(0, None, 9.0), LOST, "the process vanished"),
        # It vanished with its command, which was noticed a little later, or had outlived it.
        (Rank(began=True, lost=True, ended_at=14.0), Exit(143, None, 9.0), KILLED, "SIGTERM"),
        (
            Rank(began=True, lost=True, ended_at=69.0),
            Exit(143, None, 9.0),
            LOST,
            "the process vanished",
        ),
        (
            Rank(began=True, lost=True, ended_at=69.0),
            Exit(None, "SIGTERM", 9.0, True),
            LOST,
            "the process vanished (out of memory)",
        ),
        # Nobody knows yet what it said before it ended; how it was ended is known.
        (Rank(began=True, awaited=True), Exit(0, None, 9.0), RUNNING, None),
        (Rank(awaited=True), Exit(0, None, 9.0), RUNNING, None),
        (Rank(began=True, lost=True, awaited=True), Exit(0, None, 9.0), RUNNING, None),
        (Rank(began=True, lost=True, awaited=True), Exit(1, None, 9.0), FAILED, "exit code 1"),
        (Rank(began=True, awaited=True), Exit(None, "SIGKILL", 9.0), KILLED, "SIGKILL"),
        # The exception is the cause, the exit code only its echo.
        (
            Rank(began=True, how="exception", error="OOM: x"),
            Exit(1, None, 9.0),
            FAILED,
            "OOM: x",
        ),
    ],
)
def test_the_exit_of_the_command_refines_the_standing(
    rank: Rank, exit_: Exit, status: str, reason: str | None
) -> None:
    verdict = judge_attempt({"rank0": rank}, exit_)
    assert (verdict.status, verdict.reason) == (status, reason)


def test_an_attempt_that_was_started_again_stays_superseded_whatever_the_command_did() -> None:
    given_up = Rank(began=True, how="restarted", ended_at=1.0)
    assert judge_attempt({"rank0": given_up}, Exit(1, None, 9.0)).status == SUPERSEDED


def test_the_first_rank_to_fail_is_the_cause() -> None:
    ranks = {
        "rank0": Rank(began=True, how="exception", error="connection closed", ended_at=9.0),
        "rank1": Rank(how="exception", error="ValueError: true cause", ended_at=8.0),
        "rank2": Rank(lost=True, ended_at=8.5),
    }
    verdict = judge_attempt(ranks)
    assert verdict == Verdict(FAILED, "rank1: ValueError: true cause", 9.0, "rank1")


def test_a_rank_that_raised_beside_a_running_rank_0_is_the_end() -> None:
    """The others wait for it, until they notice or for ever."""
    raised = Rank(began=True, how=RAISED, error="E: x", ended_at=8.0)
    verdict = judge_attempt({"rank0": TRAINING, "rank1": raised})
    assert verdict == Verdict(FAILED, "rank1: E: x", 8.0, "rank1")


def test_a_lost_rank_beside_a_running_rank_0_is_only_a_reason() -> None:
    ranks = {"rank0": TRAINING, "rank1": Rank(lost=True, step=4, ended_at=8.0)}
    verdict = judge_attempt(ranks)
    assert (verdict.status, verdict.ended_at) == (RUNNING, None)
    assert verdict.reason == "rank1: the process vanished at step 4"


def test_a_failing_rank_beside_a_finished_rank_0_is_not_shown_as_finished() -> None:
    ranks = {"rank0": DONE, "rank1": Rank(how="exception", error="E: x", ended_at=8.0)}
    for stopped_by in (None, "by me"):
        verdict = judge_attempt(ranks, None, stopped_by)
        assert verdict == Verdict(FAILED, "rank1: E: x", 8.0, "rank1")


def test_a_rank_0_that_vanished_because_another_rank_failed_makes_the_run_failed() -> None:
    """torchrun ends the other ranks with SIGTERM, of which they can tell nothing."""
    ranks = {
        "rank0": Rank(began=True, lost=True, ended_at=9.0),
        "rank1": Rank(how="exception", error="E: x", ended_at=8.0),
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
        # It vanished of something else, or for that: a launcher ends the others.
        ("ConnectionResetError: [Errno 104] Connection reset by peer", 5.1, False),
        ("DistBackendError: NCCL error: GPU has fallen off the bus", 1.3, False),
        ("ConnectionError: ('Connection aborted.', RemoteDisconnected())", 1.3, False),
        ("ValueError: bad batch", 0.05, False),
    ],
)
@pytest.mark.parametrize(("other", "raiser"), [("rank1", "rank0"), ("rank0", "rank1")])
def test_who_lost_a_peer_is_not_the_cause_of_it_but_is_told_too(
    error: str, noticed: float, is_why: bool, other: str, raiser: str
) -> None:
    ranks = {
        raiser: Rank(began=True, how=RAISED, error=error, ended_at=80.0),
        other: Rank(began=True, lost=True, step=4, ended_at=80.0 + noticed),
        "rank2": Rank(lost=True, step=4, ended_at=80.1 + noticed),
    }
    raised = f"{raiser}: {error}" if is_why or raiser != "rank0" else error
    for memory, exit_ in (("", None), (" (out of memory)", Exit(1, None, 90.0, True))):
        verdict = judge_attempt(ranks, exit_)
        vanished = f"{other}: the process vanished at step 4{memory}; " if is_why else ""
        assert (verdict.status, verdict.reason) == (FAILED, f"{vanished}{raised}")
        assert verdict.cause == raiser, "whose traceback is shown"


def test_a_ctrl_c_that_one_rank_heard_first_is_no_failure_of_the_other() -> None:
    interrupt = Rank(began=True, how=RAISED, error="KeyboardInterrupt", ended_at=8.0)
    lost_connection = Rank(began=True, how=RAISED, error="RuntimeError: closed", ended_at=9.0)
    said = "SIGINT (KeyboardInterrupt)"
    verdict = judge_attempt({"rank0": lost_connection, "rank1": interrupt})
    assert (verdict.status, verdict.reason) == (INTERRUPTED, f"rank1: {said}")
    verdict = judge_attempt({"rank0": interrupt, "rank1": lost_connection})
    assert (verdict.status, verdict.reason) == (INTERRUPTED, said)


@pytest.mark.parametrize(
    ("rank", "exit_", "status", "reason"),
    [
        (DONE, None, STOPPED, "by me"),
        (DONE, Exit(0, None, 9.0), STOPPED, "by me"),
        # What the script ends with after it was stopped is its own affair.
        (DONE, Exit(1, None, 9.0), STOPPED, "by me; then exit code 1"),
        (DONE, Exit(143, None, 9.0), STOPPED, "by me; then SIGTERM"),
        # A shell that the same SIGTERM ended at once, while the training saved.
        (DONE, Exit(143, None, 3.0), STOPPED, "by me"),
        # Nothing but training's own end makes it stopped.
        (TRAINING, None, RUNNING, None),
        (Rank(began=True, lost=True), None, LOST, "the process vanished"),
        (Rank(began=True, ended=True, how="exception", error="E: x"), None, FAILED, "E: x"),
    ],
)
def test_a_command_to_stop_counts_once_training_has_ended(
    rank: Rank, exit_: Exit | None, status: str, reason: str | None
) -> None:
    verdict = judge_attempt({"rank0": rank}, exit_, "by me")
    assert (verdict.status, verdict.reason) == (status, reason)


def test_the_exception_shown_is_that_of_the_cause() -> None:
    failed = Rank(began=True, how=RAISED, error="E: x", ended_at=8.0)
    assert judge_attempt({"rank0": failed}).cause == "rank0"
    assert judge_attempt({"rank0": failed}, Exit(1, None, 9.0)).cause == "rank0"
    assert judge_attempt({"rank0": DONE}).cause is None


def test_a_run_stands_as_its_newest_attempt() -> None:
    assert judge_run(None).status == RUNNING
    assert judge_run(Verdict(LOST, "gone", 5.0)) == Verdict(LOST, "gone", 5.0)


def test_a_run_whose_newest_attempt_was_given_up_is_being_started_again() -> None:
    assert judge_run(Verdict(SUPERSEDED)) == Verdict(RUNNING, "being started again")
