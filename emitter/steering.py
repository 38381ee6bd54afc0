"""Commands from outside, taken at the step boundary: applied, or refused with a reason.

A TrainerControl's flags are honoured only if they are set at the right hook, and some kill the
training where they cannot be followed. What is asked for while training is held up (``pause``) is
done by the Trainer, so the hook lets go for it and holds on at the one that says it is done.
"""

from __future__ import annotations

import math
import sys
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any, NamedTuple

from lineside.bus import commands
from lineside.bus.commands import OPS, Command
from lineside.bus.errors import CommandError
from lineside.bus.events import Stream
from lineside.emitter import exit as ending
from lineside.emitter import inbox, rates
from lineside.emitter.notice import say
from lineside.emitter.outside import comes_from_outside
from lineside.emitter.page import INBOX, PHASE, PHASES
from lineside.emitter.publisher import Publisher
from lineside.emitter.snapshot import one_line
from lineside.emitter.spool import SpoolWriter

_PAUSED = PHASES.index("paused")
_LONGEST_PAUSE = 86_400.0  # seconds, unless the command says otherwise
_NAP_SECONDS = 0.02  # between looks for a command while training is paused
# What the Trainer can still be asked for at a hook of the same step; the rest is done already.
_STILL = {
    "step_end": frozenset({"log", "evaluate", "save"}),
    "log": frozenset({"evaluate", "save"}),
    "evaluate": frozenset({"save"}),
    "save": frozenset[str](),
}


class _Refused(Exception):
    """Why a command is not applied."""


class _NotYet(Exception):
    """The command has to wait for another step."""


class Moment(NamedTuple):
    """A hook, and what the Trainer gave it."""

    hook: str
    args: Any
    state: Any
    control: Any
    given: Mapping[str, Any]


class Steering:
    """Takes the commands of one attempt. For the training thread.

    ``is_due`` says that ``steer`` has something to do at this step's end, ``is_paused`` that
    ``hold`` is to be called at the hooks ``step_end``, ``log``, ``evaluate`` and ``save`` once
    their event is published. The answers are a stream of their own, ``run/control/<attempt>``.

    Raises:
        SettingsError, OSError: its folder in the spool cannot be made.
    """

    def __init__(self, publisher: Publisher, control: Any, step: int) -> None:
        identity = publisher.identity
        self.is_paused = False
        self._publisher = publisher
        self._trainer = _find_trainer(control)
        unconfirmed = publisher.unconfirmed()
        stream = Stream(identity.run, commands.PRODUCER, identity.attempt)
        self._spool = SpoolWriter(unconfirmed.spool, stream, role="control")
        self._ensure_shipper = unconfirmed.ensure_shipper
        self._refusal = ""
        if identity.place.world_size > 1:
            self._refusal = (
                f"training runs in {identity.place.world_size} processes, and commands are applied "
                "in a single one only"
            )
        self._read = 0  # bytes of the inbox
        self._known: set[str] = set()
        self._pending: list[Command] = []
        # Asked of the Trainer in a pause, and how often the hook that says it is done is to come.
        self._awaited: Counter[str] = Counter()
        self._paused_until = math.inf
        self._is_open = True
        self.earlier_error = ending.last_error()
        facts = {"ops": [] if self._refusal else list(OPS), "why": self._refusal or None}
        self._spool.write(commands.CONTROL_ON, step, data=facts)
        publisher.tended.append(self._spool.tend)
        ending.watch(self)

    @property
    def is_due(self) -> bool:
        words: Any = self._spool.words
        return words[INBOX] != self._read or bool(self._pending) or self.is_paused

    def steer(self, moment: Moment) -> None:
        """Apply at ``step_end`` what came."""
        if self._is_open:
            self._awaited.clear()
            self._take(moment.state)
            self._apply_all(moment)

    def hold(self, moment: Moment) -> None:
        """Stay in this hook until training is to go on, or the Trainer has to do something.

        Whatever is raised meanwhile ends the pause: the script goes another way.
        """
        if moment.hook != "step_end" and not self._is_done(moment.hook):
            return
        if self._awaited or not self._is_open:
            return
        words: Any = self._publisher.words
        phase, words[PHASE] = words[PHASE], _PAUSED
        try:
            while self.is_paused and not self._awaited and self._is_open:
                self._publisher.tend_if_due()
                self._take(moment.state)
                self._apply_all(moment)
                if time.monotonic() > self._paused_until:
                    self.is_paused = False
                elif self.is_paused and not self._awaited:
                    time.sleep(_NAP_SECONDS)
        except BaseException:
            self.is_paused = False
            self._awaited.clear()
            raise
        finally:
            self._publisher.words[PHASE] = phase

    def close(self, _how: str = "", _error: BaseException | None = None) -> None:
        """Take no more commands; those that wait are told that training ended before."""
        if not self._is_open:
            return
        state = _Nowhere(self._publisher.step)
        try:
            self._take(state)
            for command in self._pending:
                why = "training ended before it could be applied"
                self._answer(commands.REJECTED, command, state, why=why)
        finally:
            self._is_open, self.is_paused = False, False
            self._pending.clear()
            self._spool.settle()
            self._publisher.tended.remove(self._spool.tend)
            ending.leave(self, self.unconfirmed())
            self._spool.close()

    def disable(self) -> None:
        """This is a forked child: the commands are its parent's."""
        self._is_open = self.is_paused = False

    def unconfirmed(self) -> ending.Unconfirmed:
        """The answers that the bus may not have confirmed yet."""
        folder = self._spool.folder
        return ending.Unconfirmed(
            folder.page, self._spool.settled_seq, folder.root, self._ensure_shipper
        )

    def _take(self, state: Any) -> None:
        end: int = self._spool.words[INBOX]
        first = self._read if self._read <= end else 0  # somebody removed the spool meanwhile
        if first == end:
            return
        try:
            events = inbox.read(self._spool.folder.path, first, end)
        except OSError as error:
            if comes_from_outside(error):
                raise
            say(f"commands cannot be read now: {error}")
            return
        self._read = end
        for event in events:
            if event.kind == commands.COMMAND:
                self._take_one(event.data, state)

    def _take_one(self, data: Mapping[str, Any] | None, state: Any) -> None:
        name = str((data or {}).get("id") or "")
        if not name or name in self._known:
            return
        self._known.add(name)
        try:
            command = Command.read(data)
        except CommandError as error:
            self._tell(commands.REJECTED, {"id": name, "why": str(error)}, state)
            return
        self._answer(commands.DELIVERED, command, state)
        self._pending.append(command)

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

    def _apply_one(self, command: Command, waiting: Iterable[Command], moment: Moment) -> bool:
        """Answer it; False if it has to wait."""
        state, now = moment.state, time.time()
        newer = [c for c in waiting if c.op == "set_lr" and now <= c.expires_at][-1:]
        try:
            if now > command.expires_at:
                self._answer(commands.EXPIRED, command, state)
            elif command.op == "set_lr" and newer[0] is not command:
                self._answer(commands.SUPERSEDED, command, state, by=newer[0].id)
            else:
                done = self._apply(command, moment)
                self._answer(commands.APPLIED, command, state, **done)
        except _NotYet:
            return False
        except _Refused as refused:
            self._answer(commands.REJECTED, command, state, why=str(refused))
        except Exception as error:
            if comes_from_outside(error):
                raise
            why = f"it failed: {one_line(error)}"
            self._answer(commands.REJECTED, command, state, why=why)
        return True

    def _apply(self, command: Command, moment: Moment) -> dict[str, Any]:
        """Do it; what is worth telling of it.

        Raises:
            _Refused: it cannot be done.
            _NotYet: not at this step.
        """
        if self._refusal:
            raise _Refused(self._refusal)
        if command.op == "set_lr":
            return _set_rate(command.args["lr"], moment.given)
        if command.op == "pause":
            if self.is_paused:
                raise _Refused("training is paused already")
            self.is_paused = True
            self._paused_until = time.monotonic() + command.args.get("seconds", _LONGEST_PAUSE)
            # What this step is to do anyway, or was asked for, is done before training is held up.
            for what in ("log", "evaluate", "save"):
                if getattr(moment.control, f"should_{what}"):
                    self._await(what)
        elif command.op == "resume":
            if not self.is_paused:
                raise _Refused("training is not paused")
            self.is_paused = False
        elif command.op == "stop":
            if command.args.get("save", True) and moment.hook != "save":
                self._ask("save", moment)
            moment.control.should_training_stop = True
            self.is_paused = False
        else:
            self._ask(command.op, moment)
        return {}

    def _ask(self, what: str, moment: Moment) -> None:
        """Have the Trainer log, evaluate or save at this step."""
        hook, control = moment.hook, moment.control
        if what not in _STILL[hook]:
            raise _Refused(f"training is paused right after its {hook} of this step; resume first")
        args = moment.args
        if what == "evaluate":
            self._check_evaluation(args)
        is_best_only = _text(args.save_strategy) == "best"
        if what == "save" and is_best_only and (control.should_evaluate or hook == "evaluate"):
            # The Trainer decides anew whether to save once it has evaluated.
            if self.is_paused:
                raise _Refused("this step evaluates and saves only if it is the best; resume first")
            raise _NotYet
        setattr(control, f"should_{what}", True)
        if self.is_paused:
            self._await(what)
        if what == "evaluate" and args.load_best_model_at_end and not is_best_only:
            # It counts as the best one if it is, and then has to be there to be loaded.
            self._ask("save", moment)

    def _check_evaluation(self, args: Any) -> None:
        """
        Raises:
            _Refused: asked for an evaluation the Trainer would raise, and training be over.
        """
        trainer = self._trainer() if self._trainer is not None else None
        if trainer is None:
            raise _Refused("the Trainer was not found, so whether it can evaluate is not known")
        if getattr(trainer, "eval_dataset", None) is None:
            raise _Refused("the Trainer has no evaluation dataset")
        if _text(args.eval_strategy) == "no" and args.metric_for_best_model is not None:
            raise _Refused(
                f"whether an evaluation has the metric {args.metric_for_best_model!r} is not known"
            )

    def _await(self, what: str) -> None:
        trainer = self._trainer() if self._trainer is not None else None
        datasets = getattr(trainer, "eval_dataset", None)
        many = len(datasets) if what == "evaluate" and isinstance(datasets, dict) else 1
        self._awaited[what] = many

    def _is_done(self, what: str) -> bool:
        """Whether the Trainer has just done what it was asked for last."""
        if what not in self._awaited or not _is_training():
            return False
        self._awaited[what] -= 1
        self._awaited = +self._awaited
        return True

    def _answer(self, kind: str, command: Command, state: Any, **more: Any) -> None:
        self._tell(kind, {"id": command.id, "op": command.op, **more}, state)

    def _tell(self, kind: str, data: dict[str, Any], state: Any) -> None:
        self._spool.write(kind, state.global_step, state.epoch, data=data)


class _Nowhere:
    """What is known of a Trainer's state where there is none at hand."""

    def __init__(self, step: int) -> None:
        self.global_step = step
        self.epoch: float | None = None


def _set_rate(rate: float, given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        before = rates.change(given.get("optimizer"), given.get("lr_scheduler"), rate)
    except rates.CannotChange as error:
        raise _Refused(str(error)) from None
    return {"from": before, "to": rate}


def _find_trainer(control: Any) -> weakref.ref[Any] | None:
    """The Trainer further up this thread's stack whose ``control`` this is.

    Callbacks are not given it. Only to be looked for where no batch is under way: older Pythons
    keep what a frame's variables held when they were looked at.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        one = frame.f_locals.get("self")
        if hasattr(one, "callback_handler") and getattr(one, "control", None) is control:
            return weakref.ref(one)
        frame = frame.f_back
    return None


def _is_training() -> bool:
    """Whether a hook was called by training, and not by what the script does after it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "_inner_training_loop":
            return True
        frame = frame.f_back
    return False


def _text(strategy: Any) -> str:
    return str(getattr(strategy, "value", strategy))
