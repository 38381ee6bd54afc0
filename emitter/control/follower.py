"""Applies commands on the other ranks, at the step that rank 0 chooses."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import Command
from lineside.emitter.control.consensus import YES, Follower
from lineside.emitter.control.trainer_actions import HookContext, TrainerActions
from lineside.emitter.spool.confirmation import Unconfirmed
from lineside.emitter.spool.status_page import PAUSED
from lineside.emitter.training.console import print_once
from lineside.emitter.training.job_store import ConsensusError
from lineside.emitter.training.publisher import Publisher


class FollowerExecutor:
    """Takes part in the sync rounds of one attempt. For the training thread.

    It publishes what it applies in the stream of its rank.
    """

    def __init__(self, publisher: Publisher, control: Any, step: int) -> None:
        self._publisher = publisher
        self._actions = TrainerActions(control, is_single_process=False)
        self._own_commands: list[Command] = []
        self._on_refused: Callable[[], object] | None = None
        self._first_step = step + 1
        self._consensus: Follower | None = None
        try:
            self._consensus = Follower(publisher.identity, step)
        except ConsensusError as error:
            self._disable_control(error)

    @property
    def is_paused(self) -> bool:
        return self._actions.is_paused

    @property
    def syncs_evaluations(self) -> bool:
        """Whether training waits at evaluations for the stopper."""
        return self._consensus is not None and self._consensus.syncs_evaluations

    def is_due(self, state: Any) -> bool:
        """Whether ``apply_commands`` is to be called at the end of this step."""
        consensus = self._consensus
        return consensus is not None and (
            state.global_step >= consensus.next_step or self._actions.is_paused
        )

    def apply_commands(self, context: HookContext) -> None:
        """Apply the commands on which the ranks agree; at ``step_end`` only."""
        self._actions.forget_expected()
        try:
            if self._consensus is not None and not self._consensus.is_ready:
                self._consensus.handshake()
        except ConsensusError as error:
            self._disable_control(error)
        self._run_round(context)

    def wait_while_paused(self, context: HookContext) -> None:
        """Wait as long as rank 0 does."""
        if not self._actions.should_wait_at(context.hook):
            return
        try:
            with self._publisher.in_phase(PAUSED):
                self._run_round(context)
        except BaseException:
            self._actions.end_pause()
            raise

    @property
    def takes_commands(self) -> bool:
        """Whether commands are applied at all."""
        return self._consensus is not None

    def request(self, command: Command, on_refused: Callable[[], object]) -> None:
        """Have rank 0 put a command of this process to the vote.

        ``on_refused`` is called if the ranks can no longer agree before it is applied. A signal
        handler may call this.
        """
        self._own_commands.append(command)
        self._on_refused = on_refused

    def before_evaluation(self) -> None:
        """Nothing to note: rank 0 publishes the evaluation."""

    def sync_evaluation(self, context: HookContext) -> None:
        """Wait as long as rank 0 does, and apply its commands."""
        if context.state.global_step >= self._first_step:
            self._run_round(context)

    def close(self) -> None:
        """Take part no more."""
        self._disconnect("training has ended there")

    def unconfirmed(self) -> list[Unconfirmed]:
        """Nothing: answers of this rank are in its own stream."""
        return []

    def _run_round(self, context: HookContext) -> None:
        if self._consensus is None or not self._publisher.is_open:
            return
        try:
            self._on_poll()
            while True:
                message = self._consensus.receive(self._on_poll)
                if message.command is None:
                    self._actions.is_paused = message.is_paused
                    return
                self._vote_and_apply(self._consensus, message.command, context)
        except ConsensusError as error:
            self._disable_control(error)

    def _vote_and_apply(self, consensus: Follower, command: Command, context: HookContext) -> None:
        vote, action = self._actions.vote(command, context)
        if consensus.vote(vote, self._on_poll) and vote.answer == YES:
            data = {"id": command.id, "op": command.op, **action()}
            if command.op == "stop":
                self._on_refused = None
            state = context.state
            self._publisher.emit(
                commands.APPLIED, state.global_step, state.epoch, 0, data, monotonic_ns()
            )

    def _on_poll(self) -> None:
        if self._own_commands and self._consensus is not None:
            self._consensus.request(self._own_commands.pop())
        self._publisher.maintain_if_due()

    def _disconnect(self, why: str) -> None:
        consensus, self._consensus = self._consensus, None
        self._actions.end_pause()
        if consensus is not None:
            consensus.leave(why)

    def _disable_control(self, error: ConsensusError) -> None:
        self._disconnect(str(error))
        print_once(f"commands are off on rank {self._publisher.identity.rank_info.rank}: {error}")
        if self._on_refused is not None:
            self._on_refused()
