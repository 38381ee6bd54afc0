"""Commands from outside, taken by rank 0 at the step boundary: applied, or refused with a reason.

Of several ranks each applies a command at the same step, or none does (``consensus``). What a
command
does to a Trainer is in ``actions``, what the other ranks do in ``following``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import OPS, Command
from lineside.emitter.control.command_channel import CommandChannel
from lineside.emitter.control.consensus import LATER, NO, Leader
from lineside.emitter.control.evaluation_wait import EVALUATION_OPS, EvaluationWait
from lineside.emitter.control.trainer_actions import (
    Action,
    HookContext,
    Postponed,
    Refused,
    TrainerActions,
)
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


class LeaderExecutor:
    """Takes the commands of one attempt. For the training thread of rank 0.

    ``is_due`` says that ``apply_commands`` has something to do at this step's end, ``is_paused``
    that
    ``hold`` is to be called at the hooks ``step_end``, ``log``, ``evaluate`` and ``save`` once
    their event is published. With ``wait_for_stopper`` seconds, ``syncs_evaluations`` says that
    ``before_evaluation``
    and ``meet`` are to be called before and after an evaluation is published.

    Raises:
        SettingsError, OSError: there can be no mailbox.
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
        self._deferred_since: dict[
            str, int
        ] = {}  # a command's id, the step at which it had to wait
        self._on_refused: dict[str, Callable[[], object]] = {}
        self._refusal_reason = ""
        self._evaluation_wait = (
            EvaluationWait(publisher, wait_for_stopper) if wait_for_stopper else None
        )
        self._first_step = step + 1
        self._consensus: Leader | None = None
        if not is_single_process:
            try:
                self._consensus = Leader(
                    publisher.identity, step, syncs_evaluations=self.syncs_evaluations
                )
            except ConsensusError as error:
                self._disable_control(error)
        self._is_open = True
        self.error_at_open = shutdown.last_error()
        if self._consensus is None:
            self._publish_control_on(step)
        shutdown.register(self)

    @property
    def is_paused(self) -> bool:
        return self._actions.is_paused

    @property
    def syncs_evaluations(self) -> bool:
        """Whether evaluations wait for the stopper's word on them."""
        return self._evaluation_wait is not None

    @property
    def takes_commands(self) -> bool:
        """Whether commands are applied at all."""
        return not self._refusal_reason

    def is_due(self, state: Any) -> bool:
        """Whether ``apply_commands`` is to be called at the end of this step."""
        if self._consensus is not None:
            return state.global_step >= self._consensus.next_step or self._actions.is_paused
        return self._channel.has_pending or bool(self._pending) or self._actions.is_paused

    def request(self, command: Command, on_refused: Callable[[], object]) -> None:
        """Have a command of this process's own applied at the end of the step, as if it had come
        from outside; ``on_refused`` is called if it is refused. A signal handler may call it."""
        self._on_refused[command.id] = on_refused
        self._channel.enqueue(command)

    def apply_commands(self, context: HookContext) -> None:
        """Apply at ``step_end`` what came."""
        if self._is_open:
            self._actions.forget_expected()
            self._handshake(context.state)
            try:
                self._receive(context.state)
                self._apply_all(context)
            finally:
                self._end_round(context.state)

    def wait_while_paused(self, context: HookContext) -> None:
        """Stay in this hook until training is to go on, or the Trainer has to do something.

        Whatever is raised meanwhile ends the pause: the script goes another way.
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
                        self._send_keepalive()
        except BaseException:
            actions.end_pause()
            raise
        finally:
            self._end_round(context.state)

    def before_evaluation(self) -> None:
        """An evaluation is published next."""
        if self._evaluation_wait is not None:
            self._evaluation_wait.before_evaluation()

    def sync_evaluation(self, context: HookContext) -> None:
        """Wait at an evaluation for what the stopper says of it, and do it.

        Not before the first step, where the Trainer would forget what it is asked for.
        """
        has_begun = context.state.global_step >= self._first_step
        if self._consensus is not None and not self._consensus.is_ready:
            return  # no other rank would be there
        if self._evaluation_wait is not None and self._is_open and has_begun:
            try:
                self._evaluation_wait.wait(lambda: self._poll_commands(context))
            finally:
                self._end_round(context.state)

    def close(self, _how: str = "", _error: BaseException | None = None) -> None:
        """Take no more commands; those that wait are told that training ended before."""
        if not self._is_open:
            return
        state = _StateStub(self._publisher.step)
        consensus, self._consensus = self._consensus, None
        try:
            if consensus is not None:
                consensus.leave("training has ended on rank 0")
            self._receive(state)
            for command in self._pending:
                why = "training ended before it could be applied"
                self._channel.answer(commands.REJECTED, command, state, why=why)
        finally:
            self.disable()
            self._pending.clear()
            try:
                self._channel.close()
            finally:
                shutdown.unregister(self, self._channel.unconfirmed())

    def disable(self) -> None:
        """Never do anything again, as in a forked child: the commands are its parent's."""
        self._is_open = False
        self._actions.end_pause()

    def unconfirmed(self) -> list[Unconfirmed]:
        """Answers that the bus may not have confirmed yet."""
        return [self._channel.unconfirmed()]

    def _receive(self, state: Any) -> None:
        if self._consensus is not None:
            try:
                requested = self._consensus.requested()
            except ConsensusError as error:
                self._disable_control(error)
            else:
                if requested is not None:
                    self._channel.enqueue(requested)
        self._pending += self._channel.receive(state)
        if self._evaluation_wait is not None:
            self._evaluation_wait.on_reviewed(self._channel.reviewed_seq)

    def _poll_commands(self, context: HookContext) -> bool:
        """Apply what a stopper may ask for at an evaluation; whether training is to end, or takes
        no commands any more."""
        if not self._is_open or self._evaluation_wait is None:
            return True
        self._receive(context.state)
        others = [command for command in self._pending if command.op not in EVALUATION_OPS]
        self._pending = [command for command in self._pending if command.op in EVALUATION_OPS]
        try:
            self._apply_all(context)
        finally:
            self._pending += others  # for the end of a step
        self._send_keepalive()
        return bool(context.control.should_training_stop)

    def _apply_all(self, context: HookContext) -> None:
        # An evaluation first: what may be saved besides depends on it.
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
        self, command: Command, waiting: Iterable[Command], context: HookContext, **more: str
    ) -> bool:
        """Answer it, an application with ``more``; False if it has to wait."""
        answer, state, now = self._channel.answer, context.state, time.time()
        newer = [c for c in waiting if c.op == "set_lr" and now <= c.expires_at][-1:]
        try:
            if now > command.expires_at:
                answer(commands.EXPIRED, command, state)
            elif command.op == "set_lr" and newer[0] is not command:
                answer(commands.SUPERSEDED, command, state, by=newer[0].id)
            else:
                done = self._prepare_on_all_ranks(command, context)()
                answer(commands.APPLIED, command, state, **done, **more)
                self._on_refused.pop(command.id, None)
        except Postponed:
            if command.op != "stop" or not self._gives_up_saving(command, state):
                return False
            unsaved = replace(command, args={"save": False})
            return self._apply_one(unsaved, waiting, context, why=_UNSAVED)
        except Refused as refused:
            answer(commands.REJECTED, command, state, why=str(refused))
        except Exception as error:
            if is_script_error(error):
                raise
            answer(commands.REJECTED, command, state, why=f"it failed: {one_line(error)}")
        self._on_refused.pop(command.id, _do_nothing)()
        return True

    def _gives_up_saving(self, command: Command, state: Any) -> bool:
        """Whether a stop has waited for a step to save already, or none is going to come.

        Each step may be like this one, and that training ends was asked for above all.
        """
        since = self._deferred_since.setdefault(command.id, state.global_step)
        return self.is_paused or state.global_step > since

    def _prepare_on_all_ranks(self, command: Command, context: HookContext) -> Action:
        """What applies it, once every rank has said that it can and will.

        Raises:
            Refused, NotYet: no rank applies it now.
        """
        if self._refusal_reason:
            raise Refused(self._refusal_reason)
        action = self._actions.prepare(command, context)
        if self._consensus is not None:
            try:
                vote = self._consensus.agree(command)
            except ConsensusError as error:
                self._disable_control(error)
                raise Refused(self._refusal_reason) from None
            if vote.answer == NO:
                raise Refused(vote.why)
            if vote.answer == LATER:
                raise Postponed
        return action

    def _handshake(self, state: Any) -> None:
        if self._consensus is not None and not self._consensus.is_ready:
            try:
                self._consensus.handshake()
            except ConsensusError as error:
                self._disable_control(error)
            self._publish_control_on(state.global_step)

    def _publish_control_on(self, step: int) -> None:
        ops = [] if self._refusal_reason else list(OPS)
        self._channel.publish_control_on(step, {"ops": ops, "why": self._refusal_reason or None})

    def _send_keepalive(self) -> None:
        if self._consensus is not None:
            try:
                self._consensus.keepalive()
            except ConsensusError as error:
                self._disable_control(error)

    def _end_round(self, state: Any) -> None:
        if self._consensus is not None:
            try:
                self._consensus.end_round(state.global_step, self._actions.is_paused)
            except ConsensusError as error:
                self._disable_control(error)

    def _disable_control(self, error: ConsensusError) -> None:
        """The ranks cannot agree any more: training goes on, and no rank is held up again."""
        consensus, self._consensus = self._consensus, None
        self._evaluation_wait = None
        self._refusal_reason = f"training runs in several processes that cannot agree: {error}"
        print_once(f"commands are off: {self._refusal_reason}")
        self._actions.end_pause()
        if consensus is not None:
            consensus.leave(str(error))
            if consensus.is_ready:  # it was said that commands are taken
                self._publish_control_on(self._publisher.step)


def _do_nothing() -> None:
    """Nobody wanted to know that a command was refused."""


class _StateStub:
    """What is known of a Trainer's state where there is none at hand."""

    def __init__(self, step: int) -> None:
        self.global_step = step
        self.epoch: float | None = None
