"""What a rank other than 0 does about commands: as rank 0 says, at the step it says."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import Command
from lineside.emitter.control.effects import Act, Effects, Moment, NotYet, Refused
from lineside.emitter.control.peers import LATER, NO, YES, Follower, Vote
from lineside.emitter.spool.outside import comes_from_outside
from lineside.emitter.spool.page import PAUSED
from lineside.emitter.training.jobstore import PeersError
from lineside.emitter.training.notice import say
from lineside.emitter.training.publisher import Publisher
from lineside.emitter.training.snapshot import one_line


class Following:
    """Takes part in the talks of one attempt; has ``Steering``'s calls. For the training thread.

    What it applies it tells in its own rank's stream.
    """

    def __init__(self, publisher: Publisher, control: Any, step: int) -> None:
        self._publisher = publisher
        self._effects = Effects(control, is_alone=False)
        self._own: list[Command] = []
        self._otherwise: Callable[[], object] | None = None
        self._first_step = step + 1
        self._peers: Follower | None = None
        try:
            self._peers = Follower(publisher.identity, step)
        except PeersError as error:
            self._leave(error)

    @property
    def is_paused(self) -> bool:
        return self._effects.is_paused

    @property
    def meets(self) -> bool:
        """Whether rank 0 waits at evaluations for the stopper's word on them."""
        return self._peers is not None and self._peers.meets

    def is_due(self, step: int) -> bool:
        """Whether ``steer`` is to be called at the end of ``step``."""
        peers = self._peers
        return peers is not None and (step >= peers.next_step or self._effects.is_paused)

    def steer(self, moment: Moment) -> None:
        """Apply at ``step_end`` what the ranks agree on."""
        self._effects.forget()
        try:
            if self._peers is not None and not self._peers.is_gathered:
                self._peers.gather()
        except PeersError as error:
            self._leave(error)
        self._talk(moment)

    def hold(self, moment: Moment) -> None:
        """Stay in this hook as long as rank 0 does."""
        if not self._effects.holds_at(moment.hook):
            return
        try:
            with self._publisher.in_phase(PAUSED):
                self._talk(moment)
        except BaseException:
            self._effects.let_go()
            raise

    @property
    def takes_commands(self) -> bool:
        """Whether commands are applied at all."""
        return self._peers is not None

    def ask(self, command: Command, otherwise: Callable[[], object]) -> None:
        """Have rank 0 put a command of this process's own to the vote; ``otherwise`` is called if
        the ranks cannot agree any more before it is applied. A signal handler may call it."""
        self._own.append(command)
        self._otherwise = otherwise

    def announce(self) -> None:
        """Rank 0 publishes the evaluation."""

    def meet(self, moment: Moment) -> None:
        """Wait at an evaluation as rank 0 does, and do what it says."""
        if moment.state.global_step >= self._first_step:
            self._talk(moment)

    def close(self) -> None:
        """Take part no more."""
        self._end("training has ended there")

    def _talk(self, moment: Moment) -> None:
        if self._peers is None or not self._publisher.is_open:
            return
        try:
            self._meanwhile()
            while True:
                word = self._peers.hear(self._meanwhile)
                if word.command is None:
                    self._effects.is_paused = word.is_paused
                    return
                self._follow(self._peers, word.command, moment)
        except PeersError as error:
            self._leave(error)

    def _follow(self, peers: Follower, command: Command, moment: Moment) -> None:
        act: Act | None = None
        try:
            act = self._effects.prepare(command, moment)
            vote = Vote(YES)
        except NotYet:
            vote = Vote(LATER)
        except Refused as refused:
            vote = Vote(NO, str(refused))
        except Exception as error:
            if comes_from_outside(error):
                raise
            vote = Vote(NO, f"it failed: {one_line(error)}")
        if peers.vote(vote, self._meanwhile) and act is not None:
            data = {"id": command.id, "op": command.op, **act()}
            if command.op == "stop":
                self._otherwise = None
            state = moment.state
            self._publisher.emit(
                commands.APPLIED, state.global_step, state.epoch, 0, data, monotonic_ns()
            )

    def _meanwhile(self) -> None:
        if self._own and self._peers is not None:
            self._peers.ask(self._own.pop())
        self._publisher.tend_if_due()

    def _end(self, why: str) -> None:
        peers, self._peers = self._peers, None
        self._effects.let_go()
        if peers is not None:
            peers.leave(why)

    def _leave(self, error: PeersError) -> None:
        self._end(str(error))
        say(f"commands are off on rank {self._publisher.identity.place.rank}: {error}")
        if self._otherwise is not None:
            self._otherwise()
