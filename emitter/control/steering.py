"""Commands from outside, taken by rank 0 at the step boundary: applied, or refused with a reason.

Of several ranks each applies a command at the same step, or none does (``peers``). What a command
does to a Trainer is in ``effects``, what the other ranks do in ``following``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from lineside.bus.protocol import commands
from lineside.bus.protocol.commands import OPS, Command
from lineside.emitter.control.effects import Act, Effects, Moment, NotYet, Refused
from lineside.emitter.control.mailbox import Mailbox
from lineside.emitter.control.peers import LATER, NO, Leader
from lineside.emitter.control.rendezvous import VERDICTS, Rendezvous
from lineside.emitter.spool.outside import comes_from_outside
from lineside.emitter.spool.page import PAUSED
from lineside.emitter.training import exit as ending
from lineside.emitter.training.jobstore import PeersError
from lineside.emitter.training.notice import say
from lineside.emitter.training.publisher import Publisher
from lineside.emitter.training.snapshot import one_line

_UNSAVED = 'without a checkpoint of this step: save_strategy="best" leaves that to its evaluation'
_NAP_SECONDS = 0.02  # between looks for a command while training is paused


class Steering:
    """Takes the commands of one attempt. For the training thread of rank 0.

    ``is_due`` says that ``steer`` has something to do at this step's end, ``is_paused`` that
    ``hold`` is to be called at the hooks ``step_end``, ``log``, ``evaluate`` and ``save`` once
    their event is published. With ``wait_for_verdict`` seconds, ``meets`` says that ``announce``
    and ``meet`` are to be called before and after an evaluation is published.

    Raises:
        SettingsError, OSError: there can be no mailbox.
    """

    is_over = False

    def __init__(
        self, publisher: Publisher, control: Any, step: int, wait_for_verdict: float = 0.0
    ) -> None:
        self._publisher = publisher
        is_alone = publisher.identity.place.world_size == 1
        self._effects = Effects(control, is_alone=is_alone)
        self._mail = Mailbox(publisher)
        self._pending: list[Command] = []
        self._put_off: dict[str, int] = {}  # a command's id, the step at which it had to wait
        self._otherwise: dict[str, Callable[[], object]] = {}
        self._refusal = ""
        self._rendezvous = Rendezvous(publisher, wait_for_verdict) if wait_for_verdict else None
        self._first_step = step + 1
        self._peers: Leader | None = None
        if not is_alone:
            try:
                self._peers = Leader(publisher.identity, step, meets=self.meets)
            except PeersError as error:
                self._refuse_all(error)
        self._is_open = True
        self.earlier_error = ending.last_error()
        if self._peers is None:
            self._say_on(step)
        ending.watch(self)

    @property
    def is_paused(self) -> bool:
        return self._effects.is_paused

    @property
    def meets(self) -> bool:
        """Whether evaluations wait for the stopper's word on them."""
        return self._rendezvous is not None

    @property
    def takes_commands(self) -> bool:
        """Whether commands are applied at all."""
        return not self._refusal

    def is_due(self, step: int) -> bool:
        """Whether ``steer`` is to be called at the end of ``step``."""
        if self._peers is not None:
            return step >= self._peers.next_step or self._effects.is_paused
        return self._mail.has_news or bool(self._pending) or self._effects.is_paused

    def ask(self, command: Command, otherwise: Callable[[], object]) -> None:
        """Have a command of this process's own applied at the end of the step, as if it had come
        from outside; ``otherwise`` is called if it is refused. A signal handler may call it."""
        self._otherwise[command.id] = otherwise
        self._mail.post(command)

    def steer(self, moment: Moment) -> None:
        """Apply at ``step_end`` what came."""
        if self._is_open:
            self._effects.forget()
            self._gather(moment.state)
            try:
                self._take(moment.state)
                self._apply_all(moment)
            finally:
                self._end_talk(moment.state)

    def hold(self, moment: Moment) -> None:
        """Stay in this hook until training is to go on, or the Trainer has to do something.

        Whatever is raised meanwhile ends the pause: the script goes another way.
        """
        effects = self._effects
        if not effects.holds_at(moment.hook) or not self._is_open:
            return
        try:
            with self._publisher.in_phase(PAUSED):
                while effects.is_held and self._is_open:
                    self._publisher.tend_if_due()
                    self._take(moment.state)
                    self._apply_all(moment)
                    if time.monotonic() > effects.paused_until:
                        effects.let_go()
                    elif effects.is_held:
                        time.sleep(_NAP_SECONDS)
                        self._still()
        except BaseException:
            effects.let_go()
            raise
        finally:
            self._end_talk(moment.state)

    def announce(self) -> None:
        """An evaluation is published next."""
        if self._rendezvous is not None:
            self._rendezvous.announce()

    def meet(self, moment: Moment) -> None:
        """Wait at an evaluation for what the stopper says of it, and do it.

        Not before the first step, where the Trainer would forget what it is asked for.
        """
        has_begun = moment.state.global_step >= self._first_step
        if self._peers is not None and not self._peers.is_gathered:
            return  # no other rank would be there
        if self._rendezvous is not None and self._is_open and has_begun:
            try:
                self._rendezvous.wait(lambda: self._listen(moment))
            finally:
                self._end_talk(moment.state)

    def close(self, _how: str = "", _error: BaseException | None = None) -> None:
        """Take no more commands; those that wait are told that training ended before."""
        if not self._is_open:
            return
        state = _Nowhere(self._publisher.step)
        peers, self._peers = self._peers, None
        try:
            if peers is not None:
                peers.leave("training has ended on rank 0")
            self._take(state)
            for command in self._pending:
                why = "training ended before it could be applied"
                self._mail.answer(commands.REJECTED, command, state, why=why)
        finally:
            self.disable()
            self._pending.clear()
            try:
                self._mail.close()
            finally:
                ending.leave(self, self.unconfirmed())

    def disable(self) -> None:
        """Never do anything again, as in a forked child: the commands are its parent's."""
        self._is_open = False
        self._effects.let_go()

    def unconfirmed(self) -> ending.Unconfirmed:
        """The answers that the bus may not have confirmed yet."""
        return self._mail.unconfirmed()

    def _take(self, state: Any) -> None:
        if self._peers is not None:
            try:
                asked = self._peers.asked()
            except PeersError as error:
                self._refuse_all(error)
            else:
                if asked is not None:
                    self._mail.post(asked)
        self._pending += self._mail.take(state)

    def _listen(self, moment: Moment) -> bool:
        """Apply what a stopper may ask for at an evaluation; whether training is to end, or takes
        no commands any more."""
        if not self._is_open or self._rendezvous is None:
            return True
        self._take(moment.state)
        others = [command for command in self._pending if command.op not in VERDICTS]
        self._pending = [command for command in self._pending if command.op in VERDICTS]
        try:
            self._apply_all(moment)
        finally:
            self._pending += others  # for the end of a step
        self._still()
        return bool(moment.control.should_training_stop)

    def _apply_all(self, moment: Moment) -> None:
        # An evaluation first: what may be saved besides depends on it.
        waiting = deque(sorted(self._pending, key=lambda command: command.op != "evaluate"))
        self._pending = []
        try:
            while waiting:
                if not self._apply_one(waiting[0], waiting, moment):
                    self._pending.append(waiting[0])
                waiting.popleft()
        finally:
            self._pending += waiting

    def _apply_one(
        self, command: Command, waiting: Iterable[Command], moment: Moment, **more: str
    ) -> bool:
        """Answer it, an application with ``more``; False if it has to wait."""
        answer, state, now = self._mail.answer, moment.state, time.time()
        newer = [c for c in waiting if c.op == "set_lr" and now <= c.expires_at][-1:]
        try:
            if now > command.expires_at:
                answer(commands.EXPIRED, command, state)
            elif command.op == "set_lr" and newer[0] is not command:
                answer(commands.SUPERSEDED, command, state, by=newer[0].id)
            else:
                done = self._agreed(command, moment)()
                answer(commands.APPLIED, command, state, **done, **more)
                self._otherwise.pop(command.id, None)
        except NotYet:
            if command.op != "stop" or not self._waits_in_vain(command, state):
                return False
            unsaved = replace(command, args={"save": False})
            return self._apply_one(unsaved, waiting, moment, why=_UNSAVED)
        except Refused as refused:
            answer(commands.REJECTED, command, state, why=str(refused))
        except Exception as error:
            if comes_from_outside(error):
                raise
            answer(commands.REJECTED, command, state, why=f"it failed: {one_line(error)}")
        self._otherwise.pop(command.id, _nothing)()
        return True

    def _waits_in_vain(self, command: Command, state: Any) -> bool:
        """Whether a stop has waited for a step to save already, or none is going to come.

        Each step may be like this one, and that training ends was asked for above all.
        """
        since = self._put_off.setdefault(command.id, state.global_step)
        return self.is_paused or state.global_step > since

    def _agreed(self, command: Command, moment: Moment) -> Act:
        """What applies it, once every rank has said that it can and will.

        Raises:
            Refused, NotYet: no rank applies it now.
        """
        if self._refusal:
            raise Refused(self._refusal)
        if command.op == "proceed":
            if self._rendezvous is None:
                raise Refused("nothing waits for a word on that evaluation")
            self._rendezvous.hear(**command.args)
            return dict
        act = self._effects.prepare(command, moment)
        if self._peers is not None:
            try:
                vote = self._peers.agree(command)
            except PeersError as error:
                self._refuse_all(error)
                raise Refused(self._refusal) from None
            if vote.answer == NO:
                raise Refused(vote.why)
            if vote.answer == LATER:
                raise NotYet
        return act

    def _gather(self, state: Any) -> None:
        if self._peers is not None and not self._peers.is_gathered:
            try:
                self._peers.gather()
            except PeersError as error:
                self._refuse_all(error)
            self._say_on(state.global_step)

    def _say_on(self, step: int) -> None:
        ops = [] if self._refusal else list(OPS)
        self._mail.say_on(step, {"ops": ops, "why": self._refusal or None})

    def _still(self) -> None:
        if self._peers is not None:
            try:
                self._peers.still()
            except PeersError as error:
                self._refuse_all(error)

    def _end_talk(self, state: Any) -> None:
        if self._peers is not None:
            try:
                self._peers.go(state.global_step, self._effects.is_paused)
            except PeersError as error:
                self._refuse_all(error)

    def _refuse_all(self, error: PeersError) -> None:
        """The ranks cannot agree any more: training goes on, and no rank is held up again."""
        peers, self._peers = self._peers, None
        self._rendezvous = None
        self._refusal = f"training runs in several processes that cannot agree: {error}"
        say(f"commands are off: {self._refusal}")
        self._effects.let_go()
        if peers is not None:
            peers.leave(str(error))
            if peers.is_gathered:  # it was said that commands are taken
                self._say_on(self._publisher.step)


def _nothing() -> None:
    """Nobody wanted to know that a command was refused."""


class _Nowhere:
    """What is known of a Trainer's state where there is none at hand."""

    def __init__(self, step: int) -> None:
        self.global_step = step
        self.epoch: float | None = None
