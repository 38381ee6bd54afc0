"""The sessions of one callback: a Trainer's attempts, their events and their control.

One callback may be in several Trainers, one after another or at once: the folds of a cross
validation, for example. Each Trainer has runs of its own.
"""

from __future__ import annotations

import weakref
from typing import Any

from lineside.emitter.control.session import ControlSession
from lineside.emitter.training.attempts import AttemptManager, Options
from lineside.emitter.training.hook_events import HookEvents
from lineside.emitter.training.trainer_frames import find_calling_trainer


class TrainerSession:
    """One Trainer that a callback is in. ``state`` and ``control_flags`` are those of its hooks.

    ``trainer`` is None until a hook that may look for it was called.
    """

    def __init__(self, options: Options, trial_prefix: str) -> None:
        self.trainer: weakref.ref[Any] | None = None
        self.state: Any = None
        self.control_flags: Any = None
        self.attempts = AttemptManager(options, trial_prefix)
        self.events = HookEvents(self.attempts)
        self.control = ControlSession()
        self.start_step = 0


class TrainerSessions:
    """Finds the session of the Trainer that calls a hook. A session ends with its Trainer.

    ``trial_prefix`` stands before the number of a hyperparameter trial.
    """

    def __init__(self, options: Options, trial_prefix: str) -> None:
        self._options = options
        self._trial_prefix = trial_prefix
        self._sessions: list[TrainerSession] = []

    def find(self, state: Any, control: Any) -> TrainerSession:
        """The session of the Trainer with this state or this TrainerControl, made if it is new."""
        session = self._by_state(state, control) or self._new()
        session.state, session.control_flags = state, control
        return session

    def find_by_caller(self, callback: object, state: Any, control: Any) -> TrainerSession:
        """The session of the Trainer that calls a hook of ``callback`` with a new state.

        Every training has a new state. Call this only while no batch is processed.
        """
        trainer = find_calling_trainer(callback)
        session = self.of(trainer) if trainer is not None else None
        if session is None:
            session = self._by_state(state, control)
            if session is not None and session.trainer is not None and trainer is not None:
                session = None  # another Trainer's
        if session is None:
            session = self._new()
        if trainer is not None and session.trainer is None:
            session.trainer = session.attempts.trainer = weakref.ref(trainer, self._remove)
        session.state, session.control_flags = state, control
        return session

    def of(self, trainer: Any) -> TrainerSession | None:
        """The session of this Trainer, if it is known."""
        for session in self._sessions:
            if session.trainer is not None and session.trainer() is trainer:
                return session
        return None

    def _by_state(self, state: Any, control: Any) -> TrainerSession | None:
        for session in self._sessions:
            if session.state is state:
                return session
        for session in self._sessions:
            if session.control_flags is control:
                return session
        return None

    def _new(self) -> TrainerSession:
        session = TrainerSession(self._options, self._trial_prefix)
        self._sessions.append(session)
        return session

    def _remove(self, trainer: weakref.ref[Any]) -> None:
        self._sessions = [one for one in self._sessions if one.trainer is not trainer]
