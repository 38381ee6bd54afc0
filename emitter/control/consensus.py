"""Lets the ranks of a job apply a command at the same step, through the job's key-value store.

torch.distributed sets up that store. Ranks read and write single keys in it; they never use a
collective, which would hang if one rank did not take part. At the end of a step agreed on before,
rank 0 starts a sync round: it sends zero or more commands, each voted on, and then the step of the
next round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lineside.bus.protocol.commands import Command
from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.training.error_facts import one_line
from lineside.emitter.training.identity import Identity
from lineside.emitter.training.job_store import PEER_TIMEOUT_SECONDS, ConsensusError, JobStore
from lineside.emitter.training.run_sync import HANDSHAKE_RESULT, control_prefix

ROUND_SECONDS = 1.0
"""Time between two sync rounds if steps are shorter."""
_MAX_STEPS = 256  # between two rounds: a limit for steps that become slower
_HANDSHAKE_SECONDS = 5.0
_HANDSHAKE_RESULT_SECONDS = 15.0
_VOTE_SECONDS = 30.0
_SHUTDOWN_SECONDS = 15.0  # after a SIGTERM: launchers send SIGKILL half a minute later
_KEEPALIVE_SECONDS = 5.0
_POLL_SECONDS = 1.0
_DELETE_BATCH = 64  # messages whose keys are deleted together

YES, LATER, NO = "yes", "later", "no"


class Vote(NamedTuple):
    """A rank's answer to a command: yes, later (not at this step) or no, and why."""

    answer: str
    why: str = ""


class LeaderMessage(NamedTuple):
    """The next message of rank 0: a ``command`` to vote on, or the end of the round.

    The end carries the step at which the next round starts and whether training is paused.
    """

    command: Command | None
    next_step: int = 0
    is_paused: bool = False


class SoloLeader:
    """The leader of a job of one rank, or of one whose ranks cannot agree any more."""

    is_alone = True
    is_ready = True
    next_step = 0

    def agree(self, _command: Command) -> Vote:
        return Vote(YES)

    def requested(self) -> Command | None:
        return None

    def _ignore(self, *_: object) -> None:
        pass

    handshake = end_round = keepalive = leave = _ignore


class Leader:
    """Rank 0's side. ``handshake`` comes first.

    A sync round starts at the end of ``next_step``, and with ``syncs_evaluations`` at each
    evaluation too.

    Raises:
        ConsensusError: there is no store.
    """

    is_alone = False

    def __init__(self, identity: Identity, step: int, *, syncs_evaluations: bool = False) -> None:
        self._store = JobStore(control_prefix(identity))
        self._other_ranks = range(1, identity.rank_info.world_size)
        self._syncs_evaluations = syncs_evaluations
        self.is_ready = False
        self.next_step = step + 1
        self._sent = 0
        self._deleted = 0
        self._vote_indexes: list[int] = []  # messages that were voted on
        self._round_steps = 1
        self._last_round = (step, time.monotonic())
        self._next_keepalive = 0.0
        self._has_request = False

    def handshake(self) -> None:
        """Wait for every rank, at the end of the first step: its collectives end together.

        Raises:
            ConsensusError: a rank takes no part; no rank will wait for a sync round.
        """
        deadline = time.monotonic() + _HANDSHAKE_SECONDS
        missing = [
            rank
            for rank in self._other_ranks
            if not self._store.wait(f"ready/{rank}", deadline - time.monotonic())
        ]
        why = f"no LinesideCallback on {_rank_names(missing)} answered in time" if missing else ""
        result = {"why": why, "syncs_evaluations": self._syncs_evaluations}
        _raise_reason(self._store.set_default(HANDSHAKE_RESULT, result)["why"])
        self.is_ready = True

    def agree(self, command: Command) -> Vote:
        """Put the command to the vote. After yes every rank applies it, else none does.

        Raises:
            ConsensusError: a rank did not vote, or left after it had; none applies it.
        """
        index, is_agreed = self._sent, False
        self._vote_indexes.append(index)
        try:
            self._send({"command": command.to_data()})
            vote = self._count_votes(index)
            is_agreed = vote.answer == YES
        finally:  # after an exception too: ranks that have voted wait for the outcome
            if not is_agreed:
                self._store.set_nowait(f"outcome/{index}", False)
        if is_agreed:
            with self._store.timeout(PEER_TIMEOUT_SECONDS):
                _raise_reason(self._store.set_default(f"outcome/{index}", True))
        return vote

    def end_round(self, step: int, is_paused: bool) -> None:
        """End this round and let all ranks go on from ``step``."""
        last, at = self._last_round
        self._last_round = now_step, now = (step, time.monotonic())
        if now_step > last:
            seconds_per_step = max((now - at) / (now_step - last), 1e-6)
            most = min(2 * self._round_steps, _MAX_STEPS)
            self._round_steps = min(max(int(ROUND_SECONDS / seconds_per_step), 1), most)
        self.next_step = step + self._round_steps
        self._send({"next": self.next_step, "paused": is_paused})
        self._delete_old_keys()

    def requested(self) -> Command | None:
        """The command that another rank asks for, once."""
        requested = None if self._has_request else self._store.find("request")
        if requested is None:
            return None
        self._has_request = True
        return Command.from_data(requested)

    def keepalive(self) -> None:
        """Show the other ranks during a pause, every few seconds, that rank 0 is alive."""
        now = time.monotonic()
        if now > self._next_keepalive:
            self._next_keepalive = now + _KEEPALIVE_SECONDS
            self._store.set("keepalive", now)

    def leave(self, why: str) -> None:
        """Start no further round."""
        self._store.set_nowait(f"message/{self._sent}", {"off": why})
        self._store.close()

    def _count_votes(self, index: int) -> Vote:
        deadline = time.monotonic() + _VOTE_SECONDS
        total = Vote(YES)
        for rank in self._other_ranks:
            name = f"vote/{index}/{rank}"
            while (ballot := self._store.wait(name, _POLL_SECONDS)) is None:
                _raise_reason(self._store.find(f"left/{rank}"))
                if time.monotonic() > deadline:
                    raise ConsensusError(f"rank {rank} did not vote within {_VOTE_SECONDS:g} s")
            vote = Vote(*ballot)
            if vote.answer == NO:
                total = Vote(NO, f"rank {rank}: {vote.why}")
            elif vote.answer == LATER and total.answer == YES:
                total = vote
        return total

    def _send(self, message: Mapping[str, Any]) -> int:
        index = self._sent
        self._sent += 1
        self._store.set(f"message/{index}", message)
        return index

    def _delete_old_keys(self) -> None:
        """Delete messages that all ranks have read; else a long training fills the store."""
        first, end = self._deleted, self._deleted + _DELETE_BATCH
        if self._sent < end + _DELETE_BATCH or self._sent % 16:
            return
        if self._store.increment(f"read/{end}", 0) == len(self._other_ranks):
            self._deleted = end
            for index in range(first, end):
                self._store.delete(f"message/{index}")
            self._store.delete(f"read/{end}")
            for index in [index for index in self._vote_indexes if index < end]:
                self._vote_indexes.remove(index)
                self._store.delete(f"outcome/{index}")
                for rank in self._other_ranks:
                    self._store.delete(f"vote/{index}/{rank}")


class Follower:
    """Another rank's side. ``handshake`` comes first.

    A sync round starts at the end of ``next_step``, and with ``syncs_evaluations`` at each
    evaluation too.

    Raises:
        ConsensusError: there is no store.
    """

    def __init__(self, identity: Identity, step: int) -> None:
        self._store = JobStore(control_prefix(identity))
        self._rank = identity.rank_info.rank
        self.is_ready = self.syncs_evaluations = False
        self.next_step = step + 1
        self._received = 0
        self._has_requested = False

    def handshake(self) -> None:
        """Report to rank 0, at the end of the first step.

        Raises:
            ConsensusError: a rank takes no part; rank 0 knows it too.
        """
        self._store.set(f"ready/{self._rank}", True)
        self._store.wait(HANDSHAKE_RESULT, _HANDSHAKE_RESULT_SECONDS)
        why = f"rank {self._rank} received nothing from rank 0 in time"
        result = self._store.set_default(HANDSHAKE_RESULT, {"why": why})
        _raise_reason(result["why"])
        self.syncs_evaluations = bool(result["syncs_evaluations"])
        self.is_ready = True

    def request(self, command: Command) -> None:
        """Have rank 0 put this command to the vote; only the first request of all ranks counts.

        Raises:
            ConsensusError: it cannot be sent.
        """
        self._has_requested = True
        self._store.set_default("request", command.to_data())

    def receive(self, on_poll: Callable[[], object]) -> LeaderMessage:
        """Rank 0's next message; ``on_poll`` is called now and then until it arrives.

        Raises:
            ConsensusError: rank 0 starts no further round.
        """
        index = self._received
        message = self._wait_for(f"message/{index}", on_poll, _SHUTDOWN_SECONDS)
        self._received += 1
        if self._received % _DELETE_BATCH == 0:
            self._store.increment(f"read/{self._received}", 1)
        if "off" in message:
            raise ConsensusError(message["off"])
        if "command" in message:
            return LeaderMessage(Command.from_data(message["command"]))
        self.next_step = message["next"]
        return LeaderMessage(None, message["next"], message["paused"])

    def vote(self, vote: Vote, on_poll: Callable[[], object]) -> bool:
        """Vote on the command just received; whether every rank applies it now.

        Raises:
            ConsensusError: no rank applies it.
        """
        index = self._received - 1
        name = f"outcome/{index}"
        # From here on the other ranks may count on this one.
        with self._store.timeout(PEER_TIMEOUT_SECONDS):
            try:
                self._store.set(f"vote/{index}/{self._rank}", vote)
                outcome = self._wait_for(name, on_poll, _VOTE_SECONDS + _KEEPALIVE_SECONDS)
            except BaseException as error:
                # No rank may apply it without this one, unless rank 0 has decided already.
                why = f"rank {self._rank} takes no part any more: {one_line(error)}"
                outcome = self._store.set_default(name, why)
                if outcome is not True or is_script_error(error):
                    raise
        _raise_reason(outcome)
        return bool(outcome)

    def leave(self, why: str) -> None:
        """Take part no more. Raises nothing."""
        self._store.set_nowait(f"left/{self._rank}", f"rank {self._rank}: {why}")
        self._store.close()

    def _wait_for(self, name: str, on_poll: Callable[[], object], shutdown_timeout: float) -> Any:
        """The value of a key that rank 0 sets.

        ``shutdown_timeout``: seconds that rank 0 may be silent once this rank is to end.
        """
        since, keepalive = time.monotonic(), None
        while (value := self._store.wait(name, _POLL_SECONDS, on_poll)) is None:
            before, keepalive = keepalive, self._store.find("keepalive")
            if keepalive != before:
                since = time.monotonic()
            timeout = shutdown_timeout if self._has_requested else PEER_TIMEOUT_SECONDS
            if time.monotonic() - since > timeout:
                raise ConsensusError(f"rank 0 sent nothing for {timeout:g} s")
        return value


def _raise_reason(why: object) -> None:
    """Raise ``why`` if it is a reason."""
    if isinstance(why, str) and why:
        raise ConsensusError(why)


def _rank_names(ranks: list[int]) -> str:
    named = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return f"rank {named}" if len(ranks) == 1 else f"ranks {named}"
