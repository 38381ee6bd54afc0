"""Applies commands on rank 0 at the end of a step, or rejects them with a reason.

With several ranks each applies a command at the same step, or none does (``consensus``).
``trainer_actions`` changes the Trainer; ``follower`` is the executor of the other ranks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import OPS, Command
from lineside.emitter.control.command_channel import CommandChannel
from lineside.emitter.control.consensus import LATER, NO, YES, Leader, SoloLeader, Vote
from lineside.emitter.control.evaluation_wait import EVALUATION_OPS, EvaluationWait
from lineside.emitter.control.trainer_actions import Action, HookContext, TrainerActions
from lineside.emitter.spool.confirmation import Unconfirmed
from lineside.emitter.spool.script_errors import is_script_error
from lineside.emitter.spool.status_page import PAUSED
from lineside.emitter.training import shutdown
from lineside.emitter.training.console import print_once
from lineside.emitter.training.error_facts import one_line
from lineside.emitter.training.job_store import ConsensusError
from lineside.emitter.training.publisher import Publisher

_UNSAVED = 'without a checkpoint of this step: save_strategy="best" leaves that to its evaluation'
_POLL_SECONDS = 0.02  # between looks for a command while training is paused
T = TypeVar("T")


class LeaderExecutor:
    """Applies the commands of one attempt, on rank 0. For the training thread.

    With ``wait_for_stopper`` seconds, training waits at evaluations for the stopper.

    Raises:
        SettingsError, OSError: the command channel's folder cannot be made.
    """

    training_ended = False

    def __init__(
        self, publisher: Publisher, control: Any, step: int, wait_for_stopper: float = 0.0
    ) -> None:
        self._publisher = publisher
        is_single_process = publisher.identity.rank_info.world_size == 1
        self._actions = TrainerActions(control, is_single_process=is_single_process)
        self._channel = CommandChannel(publisher)
        self._pending: list[Command] = []
        self._deferred_since: dict[str, int] = {}  # command id -> the first step it waited at
        self._on_refused: dict[str, Callable[[], object]] = {}
        self._refusal_reason = ""
        self._evaluation_wait = (
            EvaluationWait(publisher, wait_for_stopper) if wait_for_stopper else None
        )
        self._first_step = step + 1
        self._leader: Leader | SoloLeader = SoloLeader()
        if not is_single_process:
            try:
                self._leader = Leader(
                    publisher.identity, step, syncs_evaluations=self.syncs_evaluations
                )
            except ConsensusError as error:
                self._disable_control(error)
        self._is_open = True
        self.error_at_open = shutdown.last_error()
        if self._leader.is_alone:
            self._publish_control_on(step)
        shutdown.register(self)

    @property
    def is_paused(self) -> bool:
        return self._actions.is_paused

    @property
    def syncs_evaluations(self) -> bool:
        """Whether training waits at evaluations for the stopper."""
        return self._evaluation_wait is not None

    @property
    def takes_commands(self) -> bool:
        """Whether commands are applied at all."""
        return not self._refusal_reason

    def is_due(self, state: Any) -> bool:
        """Whether ``apply_commands`` is to be called at the end of this step."""
        if self._actions.is_paused:
            return True
        if self._leader.is_alone:
            return self._channel.has_pending or bool(self._pending)
        return bool(state.global_step >= self._leader.next_step)

    def request(self, command: Command, on_refused: Callable[[], object]) -> None:
        """Apply a command of this process at the end of the step, as one from a client.

        ``on_refused`` is called if it is not applied. A signal handler may call this.
        """
        self._on_refused[command.id] = on_refused
        self._channel.enqueue(command)

    def apply_commands(self, context: HookContext) -> None:
        """Apply the commands that arrived; at ``step_end`` only."""
        if self._is_open:
            self._actions.forget_expected()
            self._handshake(context.state)
            try:
                self._receive(context.state)
                self._apply_all(context)
            finally:
                self._end_round(context.state)

    def wait_while_paused(self, context: HookContext) -> None:
        """Return once training is resumed, or the Trainer has something to do.

        An exception ends the pause, because it leaves the training loop.
        """
        actions = self._actions
        if not actions.should_wait_at(context.hook) or not self._is_open:
            return
        try:
            with self._publisher.in_phase(PAUSED):
                while actions.should_wait and self._is_open:
                    self._publisher.maintain_if_due()
                    self._receive(context.state)
                    self._apply_all(context)
                    if time.monotonic() > actions.paused_until:
                        actions.end_pause()
                    elif actions.should_wait:
                        time.sleep(_POLL_SECONDS)
                        self._call_ranks(self._leader.keepalive)
        except BaseException:
            actions.end_pause()
            raise
        finally:
            self._end_round(context.state)

    def before_evaluation(self) -> None:
        """Note that an evaluation is published next."""
        if self._evaluation_wait is not None:
            self._evaluation_wait.before_evaluation()

    def sync_evaluation(self, context: HookContext) -> None:
        """Wait for the stopper to review the evaluation, and apply its commands.

        Not before the first step: there the Trainer resets its flags after an evaluation.
        """
        has_begun = context.state.global_step >= self._first_step
        if not self._leader.is_ready:
            return  # the other ranks would not take part
        if self._evaluation_wait is not None and self._is_open and has_begun:
            try:
                self._evaluation_wait.wait(lambda: self._poll_commands(context))
            finally:
                self._end_round(context.state)

    def close(self, _how: str = "", _error: BaseException | None = None) -> None:
        """Take no more commands, and reject those that wait."""
        if not self._is_open:
            return
        state = _StateStub(self._publisher.step)
        leader, self._leader = self._leader, SoloLeader()
        try:
            leader.leave("training has ended on rank 0")
            self._receive(state)
            for command in self._pending:
                why = "training ended before it could be applied"
                self._channel.answer(commands.REJECTED, command, state, why=why)
        finally:
            self._stop()
            self._pending.clear()
            try:
                self._channel.close()
            finally:
                shutdown.unregister(self, self._channel.unconfirmed())

    def disable(self) -> None:
        """Do nothing from now on, in a forked child: the commands are its parent's."""
        self._stop()
        self._channel.abandon()

    def let_go(self, *, may_close: bool) -> None:
        """Keep the files: training goes on until ``close``."""

    def unconfirmed(self) -> list[Unconfirmed]:
        """Answers that the bus may not have confirmed yet."""
        return [self._channel.unconfirmed()]

    def _stop(self) -> None:
        self._is_open = False
        self._actions.end_pause()

    def _receive(self, state: Any) -> None:
        requested = self._call_ranks(self._leader.requested)
        if requested is not None:
            self._channel.enqueue(requested)
        self._pending += self._channel.receive(state)
        if self._evaluation_wait is not None:
            self._evaluation_wait.on_reviewed(self._channel.reviewed_seq)

    def _poll_commands(self, context: HookContext) -> bool:
        """Apply a stopper's commands at an evaluation; whether there is no reason to wait on."""
        if not self._is_open or self._evaluation_wait is None:
            return True
        self._receive(context.state)
        others = [command for command in self._pending if command.op not in EVALUATION_OPS]
        self._pending = [command for command in self._pending if command.op in EVALUATION_OPS]
        try:
            self._apply_all(context)
        finally:
            self._pending += others  # they are applied at the end of a step
        self._call_ranks(self._leader.keepalive)
        return bool(context.control.should_training_stop)

    def _apply_all(self, context: HookContext) -> None:
        # An evaluation first: whether a save is possible depends on it.
        waiting = deque(sorted(self._pending, key=lambda command: command.op != "evaluate"))
        self._pending = []
        try:
            while waiting:
                if not self._apply_one(waiting[0], waiting, context):
                    self._pending.append(waiting[0])
                waiting.popleft()
        finally:
            self._pending += waiting

    def _apply_one(
        self, command: Command, waiting: Iterable[Command], context: HookContext
    ) -> bool:
        """Apply or reject it and publish the answer; False if it has to wait."""
        answer, state, now = self._channel.answer, context.state, time.time()
        newer = [c for c in waiting if c.op == "set_lr" and now <= c.expires_at][-1:]
        try:
            if now > command.expires_at:
                answer(commands.EXPIRED, command, state)
            elif command.op == "set_lr" and newer[0] is not command:
                answer(commands.SUPERSEDED, command, state, by=newer[0].id)
            else:
                more: dict[str, Any] = {}
                vote, action = self._vote(command, context)
                if vote.answer == LATER and self._gives_up_saving(command, state):
                    command, more = replace(command, args={"save": False}), {"why": _UNSAVED}
                    vote, action = self._vote(command, context)
                if vote.answer == LATER:
                    return False
                if vote.answer == NO:
                    answer(commands.REJECTED, command, state, why=vote.why)
                else:
                    answer(commands.APPLIED, command, state, **action(), **more)
                    self._on_refused.pop(command.id, None)
        except Exception as error:
            if is_script_error(error):
                raise
            answer(commands.REJECTED, command, state, why=f"it failed: {one_line(error)}")
        self._on_refused.pop(command.id, _do_nothing)()
        return True

    def _gives_up_saving(self, command: Command, state: Any) -> bool:
        """Whether a stop is applied without its save: it waited for a step already, or training is
        paused. Each step may be like this one, and to stop counts more than to save."""
        if command.op != "stop":
            return False
        since = self._deferred_since.setdefault(command.id, state.global_step)
        return self.is_paused or state.global_step > since

    def _vote(self, command: Command, context: HookContext) -> tuple[Vote, Action]:
        """Whether every rank can apply it now and will, and the action that applies it here."""
        if self._refusal_reason:
            return Vote(NO, self._refusal_reason), dict
        vote, action = self._actions.vote(command, context)
        if vote.answer == YES:
            vote = self._call_ranks(self._leader.agree, command) or Vote(NO, self._refusal_reason)
        return vote, action

    def _handshake(self, state: Any) -> None:
        if not self._leader.is_ready:
            self._call_ranks(self._leader.handshake)
            self._publish_control_on(state.global_step)

    def _publish_control_on(self, step: int) -> None:
        ops = [] if self._refusal_reason else list(OPS)
        self._channel.publish_control_on(step, {"ops": ops, "why": self._refusal_reason or None})

    def _end_round(self, state: Any) -> None:
        self._call_ranks(self._leader.end_round, state.global_step, self._actions.is_paused)

    def _call_ranks(self, call: Callable[..., T], *args: Any) -> T | None:
        """The result of a call of the leader; None, and control is off, if the ranks disagree."""
        try:
            return call(*args)
        except ConsensusError as error:
            self._disable_control(error)
            return None

    def _disable_control(self, error: ConsensusError) -> None:
        """Take no commands any more: training goes on, and no rank waits for another again."""
        leader, self._leader = self._leader, SoloLeader()
        self._evaluation_wait = None
        self._refusal_reason = f"training runs in several processes that cannot agree: {error}"
        print_once(f"commands are off: {self._refusal_reason}")
        self._actions.end_pause()
        leader.leave(str(error))
        if leader.is_ready and not leader.is_alone:  # control_on named the commands before
            self._publish_control_on(self._publisher.step)


def _do_nothing() -> None:
    """No one asked for a call when the command is refused."""


class _StateStub:
    """The fields of a TrainerState that an answer needs, for a time without a Trainer."""

    def __init__(self, step: int) -> None:
        self.global_step = step
        self.epoch: float | None = None
