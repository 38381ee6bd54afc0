"""How the ranks of a job come to do the same at the same step: through the job's own store.

That is the key-value store by which torch.distributed found together. Only single keys are asked
for in it, and never a collective, which would hang where one rank does not take part. At the end of
a step agreed before, rank 0 leads a talk: zero or more commands, each voted on, and a last word
with the step of the next talk.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lineside.bus.protocol.commands import Command
from lineside.emitter.spool.outside import comes_from_outside
from lineside.emitter.training.identity import Identity
from lineside.emitter.training.jobstore import SILENCE_SECONDS, JobStore, PeersError
from lineside.emitter.training.snapshot import one_line

TALK_EVERY_SECONDS = 1.0
"""About how far one talk is from the next while steps are faster."""
_MOST_STEPS = 256  # between two talks: so many until steps that became slower are noticed
_ROLL_CALL_SECONDS = 5.0
_VERDICT_SECONDS = 15.0
_VOTE_SECONDS = 30.0
_HURRY_SECONDS = 15.0  # once this rank is to end: launchers kill half a minute after a SIGTERM
_STILL_SECONDS = 5.0
_LOOK_SECONDS = 1.0
_SWEEP = 64  # talks whose keys are deleted together

YES, LATER, NO = "yes", "later", "no"


class Vote(NamedTuple):
    """What one rank says to a command: yes, later (not at this step) or no, and why."""

    answer: str
    why: str = ""


class Word(NamedTuple):
    """What rank 0 says next: a ``command`` to vote on, or the end of this talk.

    With the end come the step at which the ``next`` one begins, and whether training is held.
    """

    command: Command | None
    next: int = 0
    is_paused: bool = False


class Leader:
    """Rank 0's side. ``next_step`` is the step at whose end the next talk begins; with ``meets``
    there is one at each evaluation too. First of all comes ``gather``.

    Raises:
        PeersError: there is no store.
    """

    def __init__(self, identity: Identity, step: int, *, meets: bool = False) -> None:
        self._keys = JobStore(_prefix(identity))
        self._others = range(1, identity.place.world_size)
        self._meets = meets
        self.is_gathered = False
        self.next_step = step + 1
        self._said = 0
        self._swept = 0
        self._votes: list[int] = []  # talks
        self._steps = 1
        self._last = (step, time.monotonic())
        self._still_at = 0.0
        self._is_asked = False

    def gather(self) -> None:
        """Call the roll, at the end of the first step: its collectives have brought all there.

        Raises:
            PeersError: a rank takes no part; none of them will wait for a talk.
        """
        until = time.monotonic() + _ROLL_CALL_SECONDS
        missing = [
            rank
            for rank in self._others
            if not self._keys.wait(f"here/{rank}", until - time.monotonic())
        ]
        why = f"no LinesideCallback on {_ranks(missing)} answered in time" if missing else ""
        _check(self._keys.settle("verdict", {"why": why, "meets": self._meets})["why"])
        self.is_gathered = True

    def agree(self, command: Command) -> Vote:
        """Put it to the vote. After yes every rank applies it, else none does.

        Raises:
            PeersError: some rank did not vote, or went after it had; none applies it.
        """
        talk, is_on = self._said, False
        self._votes.append(talk)
        try:
            self._say({"do": command.data()})
            vote = self._count_votes(talk)
            is_on = vote.answer == YES
        finally:  # whatever is raised here: those who voted wait for this
            if not is_on:
                self._keys.post(f"outcome/{talk}", False)
        if is_on:
            with self._keys.patience(SILENCE_SECONDS):
                _check(self._keys.settle(f"outcome/{talk}", True))
        return vote

    def go(self, step: int, is_paused: bool) -> None:
        """End this talk and let everyone go on from ``step``."""
        last, at = self._last
        self._last = now_step, now = (step, time.monotonic())
        if now_step > last:
            pace = max((now - at) / (now_step - last), 1e-6)
            most = min(2 * self._steps, _MOST_STEPS)
            self._steps = min(max(int(TALK_EVERY_SECONDS / pace), 1), most)
        self.next_step = step + self._steps
        self._say({"next": self.next_step, "paused": is_paused})
        self._sweep()

    def asked(self) -> Command | None:
        """What another rank asks for, once."""
        asked = None if self._is_asked else self._keys.find("ask")
        if asked is None:
            return None
        self._is_asked = True
        return Command.read(asked)

    def still(self) -> None:
        """Say in a pause, now and then, that rank 0 is there."""
        now = time.monotonic()
        if now > self._still_at:
            self._still_at = now + _STILL_SECONDS
            self._keys.set("still", now)

    def leave(self, why: str) -> None:
        """There will be no further talk."""
        self._keys.post(f"say/{self._said}", {"off": why})
        self._keys.close()

    def _count_votes(self, talk: int) -> Vote:
        until = time.monotonic() + _VOTE_SECONDS
        total = Vote(YES)
        for rank in self._others:
            name = f"vote/{talk}/{rank}"
            while (told := self._keys.wait(name, _LOOK_SECONDS)) is None:
                _check(self._keys.find(f"gone/{rank}"))
                if time.monotonic() > until:
                    raise PeersError(f"rank {rank} did not vote within {_VOTE_SECONDS:g} s")
            vote = Vote(*told)
            if vote.answer == NO:
                total = Vote(NO, f"rank {rank}: {vote.why}")
            elif vote.answer == LATER and total.answer == YES:
                total = vote
        return total

    def _say(self, what: Mapping[str, Any]) -> int:
        talk = self._said
        self._said += 1
        self._keys.set(f"say/{talk}", what)
        return talk

    def _sweep(self) -> None:
        """Delete what everyone has heard, or a long training would fill the store."""
        first, end = self._swept, self._swept + _SWEEP
        if self._said < end + _SWEEP or self._said % 16:
            return
        if self._keys.count(f"heard/{end}", 0) == len(self._others):
            self._swept = end
            for talk in range(first, end):
                self._keys.delete(f"say/{talk}")
            self._keys.delete(f"heard/{end}")
            for talk in [talk for talk in self._votes if talk < end]:
                self._votes.remove(talk)
                self._keys.delete(f"outcome/{talk}")
                for rank in self._others:
                    self._keys.delete(f"vote/{talk}/{rank}")


class Follower:
    """Another rank's side. ``next_step`` is the step at whose end the next talk begins; ``meets``
    says that there is one at each evaluation too. First of all comes ``gather``.

    Raises:
        PeersError: there is no store.
    """

    def __init__(self, identity: Identity, step: int) -> None:
        self._keys = JobStore(_prefix(identity))
        self._rank = identity.place.rank
        self.is_gathered = self.meets = False
        self.next_step = step + 1
        self._heard = 0
        self._has_asked = False

    def gather(self) -> None:
        """Answer the roll, at the end of the first step.

        Raises:
            PeersError: some rank takes no part; rank 0 knows it too.
        """
        self._keys.set(f"here/{self._rank}", True)
        self._keys.wait("verdict", _VERDICT_SECONDS)
        why = f"rank {self._rank} heard nothing from rank 0 in time"
        verdict = self._keys.settle("verdict", {"why": why})
        _check(verdict["why"])
        self.meets = bool(verdict["meets"])
        self.is_gathered = True

    def ask(self, command: Command) -> None:
        """Have rank 0 put this to the vote; the first of what other ranks ask counts.

        Raises:
            PeersError: it cannot be told.
        """
        self._has_asked = True
        self._keys.settle("ask", command.data())

    def hear(self, meanwhile: Callable[[], object]) -> Word:
        """Rank 0's next word; ``meanwhile`` is called now and then until it comes.

        Raises:
            PeersError: there will be none.
        """
        talk = self._heard
        said = self._await(f"say/{talk}", meanwhile, _HURRY_SECONDS)
        self._heard += 1
        if self._heard % _SWEEP == 0:
            self._keys.count(f"heard/{self._heard}", 1)
        if "off" in said:
            raise PeersError(said["off"])
        if "do" in said:
            return Word(Command.read(said["do"]))
        self.next_step = said["next"]
        return Word(None, said["next"], said["paused"])

    def vote(self, vote: Vote, meanwhile: Callable[[], object]) -> bool:
        """Vote on the command just heard; whether everyone applies it now.

        Raises:
            PeersError: nobody applies it.
        """
        talk = self._heard - 1
        name = f"outcome/{talk}"
        with self._keys.patience(SILENCE_SECONDS):  # the others may count on this rank from here on
            try:
                self._keys.set(f"vote/{talk}/{self._rank}", vote)
                outcome = self._await(name, meanwhile, _VOTE_SECONDS + _STILL_SECONDS)
            except BaseException as error:
                # Nobody is to apply it without this rank, unless everybody does already.
                why = f"rank {self._rank} takes no part any more: {one_line(error)}"
                outcome = self._keys.settle(name, why)
                if outcome is not True or comes_from_outside(error):
                    raise
        _check(outcome)
        return bool(outcome)

    def leave(self, why: str) -> None:
        """Take part no more. Raises nothing."""
        self._keys.post(f"gone/{self._rank}", f"rank {self._rank}: {why}")
        self._keys.close()

    def _await(self, name: str, meanwhile: Callable[[], object], hurry: float) -> Any:
        """The value of a key that rank 0 sets. ``hurry`` is how many seconds it may be silent once
        this rank is to end."""
        since, still = time.monotonic(), None
        while (value := self._keys.wait(name, _LOOK_SECONDS, meanwhile)) is None:
            before, still = still, self._keys.find("still")
            if still != before:
                since = time.monotonic()
            patience = hurry if self._has_asked else SILENCE_SECONDS
            if time.monotonic() - since > patience:
                raise PeersError(f"rank 0 said nothing for {patience:g} s")
        return value


def decline(identity: Identity, error: Exception) -> None:
    """Rank 0 has failed with this and will not lead: the others are not to wait for it."""
    if identity.place.rank == 0 and identity.place.world_size > 1:
        with contextlib.suppress(PeersError):  # without a store nobody waits
            store = JobStore(_prefix(identity))
            store.post("verdict", {"why": f"rank 0 has none ({one_line(error)})"})
            store.close()


def _prefix(identity: Identity) -> str:
    return f"lineside/control/{identity.attempt}"


def _check(why: object) -> None:
    """Raise what is a reason."""
    if isinstance(why, str) and why:
        raise PeersError(why)


def _ranks(ranks: list[int]) -> str:
    named = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return f"rank {named}" if len(ranks) == 1 else f"ranks {named}"
