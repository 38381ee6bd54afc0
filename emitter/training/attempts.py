"""The attempts one callback opens, one after another: which run each belongs to, and its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakSet

from lineside.bus.settings import Settings
from lineside.emitter.control.peers import decline
from lineside.emitter.spool.outside import comes_from_outside
from lineside.emitter.training import snapshot
from lineside.emitter.training.agreement import WAIT_FOR_RANK_0, Agreement
from lineside.emitter.training.identity import (
    MARK,
    Identity,
    Place,
    begin,
    new_run_id,
    read_mark,
)
from lineside.emitter.training.notice import say, say_off
from lineside.emitter.training.publisher import Publisher
from lineside.emitter.training.run import Run

_JOIN_EVERY_NS = 1_000_000_000
_JOIN_FOR_NS = 120_000_000_000

_all: WeakSet[Attempts] = WeakSet()


class InitEnd(NamedTuple):
    """The ``init_end`` that came before any run: kept, and published once one opens."""

    step: int
    epoch: float | None
    control: int
    now_ns: int
    wall: float


class _Joining(NamedTuple):
    """A rank that has not heard yet from rank 0 which run this is."""

    agreement: Agreement
    place: Place
    until_ns: int


class Attempts:
    """Opens and ends attempts for one callback.

    ``publisher`` is the open one's, None while nothing is open. ``is_off`` says that the last try
    to open was in vain, ``is_joining`` that it has not succeeded yet. ``wait_for_verdict`` is for
    how many seconds the open one waits at an evaluation for the stopper's word on it.
    """

    def __init__(
        self,
        name: str | None,
        project: str | None,
        run_id: str | None,
        wait_for_verdict: float,
        trial_prefix: str,
    ) -> None:
        self.publisher: Publisher | None = None
        self.wait_for_verdict = wait_for_verdict
        self.is_off = False
        self._name = name
        self._project = project
        self._run_id = run_id
        self._trial_prefix = trial_prefix
        self._trials = 0
        self._base: str | None = None  # the run's id; trials add to it
        self._mark: dict[str, str] | None = None
        self._joining: _Joining | None = None
        self._join_ns = 0
        _all.add(self)

    @property
    def is_joining(self) -> bool:
        return self._joining is not None

    def begin(
        self,
        args: Any,
        state: Any,
        given: Mapping[str, Any],
        init_end: InitEnd | None,
        now_ns: int,
    ) -> None:
        """End the open attempt and begin the next; raises no Exception."""
        before, self.publisher = self.publisher, None
        self._joining, self.is_off = None, True
        try:
            settings = Settings.from_env()
            if settings.disabled:
                say("off, as LINESIDE_DISABLED says")
            elif self._is_second_on(state):
                say("this Trainer has two LinesideCallbacks; the second does nothing")
            else:
                identity = self._identify(settings, args, state, given.get("model"), now_ns)
                if before is not None:
                    is_same = identity is None or identity.run == before.identity.run
                    before.close("restarted" if is_same else "exit")
                if identity is not None:
                    self._start(settings, identity, args, state, given, now_ns)
                    self._publish_init_end(init_end)
                self.is_off = False
        except Exception as error:
            if comes_from_outside(error):
                raise
            say_off(error)
        finally:
            if before is not None:
                before.close("exit")

    def join(self, args: Any, state: Any, now_ns: int, *, at_once: bool = False) -> None:
        """A rank other than 0 asks again, once a second or ``at_once``, which run this is."""
        joining = self._joining
        if joining is None or (now_ns < self._join_ns and not at_once):
            return
        self._join_ns = now_ns + _JOIN_EVERY_NS
        identity = joining.agreement.hear(joining.place, 0)
        if identity is not None:
            self._joining = None
            self._start(Settings.from_env(), identity, args, state, {}, now_ns)
        elif now_ns > joining.until_ns:
            self._joining, self.is_off = None, True
            say(f"rank {joining.place.rank} gave up on rank 0 and publishes nothing")

    def _is_second_on(self, state: Any) -> bool:
        """Whether another callback has put its own mark on this very state."""
        marks = getattr(state, "stateful_callbacks", None)
        mark = marks.get(MARK) if isinstance(marks, dict) else None
        return mark is not None and any(
            other._mark is mark for other in list(_all) if other is not self
        )

    def _identify(
        self, settings: Settings, args: Any, state: Any, model: Any, now_ns: int
    ) -> Identity | None:
        place = _place(args)
        agreement = Agreement(f"trainer-{state.max_steps}-{state.global_step}")
        if place.rank > 0:
            heard = agreement.hear(place, WAIT_FOR_RANK_0)
            if heard is None:
                self._joining = _Joining(agreement, place, now_ns + _JOIN_FOR_NS)
                say(
                    f"rank {place.rank} has not heard from rank 0 which run this is, and publishes "
                    "nothing until it has; has rank 0 the callback too?"
                )
            return heard
        identity = self._decide(settings, place, args, state, model)
        agreement.tell(identity)
        return identity

    def _decide(
        self, settings: Settings, place: Place, args: Any, state: Any, model: Any
    ) -> Identity:
        mark = read_mark(getattr(state, "stateful_callbacks", None))
        given_name = self._name or _user_run_name(args)
        run = settings.run_id or self._run_id or mark.get("run_id") or self._base
        run = run or new_run_id(given_name or _model_name(model))
        name = given_name or mark.get("name")
        if getattr(state, "is_hyper_param_search", False):
            self._base = self._base or run
            trial = f"trial-{self._trial_prefix}{self._trials}"
            self._trials += 1
            name = f"{settings.run_name or name or run} {state.trial_name or trial}"
            settings = replace(settings, run_name=None)
            if "run_id" not in mark:
                run = f"{self._base[:100]}-{trial}"
        else:
            self._base = run
        return begin(
            settings,
            place,
            run=run,
            name=name,
            project=self._project or mark.get("project"),
        )

    def _start(
        self,
        settings: Settings,
        identity: Identity,
        args: Any,
        state: Any,
        given: Mapping[str, Any],
        now_ns: int,
    ) -> None:
        if settings.wait_for_verdict is not None:
            self.wait_for_verdict = settings.wait_for_verdict
        facts = {
            "source": "trainer",
            "wait_for_verdict": self.wait_for_verdict,
        } | snapshot.trainer_facts(args, state, given, is_leading=identity.place.rank == 0)
        try:
            run = Run.open(settings, identity, facts, step=state.global_step, now_ns=now_ns)
        except Exception as error:
            decline(identity, error)
            raise
        self.publisher = run.publisher
        # A plain dict in a plain callback: it rides in trainer_state.json, and whoever resumes
        # without Lineside, or resumes what was written without it, is not disturbed.
        if isinstance(getattr(state, "stateful_callbacks", None), dict):
            self._mark = state.stateful_callbacks[MARK] = identity.mark()

    def _publish_init_end(self, init_end: InitEnd | None) -> None:
        publisher = self.publisher
        if init_end is not None and publisher is not None and publisher.identity.place.rank == 0:
            step, epoch, control, now_ns, wall = init_end
            publisher.emit("init_end", step, epoch, control, None, now_ns, wall)


def _place(args: Any) -> Place:
    try:
        return Place(args.process_index, args.world_size, args.local_process_index)
    except Exception:  # noqa: BLE001 - arguments that are not quite a TrainingArguments
        return Place.from_env()


def _user_run_name(args: Any) -> str | None:
    """``args.run_name`` if the user set it; some versions put the output folder there."""
    name = getattr(args, "run_name", None)
    return name if isinstance(name, str) and name != getattr(args, "output_dir", None) else None


def _model_name(model: Any) -> str:
    config = getattr(model, "config", None)
    for name in (getattr(config, "_name_or_path", None), getattr(config, "model_type", None)):
        if isinstance(name, str) and name.strip("/."):
            return name
    return "" if model is None else type(model).__name__
