"""Ranks agree through a job's store: here threads on one in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from lineside.bus.protocol.commands import Command
from lineside.emitter.control import consensus
from lineside.emitter.control.consensus import (
    LATER,
    NO,
    YES,
    Follower,
    Leader,
    LeaderMessage,
    Vote,
)
from lineside.emitter.training import job_store
from lineside.emitter.training.identity import Identity, RankInfo
from lineside.emitter.training.job_store import ConsensusError
from lineside.emitter.training.run_sync import abandon_control
from tests.emitter.training.stores import FakeJobStore

SAVE = Command("save")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJobStore]:
    made = FakeJobStore()
    monkeypatch.setattr(job_store, "job_store", lambda: made)
    for name, seconds in (("_HANDSHAKE", 2.0), ("_HANDSHAKE_RESULT", 4.0), ("_VOTE", 2.0)):
        monkeypatch.setattr(consensus, f"{name}_SECONDS", seconds)
    yield made
    made.is_responding.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def rank(number: int, size: int) -> Identity:
    return Identity("run", "attempt", "name", "project", RankInfo(number, size, number))


def join(number: int, size: int, step: int = 0) -> Follower:
    follower = Follower(rank(number, size), step)
    follower.handshake()
    return follower


def lead(size: int, step: int = 0) -> Leader:
    leader = Leader(rank(0, size), step)
    leader.handshake()
    return leader


def handshake(pool: ThreadPoolExecutor, size: int, step: int = 0) -> tuple[Leader, list[Follower]]:
    others = [pool.submit(join, n, size, step) for n in range(1, size)]
    return lead(size, step), [other.result(10) for other in others]


def receive(follower: Follower) -> LeaderMessage:
    return follower.receive(lambda: None)


def test_all_ranks_receive_the_same_and_apply_what_every_rank_can(
    store: FakeJobStore, pool: ThreadPoolExecutor
) -> None:
    leader, others = handshake(pool, 3, step=7)
    assert leader.next_step == others[0].next_step == 8

    def take(follower: Follower) -> tuple[bool, int]:
        assert receive(follower).command == SAVE
        follows = follower.vote(Vote(YES), lambda: None)
        end = receive(follower)
        assert (end.command, end.is_paused) == (None, False)
        return follows, follower.next_step

    taken = [pool.submit(take, other) for other in others]
    assert leader.agree(SAVE) == Vote(YES)
    leader.end_round(8, is_paused=False)
    assert [one.result(10) for one in taken] == [(True, leader.next_step)] * 2
    assert leader.next_step > 8


@pytest.mark.parametrize(
    ("votes", "outcome"),
    [
        ((Vote(YES), Vote(NO, "no dataset")), Vote(NO, "rank 2: no dataset")),
        ((Vote(LATER), Vote(YES)), Vote(LATER)),
        ((Vote(LATER), Vote(NO, "never")), Vote(NO, "rank 2: never")),
        ((Vote(NO, "never"), Vote(LATER)), Vote(NO, "rank 1: never")),
    ],
)
def test_a_command_that_one_rank_cannot_apply_is_applied_by_none(
    store: FakeJobStore, pool: ThreadPoolExecutor, votes: tuple[Vote, Vote], outcome: Vote
) -> None:
    leader, others = handshake(pool, 3)

    def take(follower: Follower, vote: Vote) -> bool:
        receive(follower)
        return follower.vote(vote, lambda: None)

    taken = [pool.submit(take, *one) for one in zip(others, votes, strict=True)]
    assert leader.agree(SAVE) == outcome
    assert not any(one.result(10) for one in taken)


def test_without_the_vote_of_one_rank_no_rank_applies_a_command(
    store: FakeJobStore, pool: ThreadPoolExecutor
) -> None:
    leader, (voting, _silent) = handshake(pool, 3)
    receiving: Future[LeaderMessage] = pool.submit(receive, voting)
    voted = pool.submit(lambda: (receiving.result(), voting.vote(Vote(YES), lambda: None))[1])
    with pytest.raises(ConsensusError, match="rank 2 did not vote"):
        leader.agree(SAVE)
    assert voted.result(10) is False
    leader.leave("rank 2 did not vote")
    with pytest.raises(ConsensusError, match="rank 2 did not vote"):
        receive(voting)


def test_an_interrupted_vote_counts_as_no(
    store: FakeJobStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, (other,) = handshake(pool, 2)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(leader, "_count_votes", interrupt)
    taken = pool.submit(lambda: (receive(other), other.vote(Vote(YES), lambda: None)))
    with pytest.raises(KeyboardInterrupt):
        leader.agree(SAVE)
    assert taken.result(10)[1] is False


@pytest.mark.parametrize("missing", [[1], [1, 3]])
def test_missing_ranks_are_named_and_no_rank_waits_for_a_round(
    store: FakeJobStore, pool: ThreadPoolExecutor, missing: list[int]
) -> None:
    here = [pool.submit(join, n, 4) for n in range(1, 4) if n not in missing]
    named = "rank 1" if missing == [1] else "ranks 1, 3"
    with pytest.raises(ConsensusError, match=f"no LinesideCallback on {named} answered in time$"):
        lead(4)
    for one in here:
        with pytest.raises(ConsensusError, match=f"on {named} answered in time$"):
            one.result(10)


def test_a_late_leader_learns_that_the_others_gave_up(
    store: FakeJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consensus, "_HANDSHAKE_RESULT_SECONDS", 0.05)
    with pytest.raises(ConsensusError, match="rank 1 received nothing from rank 0"):
        join(1, 2)
    with pytest.raises(ConsensusError, match="rank 1 received nothing from rank 0"):
        lead(2)


def test_followers_leave_a_silent_leader_and_wait_for_a_paused_one(
    store: FakeJobStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consensus, "PEER_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(consensus, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(consensus, "_KEEPALIVE_SECONDS", 0.0)
    leader, (other,) = handshake(pool, 2)
    over = threading.Event()

    def pause() -> None:
        while not over.wait(0.05):
            leader.keepalive()

    pausing = pool.submit(pause)
    waiting = pool.submit(receive, other)
    with pytest.raises(TimeoutError):
        waiting.result(1.0)
    over.set()
    pausing.result(5)
    with pytest.raises(ConsensusError, match="rank 0 sent nothing"):
        waiting.result(10)


def test_a_broken_store_raises_only_a_consensus_error(
    store: FakeJobStore, pool: ThreadPoolExecutor
) -> None:
    leader, (other,) = handshake(pool, 2)
    store.is_closed = True
    for act in (
        lambda: leader.end_round(1, False),
        lambda: leader.agree(SAVE),
        lambda: receive(other),
    ):
        with pytest.raises(ConsensusError, match="the job's store failed: RuntimeError"):
            act()
    leader.leave("nobody hears this")


def test_a_frozen_store_delays_no_rank_and_all_ranks_learn_of_it_later(
    store: FakeJobStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, (other, waiting) = handshake(pool, 3)
    leader._store._timeout = other._store._timeout = 0.2
    received = pool.submit(receive, waiting)
    store.is_responding.clear()
    for act in (
        lambda: leader.agree(SAVE),
        lambda: receive(other),
        lambda: leader.end_round(1, False),
    ):
        with pytest.raises(ConsensusError, match="the job's store did not answer"):
            act()
    leader.leave("the job's store did not answer")
    store.is_responding.set()
    # What the leader sent before it left still arrives, in order: first a vote that failed.
    try:
        if received.result(10).command is not None:
            assert not waiting.vote(Vote(YES), lambda: None)
            receive(waiting)
    except ConsensusError as error:
        assert "the job's store did not answer" in str(error)  # noqa: PT017 - one of two ways


def test_a_rank_that_voted_yes_waits_for_the_outcome_while_the_store_is_frozen(
    store: FakeJobStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, (other,) = handshake(pool, 2)
    leader._store._timeout = other._store._timeout = 0.1
    counted = leader._count_votes

    def freeze_after(index: int) -> Vote:
        vote = counted(index)
        store.is_responding.clear()
        return vote

    monkeypatch.setattr(leader, "_count_votes", freeze_after)
    agreeing = pool.submit(leader.agree, SAVE)
    assert receive(other).command == SAVE
    voting = pool.submit(other.vote, Vote(YES), lambda: None)
    for one in (agreeing, voting):
        with pytest.raises(TimeoutError):
            one.result(0.5)
    store.is_responding.set()
    assert agreeing.result(10) == Vote(YES)
    assert voting.result(10) is True


def test_if_a_rank_leaves_after_its_vote_no_rank_applies_the_command(
    store: FakeJobStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, (gone, other, late) = handshake(pool, 4)
    agreeing = pool.submit(leader.agree, SAVE)
    for one in (gone, other, late):
        assert receive(one).command == SAVE

    def fail() -> None:
        raise OSError("stale file handle")

    with pytest.raises(OSError, match="stale"):
        gone.vote(Vote(YES), fail)
    voting = pool.submit(other.vote, Vote(YES), lambda: None)
    why = "rank 1 takes no part any more: OSError: stale file handle"
    for act in (lambda: late.vote(Vote(YES), lambda: None), voting.result, agreeing.result):
        with pytest.raises(ConsensusError, match=why):
            act()


def test_a_rank_that_left_is_not_waited_for(
    store: FakeJobStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consensus, "_VOTE_SECONDS", 60.0)
    leader, (other,) = handshake(pool, 2)
    other.leave("its spool is full")
    with pytest.raises(ConsensusError, match=r"^rank 1: its spool is full$"):
        leader.agree(SAVE)


def test_after_an_interrupt_while_voting_no_rank_applies_the_command(
    store: FakeJobStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, (other, late) = handshake(pool, 3)
    agreeing = pool.submit(leader.agree, SAVE)
    assert receive(other).command == receive(late).command == SAVE
    set_value = other._store.set

    def interrupt(name: str, value: object) -> None:
        set_value(name, value)
        raise KeyboardInterrupt

    monkeypatch.setattr(other._store, "set", interrupt)
    with pytest.raises(KeyboardInterrupt):
        other.vote(Vote(YES), lambda: None)
    for act in (lambda: late.vote(Vote(YES), lambda: None), agreeing.result):
        with pytest.raises(
            ConsensusError, match="rank 1 takes no part any more: KeyboardInterrupt"
        ):
            act()


def test_a_rank_that_is_interrupted_after_the_decision_applies_it(
    store: FakeJobStore, pool: ThreadPoolExecutor
) -> None:
    leader, (other,) = handshake(pool, 2)
    agreeing = pool.submit(leader.agree, SAVE)
    receive(other)

    def fail_once_decided() -> None:
        agreeing.result()
        raise ConsensusError("too late")

    assert other.vote(Vote(YES), fail_once_decided) is True


def test_a_rank_0_that_cannot_lead_is_not_waited_for(store: FakeJobStore) -> None:
    abandon_control(rank(0, 2), OSError("no space left"))
    with pytest.raises(
        ConsensusError, match=r"^rank 0 takes no commands \(OSError: no space left\)$"
    ):
        join(1, 2)


def test_without_torch_distributed_ranks_cannot_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_store, "job_store", lambda: None)
    with pytest.raises(ConsensusError, match=r"torch\.distributed is not in use"):
        Leader(rank(0, 2), 0)


def test_a_long_training_does_not_fill_the_store(
    store: FakeJobStore, pool: ThreadPoolExecutor
) -> None:
    leader, (other,) = handshake(pool, 2)
    for step in range(1, 1_000):
        if step % 10 == 0:
            voting = pool.submit(lambda: (receive(other), other.vote(Vote(YES), lambda: None))[1])
            leader.agree(SAVE)
            assert voting.result(10)
        leader.end_round(step, is_paused=False)
        assert receive(other).next_step == leader.next_step
    assert store.inner.num_keys() < 250


def test_rounds_start_about_once_a_second(
    store: FakeJobStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    leader, _ = handshake(pool, 2)
    leader._last_round = (0, now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def train(seconds: float, rounds: int) -> int:
        """Steps between the last two of ``rounds``, in a training with steps this long."""
        for _ in range(rounds):
            steps = leader.next_step - leader._last_round[0]
            now[0] += steps * seconds
            leader.end_round(leader.next_step, is_paused=False)
        return leader.next_step - leader._last_round[0]

    assert train(0.02, 12) == pytest.approx(50, abs=1)
    assert train(5.0, 2) == 1
    assert train(0.0001, 20) == consensus._MAX_STEPS
